//! Trace context on outgoing requests.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::CallContext;
use crate::telemetry::TraceContext;
use crate::time::Randomness;

/// Continues the trace of the request being served, else that of the headers, else begins one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use mesh_core::layer::TraceLayer;
///
/// let told = service_fn(|request: Request<Body>| async move {
///     Ok::<_, BoxError>(request.headers().get("traceparent").cloned())
/// });
/// let client = ServiceBuilder::new().layer(TraceLayer::new(100.0)).service(told);
/// let mut request = Request::new(Body::empty());
/// let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// request.headers_mut().insert("traceparent", traceparent.parse()?);
/// let told = client.oneshot(request).await?.ok_or("a trace context")?;
/// assert_eq!(told.to_str()?[..35], traceparent[..35], "the same trace");
/// assert_ne!(told, traceparent, "another span");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TraceLayer {
    sample_percent: f64,
    randomness: Arc<Randomness>,
}

impl TraceLayer {
    /// Samples this share of the traces it begins, in percent.
    pub fn new(sample_percent: f64) -> Self {
        Self { sample_percent, randomness: Arc::new(Randomness::from_entropy()) }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, terms: self.clone() }
    }
}

/// A service whose requests carry a trace.
#[derive(Clone)]
pub struct Trace<S> {
    inner: S,
    terms: TraceLayer,
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let mut rng = self.terms.randomness.generator();
        let trace = match CallContext::current() {
            Some(context) => context.trace.child(&mut rng),
            None => TraceContext::join(request.headers(), &mut rng, self.terms.sample_percent),
        };
        trace.inject(request.headers_mut());
        self.inner.call(request)
    }
}
