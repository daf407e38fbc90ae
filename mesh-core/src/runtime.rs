//! The threads of the mesh.
//!
//! Decides: whose tokio runtime runs connections, and whether this process is still the one that
//! started it. Never: installs a signal handler, starts a thread before first use, or touches a
//! runtime that was created before a fork.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, ErrorKind};

/// Forks seen by this process, counted in the child.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Called by a binding's `pthread_atfork` child handler (or its language's equivalent). Every mesh
/// that was started before refuses further use in this process with [`ErrorKind::Forked`].
pub fn note_fork_in_child() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

/// Changes in a forked child. Costs one atomic load.
pub fn fork_generation() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Runs once on each thread the mesh starts. Bindings block all signals here, so that a signal meant
/// for the application lands on the application's threads.
pub type OnThreadStart = Arc<dyn Fn() + Send + Sync>;

/// How to obtain a runtime.
#[derive(Clone, Default)]
pub struct RuntimeOptions {
    /// Threads of an owned runtime; 0 means one per core, at most four (the mesh moves bytes, it does not compute).
    pub worker_threads: usize,
    /// Runs on each thread of an owned runtime.
    pub on_thread_start: Option<OnThreadStart>,
    /// Use this runtime instead of owning one.
    pub handle: Option<Handle>,
}

/// A running runtime: the application's, or our own.
pub struct MeshRuntime {
    handle: Handle,
    owned: Option<Runtime>,
    generation: u64,
}

impl MeshRuntime {
    /// The given runtime, else the one this is called from, else a new one.
    pub fn start(options: &RuntimeOptions) -> Result<Self, Error> {
        let generation = fork_generation();
        if let Some(handle) = options.handle.clone().or_else(|| Handle::try_current().ok()) {
            return Ok(Self { handle, owned: None, generation });
        }
        let threads = match options.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_DEFAULT_THREADS),
            threads => threads,
        };
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("mesh").enable_io().enable_time();
        if let Some(hook) = options.on_thread_start.clone() {
            builder.on_thread_start(move || hook());
        }
        let runtime = builder.build().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("cannot start threads: {error}")).with_source(error)
        })?;
        Ok(Self { handle: runtime.handle().clone(), owned: Some(runtime), generation })
    }

    /// The handle, unless the process forked since.
    pub fn handle(&self) -> Result<&Handle, Error> {
        if self.generation == fork_generation() {
            return Ok(&self.handle);
        }
        Err(Error::new(ErrorKind::Forked, "this mesh was started before fork(); open a new one in the child"))
    }

    /// Whether this runtime belongs to a parent process.
    pub fn is_foreign(&self) -> bool {
        self.generation != fork_generation()
    }

    /// Stops an owned runtime; tasks that are still running are dropped after `timeout`.
    pub fn shut_down(mut self, timeout: Duration) {
        let Some(runtime) = self.owned.take() else { return };
        if self.generation != fork_generation() {
            // The threads do not exist in this process: dropping would wait for them for ever.
            std::mem::forget(runtime);
        } else if Handle::try_current().is_ok() {
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(timeout);
        }
    }
}

impl Drop for MeshRuntime {
    fn drop(&mut self) {
        let Some(runtime) = self.owned.take() else { return };
        if self.generation == fork_generation() { runtime.shutdown_background() } else { std::mem::forget(runtime) }
    }
}

const MAX_DEFAULT_THREADS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_runtime_it_owns_one_and_runs_the_hook_on_its_threads() {
        let started = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&started);
        let hook: OnThreadStart = Arc::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let options = RuntimeOptions { worker_threads: 1, on_thread_start: Some(hook), handle: None };
        let runtime = MeshRuntime::start(&options).unwrap();
        assert_eq!(runtime.handle().unwrap().block_on(async { 7 }), 7);
        runtime.shut_down(Duration::from_secs(5));
        assert!(started.load(Ordering::SeqCst) >= 1);
    }

    #[tokio::test]
    async fn inside_a_runtime_it_uses_that_one() {
        let runtime = MeshRuntime::start(&RuntimeOptions::default()).unwrap();
        assert_eq!(runtime.handle().unwrap().id(), Handle::current().id());
    }
}
