//! Blocking: submit the work to the mesh's threads and wait here.
//!
//! Decides: nothing. Never: does socket I/O on the caller's thread. A signal that arrives while waiting
//! is either waited through or, with `MESH_WAIT_INTR`, cancels the work and is told to the caller, unless
//! the work was done by then.
//! Invariant: each wait ends with exactly one result, also when the mesh closes or the work panics.

use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;

use mesh_core::runtime::fork_generation;

use crate::code::MESH_E_CLOSED;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::panic::what_it_said;
use crate::signal::{Signal, Woken};

/// Runs `work` on the mesh's threads and waits for its result.
pub fn block_on<T, F>(engine: &Engine, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let runtime = engine.runtime()?;
    let signal = thread_signal()?;
    let slot = Arc::new(Slot { result: Mutex::new(None), signal: Arc::clone(&signal) });
    let promise = Promise(Some(Arc::clone(&slot)));
    let task = runtime.spawn(async move { promise.keep(caught(work).await) });
    let is_interrupted = || match signal.wait(None) {
        Woken::Raised => {
            signal.lower();
            false
        }
        Woken::Interrupted => engine.wait_interruptible(),
        Woken::TimedOut => false,
    };
    slot.settle(is_interrupted, || task.abort())
}

/// A panic of `work` as a failure.
pub async fn caught<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|payload| {
        Err(Failure::internal(format!("a task panicked: {}", what_it_said(payload.as_ref()))))
    })
}

struct Slot<T> {
    result: Mutex<Option<Result<T, Failure>>>,
    signal: Arc<Signal>,
}

impl<T> Slot<T> {
    /// The result, once it is there. Work that is interrupted is aborted, and waited for all the same: what it
    /// did in that very moment (took a chunk of a body, say) would be lost to who asks again.
    fn settle(&self, mut is_interrupted: impl FnMut() -> bool, abort: impl Fn()) -> Result<T, Failure> {
        let mut is_aborted = false;
        loop {
            match self.take() {
                Some(Err(failure)) if is_aborted && failure.code == MESH_E_CLOSED => return Err(Failure::interrupted()),
                Some(result) => return result,
                None if is_interrupted() => {
                    abort();
                    is_aborted = true;
                }
                None => {}
            }
        }
    }

    fn take(&self) -> Option<Result<T, Failure>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fill(&self, result: Result<T, Failure>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.signal.raise();
    }
}

/// Fills the slot once; a task that is dropped by a closing mesh fills it with `closed`.
struct Promise<T>(Option<Arc<Slot<T>>>);

impl<T> Promise<T> {
    fn keep(mut self, result: Result<T, Failure>) {
        if let Some(slot) = self.0.take() {
            slot.fill(result);
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.fill(Err(Failure::closed()));
        }
    }
}

/// One signal a thread, made on first use. A forked child makes its own: the parent's is shared with
/// the parent, who would take our wake-ups.
fn thread_signal() -> Result<Arc<Signal>, Failure> {
    thread_local! {
        static SIGNAL: RefCell<Option<(u64, Arc<Signal>)>> = const { RefCell::new(None) };
    }
    SIGNAL.with_borrow_mut(|kept| {
        let generation = fork_generation();
        if let Some((_, signal)) = kept.as_ref().filter(|(made_in, _)| *made_in == generation) {
            return Ok(Arc::clone(signal));
        }
        let signal = Arc::new(Signal::new()?);
        *kept = Some((generation, Arc::clone(&signal)));
        Ok(signal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::MESH_E_INTERRUPTED;

    fn slot() -> Arc<Slot<u8>> {
        Arc::new(Slot { result: Mutex::new(None), signal: Arc::new(Signal::new().unwrap()) })
    }

    #[test]
    fn a_result_that_comes_as_the_wait_is_interrupted_is_told() {
        let slot = slot();
        let mut promise = Some(Promise(Some(Arc::clone(&slot))));
        let interrupted = || {
            promise.take().unwrap().keep(Ok(7));
            true
        };
        assert_eq!(slot.settle(interrupted, || ()).unwrap(), 7);
    }

    #[test]
    fn work_that_is_aborted_before_its_end_is_told_as_interrupted() {
        let slot = slot();
        let promise = Mutex::new(Some(Promise(Some(Arc::clone(&slot)))));
        let failure = slot.settle(|| true, || drop(promise.lock().unwrap().take())).unwrap_err();
        assert_eq!(failure.code, MESH_E_INTERRUPTED);
    }
}
