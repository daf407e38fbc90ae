//! Values that must not outlive a fork.
//!
//! Decides: whether this process may still touch a native value. Never: drops one that belongs to the
//! parent: its locks may be held by threads that do not exist here, and its sockets are shared.
//! Invariant: in a forked child every value made before the fork is refused and leaked.

use mesh_core::runtime::{fork_generation, note_fork_in_child};
use mesh_core::{Error, ErrorKind};
use pyo3::prelude::*;

use crate::errors::to_python;
use crate::leaving::begin_anew;

/// A value of the process that made it.
pub struct Owned<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Owned<T> {
    /// Ties `value` to this process.
    pub fn new(value: T) -> Self {
        Self { value: Some(value), generation: fork_generation() }
    }

    /// The value, unless the process forked since it was made.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.generation == fork_generation())
    }

    /// The value, or `mesh.ForkedError`.
    pub fn require(&self, py: Python<'_>) -> PyResult<&T> {
        self.get().ok_or_else(|| to_python(py, &Error::new(ErrorKind::Forked, FORKED)))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            std::mem::forget(self.value.take());
        }
    }
}

/// Counts forks, also those that Python does not make itself. Called once, at import.
#[allow(unsafe_code)]
pub fn watch() {
    extern "C" fn in_child() {
        note_fork_in_child();
        begin_anew();
    }
    // SAFETY: the handler only writes atomics, which is allowed between fork and exec.
    unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    }
}

const FORKED: &str = "this object was made before fork(); make a new one in the child";
