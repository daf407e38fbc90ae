//! The end of the process, for threads that may still be inside.
//!
//! Decides: whether a thread may run Python code below Rust's. Before Python 3.14 an interpreter that ends makes its
//! daemon threads end by unwinding their stacks as soon as they run, and Rust's frames must not be unwound so.
//! Invariant: once `leave` returned, no thread but the main one is in such a place, and none gets there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::signal::is_main_thread;

/// Held while Rust calls Python.
pub struct Inside;

impl Inside {
    /// On a daemon thread of a process that ends, never returns: the thread ends with the process.
    pub fn enter(py: Python<'_>) -> Self {
        CALLING.fetch_add(1, Ordering::SeqCst);
        let inside = Self;
        if !LEAVING.load(Ordering::SeqCst) || is_main_thread() {
            return inside;
        }
        drop(inside);
        py.detach(|| {
            loop {
                std::thread::park();
            }
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        CALLING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Called when the interpreter begins to end; threads that are not daemons have ended already.
#[pyfunction]
pub fn leave(py: Python<'_>) {
    LEAVING.store(true, Ordering::SeqCst);
    let ends = Instant::now() + PATIENCE;
    while CALLING.load(Ordering::SeqCst) > 0 && Instant::now() < ends {
        py.detach(|| std::thread::sleep(STEP));
    }
}

/// A forked child begins anew: the threads that were inside are the parent's.
pub fn begin_anew() {
    LEAVING.store(false, Ordering::SeqCst);
    CALLING.store(0, Ordering::SeqCst);
}

static LEAVING: AtomicBool = AtomicBool::new(false);
static CALLING: AtomicUsize = AtomicUsize::new(0);
/// Making an exception takes microseconds, once the thread may run; a machine that stands still may keep it from that
/// for seconds. With nobody inside nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long as the interpreter lets a thread run before another one may (5 ms), and less.
const STEP: Duration = Duration::from_millis(1);
