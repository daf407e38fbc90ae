//! What every handle of one mesh shares.
//!
//! Decides: nothing about traffic; only whether this process may still use the mesh. Invariant: the
//! fork check comes before any lock, because a lock may have been held by a thread the child lacks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use mesh_core::runtime::fork_generation;
use mesh_core::{Mesh, ServiceClient};

use crate::failure::Failure;
use crate::queue::Queue;

/// The mesh behind a handle.
pub struct Engine {
    mesh: Mesh,
    client: ServiceClient,
    interruptible: bool,
    closed: AtomicBool,
    /// The fork generation it was first used in; `NOT_STARTED` before.
    born: AtomicU64,
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Engine {
    /// A mesh that is not started.
    pub fn new(mesh: Mesh, interruptible: bool) -> Self {
        Self {
            client: mesh.client(),
            mesh,
            interruptible,
            closed: AtomicBool::new(false),
            born: AtomicU64::new(NOT_STARTED),
            queues: Mutex::default(),
        }
    }

    /// Whether a signal ends a blocking call.
    pub fn wait_interruptible(&self) -> bool {
        self.interruptible
    }

    /// Whether it was started or used by a parent of this process.
    pub fn is_foreign(&self) -> bool {
        let born = self.born.load(Ordering::Acquire);
        born != NOT_STARTED && born != fork_generation()
    }

    /// Refuses use in a forked child.
    pub fn check_fork(&self) -> Result<(), Failure> {
        if self.is_foreign() { Err(Failure::forked()) } else { Ok(()) }
    }

    /// From now on the state behind handles may be in use by some thread of this process: a child must not touch it.
    pub fn begin_use(&self) -> Result<(), Failure> {
        self.check_fork()?;
        self.born.store(fork_generation(), Ordering::Release);
        Ok(())
    }

    /// The mesh, for calls that need no thread.
    pub fn mesh(&self) -> Result<&Mesh, Failure> {
        self.check_fork()?;
        Ok(&self.mesh)
    }

    /// The client side.
    pub fn client(&self) -> &ServiceClient {
        &self.client
    }

    /// The running threads; starts them on first use.
    pub fn runtime(&self) -> Result<Handle, Failure> {
        self.check_fork()?;
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::closed());
        }
        let handle = self.mesh.runtime()?;
        self.born.store(fork_generation(), Ordering::Release);
        Ok(handle)
    }

    /// The threads, if they run: what a value needs around it to be dropped on a foreign thread.
    pub fn running(&self) -> Option<Handle> {
        (self.born.load(Ordering::Acquire) != NOT_STARTED).then(|| self.runtime().ok()).flatten()
    }

    /// Remembers a queue, to be stopped by `close`. One that was in the making when `close` looked is stopped here.
    pub fn adopt(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a `close` that is not seen here comes to it later, and meets the queue.
        if self.closed.load(Ordering::Acquire) {
            return queue.stop();
        }
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }

    /// Ends everything. Work in flight completes with `closed`.
    pub fn close(&self, timeout: Duration) -> Result<(), Failure> {
        self.check_fork()?;
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.mesh.close(timeout);
        for queue in self.queues.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(queue) = queue.upgrade() {
                queue.stop();
            }
        }
        Ok(())
    }
}

const NOT_STARTED: u64 = u64::MAX;
