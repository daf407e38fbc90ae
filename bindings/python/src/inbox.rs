//! Where inbound requests wait for Python.
//!
//! Decides: how many may wait; one more is refused with 503 at once. Never: runs Python on the mesh's
//! threads. Invariant: a request that nobody answers is answered 500 when its exchange is dropped.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, ErrorKind};
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tower_service::Service;

use crate::exchange::{Exchange, exchange, refusal};
use crate::fork::Owned;
use crate::wake::Wake;

/// Requests that wait. Either threads block on it, or an event loop watches its descriptor.
#[pyclass(frozen, module = "mesh._native")]
pub struct Inbox {
    shared: Owned<Arc<Waiting>>,
}

/// The half of an inbox that the mesh's threads see.
pub struct Waiting {
    state: Mutex<State>,
    arrived: Condvar,
    wake: Wake,
    capacity: usize,
    in_flight: AtomicUsize,
}

#[derive(Default)]
struct State {
    exchanges: VecDeque<Exchange>,
    blocked: usize,
    is_signalled: bool,
    is_closed: bool,
}

/// Keeps a request counted until its response has ended.
pub struct InFlight(Arc<Waiting>);

#[pymethods]
impl Inbox {
    #[new]
    fn new(capacity: usize) -> PyResult<Self> {
        let waiting = Waiting {
            state: Mutex::default(),
            arrived: Condvar::new(),
            wake: Wake::new()?,
            capacity: capacity.max(1),
            in_flight: AtomicUsize::new(0),
        };
        Ok(Self { shared: Owned::new(Arc::new(waiting)) })
    }

    /// The descriptor that is readable while requests wait.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.waiting(py)?.wake.fd())
    }

    /// Everything that waits.
    fn drain(&self, py: Python<'_>) -> PyResult<Vec<Exchange>> {
        let waiting = self.waiting(py)?;
        let mut state = waiting.state();
        if state.is_signalled {
            state.is_signalled = false;
            waiting.wake.clear();
        }
        let arrived = std::mem::take(&mut state.exchanges);
        drop(state);
        Ok(arrived.into_iter().filter_map(Exchange::still_wanted).collect())
    }

    /// Blocks for the next request; None once the inbox is closed.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Exchange>> {
        let waiting = Arc::clone(self.waiting(py)?);
        Ok(py.detach(move || waiting.take()))
    }

    /// No request comes any more; what waits is refused.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let waiting = self.waiting(py)?;
        let refused = {
            let mut state = waiting.state();
            state.is_closed = true;
            std::mem::take(&mut state.exchanges)
        };
        waiting.arrived.notify_all();
        drop(refused);
        Ok(())
    }

    /// Requests that arrived and whose response has not ended.
    #[getter]
    fn in_flight(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.waiting(py)?.in_flight.load(Ordering::Acquire))
    }
}

impl Inbox {
    /// The shared half, unless the process forked.
    pub fn waiting(&self, py: Python<'_>) -> PyResult<&Arc<Waiting>> {
        self.shared.require(py)
    }
}

impl Waiting {
    fn take(&self) -> Option<Exchange> {
        let mut state = self.state();
        loop {
            match state.exchanges.pop_front() {
                Some(exchange) => {
                    if let Some(wanted) = exchange.still_wanted() {
                        return Some(wanted);
                    }
                    continue;
                }
                None if state.is_closed => return None,
                None => {}
            }
            state.blocked += 1;
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
    }

    /// Queues a request, or gives it back when there is no room.
    fn put(&self, exchange: Exchange) -> Option<Exchange> {
        let mut state = self.state();
        if state.is_closed || state.exchanges.len() >= self.capacity {
            return Some(exchange);
        }
        state.exchanges.push_back(exchange);
        if state.blocked > 0 {
            self.arrived.notify_one();
        } else if !state.is_signalled {
            state.is_signalled = true;
            self.wake.signal();
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    fn new(waiting: &Arc<Waiting>) -> Self {
        waiting.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(waiting))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The service behind the mesh's listener: hands each request to the inbox.
#[derive(Clone)]
pub struct Intake {
    /// Where requests go.
    pub waiting: Arc<Waiting>,
    /// The runtime that carries their bodies.
    pub runtime: Handle,
}

impl Service<Request<Body>> for Intake {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (exchange, answer) = exchange(request, self.runtime.clone(), InFlight::new(&self.waiting));
        let is_queued = self.waiting.put(exchange).is_none();
        Box::pin(async move { if is_queued { Ok(answer.wait().await) } else { Ok(refusal(ErrorKind::Overloaded)) } })
    }
}
