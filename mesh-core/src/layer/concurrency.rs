//! A ceiling on requests in flight, fixed or found by measuring; the lowest classes are shed first.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use super::retry::outcome;
use crate::context::CallContext;
use crate::error::{BoxError, Error, ErrorKind};
use crate::policy::adaptive::AdaptiveConfig;
use crate::policy::concurrency::{ConcurrencyLimit, Terms};
use crate::policy::criticality::{Criticality, Shares};
use crate::telemetry::names::header::CRITICALITY;
use crate::time::{Clock, SystemClock};

/// Refuses what is above the ceiling, at once. All services it makes share one ceiling.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # use mesh_core::{Error, ErrorKind};
/// use mesh_core::layer::ConcurrencyLayer;
/// use tower::Service;
///
/// let busy = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
/// let mut client = ServiceBuilder::new().layer(ConcurrencyLayer::new(1)).service(busy);
/// let _in_flight = client.call(Request::new(Body::empty()));
/// let error = client.oneshot(Request::new(Body::empty())).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::Overloaded));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConcurrencyLayer {
    limit: Arc<ConcurrencyLimit>,
    clock: Arc<dyn Clock>,
}

impl ConcurrencyLayer {
    /// At most `max` requests at once, up to the head of their responses.
    pub fn new(max: u32) -> Self {
        Self::shared(ConcurrencyLimit::new(max))
    }

    /// A limit that is found by measuring, and what each class of requests may use of it.
    pub fn adaptive(config: AdaptiveConfig, shares: Shares) -> Self {
        Self::shared(ConcurrencyLimit::with(Terms { max: u32::MAX, adaptive: Some(config), shares }))
    }

    /// Another source of time than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Under a ceiling that others count against too.
    pub fn shared(limit: Arc<ConcurrencyLimit>) -> Self {
        Self { limit, clock: Arc::new(SystemClock) }
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency { inner, limit: Arc::clone(&self.limit), clock: Arc::clone(&self.clock) }
    }
}

/// A service under a ceiling.
#[derive(Clone)]
pub struct Concurrency<S> {
    inner: S,
    limit: Arc<ConcurrencyLimit>,
    clock: Arc<dyn Clock>,
}

/// What the request says of itself, else what it was caused by.
pub(super) fn class_of(headers: &HeaderMap) -> Criticality {
    let said = headers.get(CRITICALITY).and_then(|value| value.to_str().ok()).and_then(Criticality::named);
    let cause = CallContext::current().and_then(|context| context.criticality);
    Criticality::capped(said, cause, Criticality::CriticalPlus)
}

impl<S, In, B> Service<Request<In>> for Concurrency<S>
where
    S: Service<Request<In>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        match self.limit.admit_class(class_of(request.headers())) {
            Ok(permit) => {
                let (started, clock) = (self.clock.now(), Arc::clone(&self.clock));
                let answering = self.inner.call(request);
                Box::pin(async move {
                    let answer = answering.await.map_err(Into::into);
                    permit.measure(&outcome(&answer), (started, clock.now()));
                    answer
                })
            }
            Err(full) => {
                let error =
                    Error::new(ErrorKind::Overloaded, format!("{} requests are in flight, the limit", full.max));
                Box::pin(std::future::ready(Err(error.into())))
            }
        }
    }
}
