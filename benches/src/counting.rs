//! An allocator that counts, when told to.
//!
//! Decides: nothing; the system's allocator does the work. Invariant: while it does not count it costs
//! one relaxed load, the same in every case that is compared; and there is one number for the process, so
//! only one [`Count`] at a time.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The allocator of this program.
pub struct Counting;

/// What was asked of it while it counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Allocations, and re-allocations that grew.
    pub allocations: u64,
    /// Bytes asked for.
    pub bytes: u64,
}

/// A count under way. Whoever wants to start another one waits for its end.
#[must_use = "it counts until it is stopped"]
pub struct Count {
    _turn: MutexGuard<'static, ()>,
}

/// Starts from zero, on every thread of the process.
pub fn start() -> Count {
    begin(false)
}

/// Starts from zero, on this thread alone: what others do meanwhile does not count.
pub fn start_here() -> Count {
    begin(true)
}

fn begin(is_here: bool) -> Count {
    // A test that failed while it counted leaves nothing behind that the next count would see.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    ALLOCATIONS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    IS_HERE.set(is_here);
    IS_LIMITED.store(is_here, Ordering::SeqCst);
    IS_COUNTING.store(true, Ordering::SeqCst);
    Count { _turn: turn }
}

impl Count {
    /// Ends, and says what was seen.
    pub fn stop(self) -> Counts {
        IS_COUNTING.store(false, Ordering::SeqCst);
        Counts { allocations: ALLOCATIONS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        IS_COUNTING.store(false, Ordering::SeqCst);
        IS_HERE.set(false);
    }
}

fn note(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) && (!IS_LIMITED.load(Ordering::Relaxed) || IS_HERE.get()) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; `note`
// touches atomics only and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise about `layout` is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            note(size - layout.size());
        }
        // SAFETY: the pointer came from `System` with this layout; the caller vouches for `size`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

static TURN: Mutex<()> = Mutex::new(());
thread_local! {
    /// Whether it is this thread that counts. Constant and without a destructor: reading it allocates nothing.
    static IS_HERE: Cell<bool> = const { Cell::new(false) };
}

static IS_LIMITED: AtomicBool = AtomicBool::new(false);
static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_allocated_between_start_and_stop() {
        let count = start();
        let kept = std::hint::black_box(vec![0_u8; 4096]);
        let counts = count.stop();
        drop(kept);
        assert!(counts.allocations >= 1 && counts.bytes >= 4096, "{counts:?}");
    }

    #[test]
    fn a_count_of_one_thread_sees_nothing_of_another() {
        let count = start_here();
        let other = std::thread::spawn(|| drop(std::hint::black_box(vec![0_u8; 1 << 20])));
        assert!(other.join().is_ok());
        let counts = count.stop();
        assert!(counts.bytes < 1 << 20, "{counts:?}");
    }

    #[test]
    fn a_count_keeps_others_waiting_until_it_is_stopped() {
        let count = start();
        assert!(TURN.try_lock().is_err());
        count.stop();
        // Whoever has the next turn gives it back, too.
        drop(start());
    }
}
