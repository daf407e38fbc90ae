//! An error breaker around one service.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use super::retry::outcome;
use crate::error::{BoxError, Error, ErrorKind, Place};
use crate::policy::circuit_breaker::{BreakerConfig, CircuitBreaker as Engine};
use crate::policy::verdict::Verdict;
use crate::time::{Clock, Randomness, SystemClock};

/// Refuses requests while the service is broken. Each service it makes has a breaker of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # use mesh_core::{Error, ErrorKind};
/// use mesh_core::layer::CircuitBreakerLayer;
///
/// let down = service_fn(|_: Request<Body>| async {
///     Ok::<_, BoxError>(Response::builder().status(503).body(Body::empty())?)
/// });
/// let client = ServiceBuilder::new().layer(CircuitBreakerLayer::default()).service(down);
/// for _ in 0..5 {
///     assert_eq!(client.clone().oneshot(Request::new(Body::empty())).await?.status(), 503);
/// }
/// let error = client.oneshot(Request::new(Body::empty())).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::CircuitOpen));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CircuitBreakerLayer {
    config: BreakerConfig,
    clock: Arc<dyn Clock>,
}

impl CircuitBreakerLayer {
    /// With these trips.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, clock: Arc::new(SystemClock) }
    }

    /// Uses this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::new(BreakerConfig::default())
    }
}

impl<S> Layer<S> for CircuitBreakerLayer {
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> CircuitBreaker<S> {
        CircuitBreaker::around(inner, Engine::new(self.config, self.clock.now()), Arc::clone(&self.clock))
    }
}

/// A service behind a breaker. The door is asked before the request is handed on, so an inner service
/// that is not ready cannot hide that it is broken.
#[derive(Clone)]
pub struct CircuitBreaker<S> {
    inner: S,
    breaker: Arc<Engine>,
    clock: Arc<dyn Clock>,
    randomness: Arc<Randomness>,
}

impl<S> CircuitBreaker<S> {
    /// Behind a breaker that exists already.
    pub fn around(inner: S, breaker: Arc<Engine>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, breaker, clock, randomness: Arc::new(Randomness::from_entropy()) }
    }
}

impl<S, In, B> Service<Request<In>> for CircuitBreaker<S>
where
    S: Service<Request<In>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    In: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let permit = match self.breaker.admit(self.clock.now()) {
            Ok(permit) => permit,
            Err(refused) => {
                let place = Place { retry_after: refused.retry_after, ..Place::default() };
                let error = Error::new(ErrorKind::CircuitOpen, "the circuit breaker is open").with_place(place);
                return Box::pin(std::future::ready(Err(error.into())));
            }
        };
        let (mut inner, clock, randomness) =
            (self.inner.clone(), Arc::clone(&self.clock), Arc::clone(&self.randomness));
        Box::pin(async move {
            let answer = ready_call(&mut inner, request).await;
            let verdict = Verdict::of(&outcome(&answer));
            permit.record(verdict.into(), clock.now(), &mut randomness.generator());
            answer
        })
    }
}

/// Waits for `service` and calls it.
pub(super) async fn ready_call<S, In, B>(service: &mut S, request: Request<In>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<In>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    service.call(request).await.map_err(Into::into)
}
