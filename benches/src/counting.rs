//! An allocator that counts, when told to.
//!
//! Decides: nothing; the system's allocator does the work. Invariant: while it does not count it costs
//! one relaxed load, the same in every case that is compared.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// Starts from zero.
pub fn start() {
    ALLOCATIONS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::SeqCst);
}

/// Ends, and says what was seen, on every thread of the process.
pub fn stop() -> Counts {
    IS_COUNTING.store(false, Ordering::SeqCst);
    Counts { allocations: ALLOCATIONS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
}

fn note(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
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

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_allocated_between_start_and_stop() {
        start();
        let kept = std::hint::black_box(vec![0_u8; 4096]);
        let counts = stop();
        drop(kept);
        assert!(counts.allocations >= 1 && counts.bytes >= 4096, "{counts:?}");
    }
}
