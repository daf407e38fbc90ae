//! Where requests wait for a connection, first come, first served.
//!
//! Decides: who is next. Never: loses a wake-up: who is woken and goes away hands it on (tokio's `Notify`), and who
//! takes what was freed wakes the next. Invariant: `alive` counts every connection until its socket is let go.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

#[derive(Debug, Default)]
pub(super) struct Gate {
    freed: Notify,
    alive: AtomicUsize,
    waiting: AtomicUsize,
}

impl Gate {
    /// Something was freed, or changed: the first in the queue looks again.
    pub(super) fn free(&self) {
        self.freed.notify_one();
    }

    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    pub(super) fn opened(&self) {
        self.alive.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn closed(&self) {
        self.alive.fetch_sub(1, Ordering::AcqRel);
        self.free();
    }

    /// Open connections, those in use included.
    pub(super) fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// Requests in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Counts one into the queue until dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }
}

pub(super) struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
