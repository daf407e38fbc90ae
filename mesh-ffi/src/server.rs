//! From the engine's inbound story to a queue of the host.
//!
//! Decides: only that a queue nobody empties takes no more than its limit. Never: calls the host; it
//! waits for the host to take the request and answer. Invariant: each request that was taken ends with
//! exactly one of: an answer, a 500 for a freed handle, or a `gone` event.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;

use mesh_core::error::{BoxError, Side};
use mesh_core::{Body, Error, ErrorKind};

use crate::event::{Event, Handler};
use crate::inbound::mesh_inbound;
use crate::queue::Queue;

/// Where the requests of one listener go.
pub struct Inlet {
    /// The listener's tag on its events.
    pub tag: u64,
    /// Runs on the thread that takes the event; without one the event is delivered.
    pub handler: Option<Handler>,
    /// Requests that may wait to be taken.
    pub max_pending: usize,
    /// Requests that wait now.
    pub pending: AtomicUsize,
}

/// The service a listener runs.
#[derive(Clone)]
pub struct QueueService {
    queue: Arc<Queue>,
    inlet: Arc<Inlet>,
}

impl QueueService {
    /// Requests of a listener go to `queue`.
    pub fn new(queue: Arc<Queue>, inlet: Inlet) -> Self {
        Self { queue, inlet: Arc::new(inlet) }
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        if self.queue.is_stopped() {
            return refused(ErrorKind::Draining);
        }
        let Some(place) = Place::take(&self.inlet) else { return refused(ErrorKind::Overloaded) };
        let engine = Arc::clone(self.queue.engine());
        let (inbound, receipt) =
            mesh_inbound::new(engine, request).ok_or_else(|| failed("the request has no context"))?;
        let (queue, tag, id) = (Arc::clone(&self.queue), self.inlet.tag, inbound.id());
        let mut watch = Watch { queue, tag, id, cancel: receipt.cancel, armed: true };
        let handler = self.inlet.handler;
        watch.armed = handler.is_none();
        self.queue.push(Event::Inbound { tag: self.inlet.tag, inbound: Box::new(inbound), handler, place });
        let answer = receipt.answer.await;
        watch.finished();
        answer.map_err(|_| failed("the request was freed without an answer"))
    }
}

impl tower_service::Service<Request<Body>> for QueueService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().serve(request))
    }
}

/// A place among the requests that wait to be taken; given back when the event is.
pub struct Place(Arc<Inlet>);

impl Place {
    fn take(inlet: &Arc<Inlet>) -> Option<Self> {
        let before = inlet.pending.fetch_add(1, Ordering::AcqRel);
        let place = Self(Arc::clone(inlet));
        (before < inlet.max_pending).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Notices that the peer went away before the answer.
struct Watch {
    queue: Arc<Queue>,
    tag: u64,
    id: u64,
    cancel: CancellationToken,
    armed: bool,
}

impl Watch {
    fn finished(mut self) {
        self.armed = false;
        // The answer is under way; the request's body may still be read while it streams.
        self.cancel = CancellationToken::new();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cancel.cancel();
        if self.armed {
            self.queue.push(Event::Gone { tag: self.tag, id: self.id });
        }
    }
}

/// Nobody on this side will take the request: the status of that kind, and nothing more.
fn refused(kind: ErrorKind) -> Result<Response<Body>, BoxError> {
    Ok(Response::builder().status(kind.status().http).body(Body::empty())?)
}

/// The engine logs it and answers 500.
fn failed(message: &str) -> BoxError {
    Error::new(ErrorKind::Internal, message).with_side(Side::Inbound).into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use mesh_core::telemetry::trace::TraceContext;
    use mesh_core::{CallContext, Mesh};

    use super::*;
    use crate::engine::Engine;

    #[test]
    fn a_request_that_comes_to_a_queue_that_was_freed_fails_at_once() {
        let mesh = Mesh::from_yaml("version: 1\nnode: { service: test }\n", "test").unwrap();
        let queue = Queue::new(Arc::new(Engine::new(mesh, false))).unwrap();
        let inlet = Arc::new(Inlet { tag: 0, handler: None, max_pending: 1, pending: AtomicUsize::new(0) });
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
        let trace = TraceContext::from_headers(request.headers()).unwrap();
        request.extensions_mut().insert(Arc::new(CallContext::new(trace)));
        let (inbound, mut receipt) = mesh_inbound::new(Arc::clone(queue.engine()), request).unwrap();
        let (inbound, place) = (Box::new(inbound), Place::take(&inlet).unwrap());
        queue.abandon();
        queue.push(Event::Inbound { tag: 0, inbound, handler: None, place });
        assert_eq!(receipt.answer.try_recv().unwrap_err(), TryRecvError::Closed);
        assert_eq!(inlet.pending.load(Ordering::Acquire), 0);
    }

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
}
