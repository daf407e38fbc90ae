//! One operation in flight.
//!
//! Decides: whether an answer is there at once: each operation is polled once on the caller's thread, so a
//! refused call or a buffered chunk costs no thread hop. Never: runs Python code on the mesh's threads.
//! Invariant: a panic in an operation is an `internal` error, not the end of the process.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::task::noop_waker_ref;
use mesh_core::{Error, ErrorKind, Sent};
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::fork::Owned;
use crate::outcome::Outcome;
use crate::queue::{Completions, Queue, signal_slice};

/// An operation that was submitted. Its completion arrives on the queue it was submitted to.
#[pyclass(frozen, module = "mesh._native")]
pub struct Op {
    /// Identifies the completion; 0 when the outcome was there at once.
    #[pyo3(get)]
    token: u64,
    ready: Owned<Mutex<Option<Outcome>>>,
    running: Option<Owned<Running>>,
}

struct Running {
    completions: Arc<Completions>,
    token: u64,
    task: AbortHandle,
}

impl Drop for Running {
    /// The operation goes on; its outcome interests nobody, and must not stay in the queue.
    fn drop(&mut self) {
        self.completions.forget(self.token);
    }
}

/// Starts `work`, whose outcome goes to `queue` unless it is ready at once.
pub fn submit(
    py: Python<'_>,
    runtime: &Handle,
    queue: &Queue,
    work: impl Future<Output = Outcome> + Send + 'static,
) -> PyResult<Op> {
    let completions = Arc::clone(queue.completions(py)?);
    let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind().map(|result| result.unwrap_or_else(|_| panicked())));
    let polled = {
        let _entered = runtime.enter();
        work.as_mut().poll(&mut Context::from_waker(noop_waker_ref()))
    };
    if let Poll::Ready(outcome) = polled {
        return Ok(Op { token: 0, ready: Owned::new(Mutex::new(Some(outcome))), running: None });
    }
    let token = completions.expect();
    let promise = Promise { completions: Arc::clone(&completions), token, is_kept: false };
    let task = runtime.spawn(async move {
        let outcome = work.await;
        promise.keep(outcome);
    });
    let running = Running { completions, token, task: task.abort_handle() };
    Ok(Op { token, ready: Owned::new(Mutex::new(None)), running: Some(Owned::new(running)) })
}

#[pymethods]
impl Op {
    /// Whether `result` has the outcome and no completion will come.
    #[getter]
    fn done(&self) -> bool {
        self.running.is_none()
    }

    /// The outcome of an operation that was done at once: returned, or raised.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ready = self.ready.require(py)?;
        let outcome = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let missing =
            || Outcome::Failed(Error::new(ErrorKind::Internal, "the result was taken already, or is not there yet"));
        outcome.unwrap_or_else(missing).into_python(py)
    }

    /// Blocks for the outcome, with the GIL released. Ctrl-C cancels the operation and raises.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(running) = &self.running else { return self.result(py) };
        let running = running.require(py)?;
        loop {
            let slice = signal_slice();
            match py.detach(|| running.completions.wait_for(self.token, slice)) {
                Ok(outcome) => return outcome.into_python(py),
                Err(_) => py.check_signals().inspect_err(|_| self.cancel())?,
            }
        }
    }

    /// Ends the operation; its completion, if any, is dropped.
    fn cancel(&self) {
        if let Some(running) = self.running.as_ref().and_then(Owned::get) {
            running.task.abort();
            running.completions.forget(self.token);
        }
    }
}

/// Completes also when the mesh is closed under the operation: a waiter is never left behind.
struct Promise {
    completions: Arc<Completions>,
    token: u64,
    is_kept: bool,
}

impl Promise {
    fn keep(mut self, outcome: Outcome) {
        self.is_kept = true;
        self.completions.push(self.token, outcome);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.is_kept {
            let closed = Error::new(ErrorKind::Closed, "the mesh was closed while this was in flight");
            self.completions.push(self.token, Outcome::Failed(closed.with_sent(Sent::Maybe)));
        }
    }
}

fn panicked() -> Outcome {
    Outcome::Failed(Error::new(ErrorKind::Internal, "a panic was caught; this is a defect of the library"))
}
