//! A gate before a service: what there is no room for waits a little, the lowest classes are shed first.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use super::concurrency::class_of;
use crate::context::CallContext;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::inbound::gate::Gate;
use crate::policy::concurrency::Terms;
use crate::policy::waiting::Arrival;
use crate::snapshot::Intake;
use crate::time::{Clock, SystemClock};

/// Lets in what there is room for; the rest waits for a place, by class, never beyond its deadline. All
/// services it makes share one gate. Refusals are [`ErrorKind::Overloaded`] errors.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # use mesh_core::{Error, ErrorKind};
/// use std::time::Duration;
///
/// use mesh_core::layer::ShedLayer;
/// use mesh_core::policy::concurrency::Terms;
/// use mesh_core::policy::criticality::Shares;
///
/// let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
/// let gate = |max| {
///     let limit = Terms { max, adaptive: None, shares: Shares::default() };
///     ServiceBuilder::new().layer(ShedLayer::new(limit, 10, Duration::from_millis(5))).service(hello)
/// };
/// assert_eq!(gate(1).oneshot(Request::new(Body::empty())).await?.status(), 200);
/// // Waits for a place, in vain.
/// let error = gate(0).oneshot(Request::new(Body::empty())).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::Overloaded));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ShedLayer {
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
}

impl ShedLayer {
    /// Under `limit`, with room for `waiting` requests that wait at most `max_wait`.
    pub fn new(limit: Terms, waiting: usize, max_wait: Duration) -> Self {
        Self::with_clock(limit, (waiting, max_wait), Arc::new(SystemClock))
    }

    /// The same with another source of time than the system's.
    pub fn with_clock(limit: Terms, (waiting, max_wait): (usize, Duration), clock: Arc<dyn Clock>) -> Self {
        let gate = Gate::new(Arc::clone(&clock));
        gate.retune(Some(Intake { limit, waiting, max_wait }));
        Self { gate: Arc::new(gate), clock }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed { inner, layer: self.clone() }
    }
}

/// A service behind a gate.
#[derive(Clone)]
pub struct Shed<S> {
    inner: S,
    layer: ShedLayer,
}

impl<S, In, B> Service<Request<In>> for Shed<S>
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        // The service that was polled ready is the one that must be called.
        let waiting = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, waiting);
        let ShedLayer { gate, clock } = self.layer.clone();
        let deadline = CallContext::current().and_then(|context| context.deadline);
        let arrival = Arrival { class: class_of(request.headers()), deadline };
        Box::pin(async move {
            let inside = gate.enter(arrival).await.map_err(|away| {
                let message = format!("{}: none of {} places is free", arrival.class, away.limit);
                Error::new(ErrorKind::Overloaded, message).with_side(Side::Inbound)
            })?;
            let started = clock.now();
            let answer = ready.call(request).await.map_err(Into::into);
            if let (Some(inside), Ok(response)) = (&inside, &answer)
                && !response.status().is_server_error()
            {
                inside.answered(started, clock.now());
            }
            answer
        })
    }
}
