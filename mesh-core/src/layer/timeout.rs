//! A bound on each request, never longer than the deadline it inherits.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use crate::context::CallContext;
use crate::error::{BoxError, Error, ErrorKind, Sent};
use crate::policy::timeout::{Limits, earlier};
use crate::time::{Clock, SystemClock};

/// Bounds requests, up to the head of the response.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # use mesh_core::{Error, ErrorKind};
/// use mesh_core::layer::TimeoutLayer;
///
/// let hangs = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
/// let client = ServiceBuilder::new().layer(TimeoutLayer::new(std::time::Duration::from_millis(5))).service(hangs);
/// let error = client.oneshot(Request::new(Body::empty())).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::Timeout));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TimeoutLayer {
    limit: Option<Duration>,
    kind: ErrorKind,
    clock: Arc<dyn Clock>,
}

impl TimeoutLayer {
    /// Bounds a whole request: below, an inherited deadline counts too. Fails with [`ErrorKind::Timeout`].
    pub fn new(limit: impl Into<Option<Duration>>) -> Self {
        Self { limit: limit.into(), kind: ErrorKind::Timeout, clock: Arc::new(SystemClock) }
    }

    /// Bounds one attempt; put it below a retry. Fails with [`ErrorKind::AttemptTimeout`].
    pub fn per_attempt(limit: impl Into<Option<Duration>>) -> Self {
        Self { kind: ErrorKind::AttemptTimeout, ..Self::new(limit) }
    }

    /// Uses this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, terms: self.clone() }
    }
}

/// A service with a bound.
#[derive(Clone)]
pub struct Timeout<S> {
    inner: S,
    terms: TimeoutLayer,
}

impl<S, In, B> Service<Request<In>> for Timeout<S>
where
    S: Service<Request<In>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let (clock, kind) = (Arc::clone(&self.terms.clock), self.terms.kind);
        let own = Limits { route: self.terms.limit, ..Limits::default() }.deadline(clock.now());
        let inherited = CallContext::current().and_then(|context| context.deadline);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let Some(deadline) = earlier(own, inherited) else { return answering.await.map_err(Into::into) };
            // Both may end at the same instant, an attempt cut by this very deadline: then it is this bound's.
            tokio::select! {
                biased;
                () = clock.sleep_until(deadline) => Err(Error::new(kind, "no answer in time").with_sent(Sent::Maybe).into()),
                answer = answering => answer.map_err(Into::into),
            }
        })
    }
}
