//! Submit, then exactly one completion; one descriptor says when to look.
//!
//! Decides: nothing. Never: runs the host's code on a library thread. Invariants: every op that has a
//! completion completes once, also when it is cancelled, panics, or the mesh closes under it; the
//! descriptor is readable as long as an event waits.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::event::Event;
use crate::failure::Failure;
use crate::signal::{Signal, Woken};

/// The queue behind a `mesh_cq`.
pub struct Queue {
    engine: Arc<Engine>,
    runtime: Handle,
    signal: Signal,
    waiting: Mutex<Waiting>,
    tags: Mutex<HashMap<u64, CancellationToken>>,
    wake: AtomicBool,
    stopped: AtomicBool,
}

/// What nobody took yet.
#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// Nobody will take anything any more.
    is_abandoned: bool,
}

impl Queue {
    /// An empty queue of a mesh, which is started for it.
    pub fn new(engine: Arc<Engine>) -> Result<Arc<Self>, Failure> {
        let runtime = engine.runtime()?;
        Self::on(runtime, engine)
    }

    fn on(runtime: Handle, engine: Arc<Engine>) -> Result<Arc<Self>, Failure> {
        let queue = Arc::new(Self {
            runtime,
            signal: Signal::new()?,
            waiting: Mutex::default(),
            tags: Mutex::default(),
            wake: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            engine,
        });
        queue.engine.adopt(&queue);
        Ok(queue)
    }

    /// The mesh it belongs to.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Where its work runs.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Readable while events wait.
    pub fn fd(&self) -> RawFd {
        self.signal.fd()
    }

    /// Adds an event; the descriptor is touched only when there was none. One that nobody can take is freed:
    /// a request that waits for its answer fails, instead of waiting for as long as its own queue lives.
    pub fn push(&self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.is_abandoned {
            // What the event holds may push as it ends.
            drop(waiting);
            drop(event);
            return;
        }
        if waiting.events.is_empty() {
            self.signal.raise();
        }
        waiting.events.push_back(event);
    }

    /// Takes up to `most` events. Lowers the descriptor if none is left.
    pub fn take(&self, most: usize) -> Vec<Event> {
        let mut waiting = self.waiting();
        let count = most.min(waiting.events.len());
        let mut taken: Vec<Event> = waiting.events.drain(..count).collect();
        if waiting.events.is_empty() {
            // Under the lock: an event pushed after this raises it again.
            self.signal.lower();
        }
        drop(waiting);
        if taken.len() < most && self.wake.swap(false, Ordering::AcqRel) {
            taken.push(Event::Wake);
        }
        if self.wake.load(Ordering::Acquire) || self.is_stopped() {
            self.signal.raise();
        }
        taken
    }

    /// Ends a wait somewhere. Two atomic steps and a `write`: safe in a signal handler.
    pub fn wake(&self) {
        self.wake.store(true, Ordering::Release);
        self.signal.raise();
    }

    /// Ends all waits for good. Events can still be taken.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.signal.raise();
    }

    /// Whether nobody shall wait any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Waits for an event, a wake or the deadline.
    pub fn wait(&self, deadline: Option<Instant>) -> Woken {
        self.signal.wait(deadline)
    }

    /// Begins an operation, unless its tag is taken: then it completes with `busy` at once.
    pub fn begin(self: &Arc<Self>, tag: u64, cancel: CancellationToken, failed: FailedAs) -> Option<Pending> {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.contains_key(&tag) {
            drop(tags);
            self.push(failed(tag, Failure::busy("the tag belongs to an operation in flight")));
            return None;
        }
        tags.insert(tag, cancel);
        Some(Pending { queue: Arc::clone(self), tag, failed, open: true })
    }

    /// Cancels the operation with that tag, if it is in flight.
    pub fn cancel(&self, tag: u64) {
        let token = self.tags.lock().unwrap_or_else(PoisonError::into_inner).get(&tag).cloned();
        if let Some(token) = token {
            token.cancel();
        }
    }

    /// Cancels everything and forgets what was not taken, now and later: the handle is gone.
    pub fn abandon(&self) {
        self.stop();
        let tokens: Vec<_> = self.tags.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        tokens.iter().for_each(CancellationToken::cancel);
        let forgotten = std::mem::replace(&mut *self.waiting(), Waiting { is_abandoned: true, ..Waiting::default() });
        drop(forgotten);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an operation of some kind tells that it failed.
pub type FailedAs = fn(u64, Failure) -> Event;

/// An operation in flight. Dropped before it completed, it completes with `closed`.
pub struct Pending {
    queue: Arc<Queue>,
    tag: u64,
    failed: FailedAs,
    open: bool,
}

impl Pending {
    /// Completes it.
    pub fn complete(mut self, event: Event) {
        self.finish(event);
    }

    /// Completes it with a failure.
    pub fn fail(mut self, failure: Failure) {
        let event = (self.failed)(self.tag, failure);
        self.finish(event);
    }

    /// The caller's number for it.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    fn finish(&mut self, event: Event) {
        self.open = false;
        // First the tag, then the event: who receives the event may use the tag again.
        self.queue.tags.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.tag);
        self.queue.push(event);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.open {
            let event = (self.failed)(self.tag, Failure::closed());
            self.finish(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh_core::Mesh;

    use super::*;

    #[test]
    fn a_queue_in_the_making_while_the_mesh_closes_is_stopped() {
        let mesh = Mesh::from_yaml("version: 1\nnode: { service: test }\n", "test").unwrap();
        let engine = Arc::new(Engine::new(mesh, false));
        let runtime = engine.runtime().unwrap();
        engine.close(Duration::ZERO).unwrap();
        assert!(Queue::on(runtime, engine).unwrap().is_stopped());
    }
}
