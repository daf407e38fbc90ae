//! Handles: how a Rust value becomes an opaque pointer and comes back.
//!
//! Decides: nothing. Never: frees a handle twice on its own; `free(NULL)` is a no-op.
//! Invariant: each pointer given out is counted until it is taken back, so a test, or a user, can see
//! a leak (`mesh_live_handles`).

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::Failure;

/// All kinds together, for `mesh_live_handles`.
pub const MESH_HANDLE_ANY: i32 = 0;
/// `mesh`
pub const MESH_HANDLE_MESH: i32 = 1;
/// `mesh_config`
pub const MESH_HANDLE_CONFIG: i32 = 2;
/// `mesh_cq`
pub const MESH_HANDLE_CQ: i32 = 3;
/// `mesh_request`
pub const MESH_HANDLE_REQUEST: i32 = 4;
/// `mesh_response`
pub const MESH_HANDLE_RESPONSE: i32 = 5;
/// `mesh_body`
pub const MESH_HANDLE_BODY: i32 = 6;
/// `mesh_buf`
pub const MESH_HANDLE_BUF: i32 = 7;
/// `mesh_inbound`
pub const MESH_HANDLE_INBOUND: i32 = 8;
/// `mesh_listener`
pub const MESH_HANDLE_LISTENER: i32 = 9;
/// `mesh_error`
pub const MESH_HANDLE_ERROR: i32 = 10;
/// `mesh_guard`
pub const MESH_HANDLE_GUARD: i32 = 11;
/// `mesh_guard_call`
pub const MESH_HANDLE_GUARD_CALL: i32 = 12;
/// `mesh_inbound_check`
pub const MESH_HANDLE_INBOUND_CHECK: i32 = 13;
/// `mesh_body_wanted`
pub const MESH_HANDLE_BODY_WANTED: i32 = 14;

/// A type that C holds by pointer.
pub trait Handle {
    /// One of `MESH_HANDLE_*`.
    const KIND: i32;
    /// What it is called in messages.
    const NAME: &'static str;
}

/// Moves a value out to C.
pub fn give<T: Handle>(value: T) -> *mut T {
    counter(T::KIND).fetch_add(1, Ordering::Relaxed);
    Box::into_raw(Box::new(value))
}

/// Takes a value back from C; `None` for NULL.
///
/// # Safety
/// `ptr` is NULL or came from [`give`] and was not taken back yet (rule 1).
pub unsafe fn take<T: Handle>(ptr: *mut T) -> Option<Box<T>> {
    let ptr = NonNull::new(ptr)?;
    counter(T::KIND).fetch_sub(1, Ordering::Relaxed);
    // SAFETY: it came from `Box::into_raw` and is taken back once, as the caller promises.
    Some(unsafe { Box::from_raw(ptr.as_ptr()) })
}

/// Borrows a handle for the length of a call.
///
/// # Safety
/// `ptr` is NULL or came from [`give`] and is not freed during `'a` (rule 1).
pub unsafe fn lend<'a, T: Handle>(ptr: *const T) -> Result<&'a T, Failure> {
    // SAFETY: NULL is handled by `as_ref`; else the caller promises a live handle.
    unsafe { ptr.as_ref() }.ok_or_else(|| Failure::null(T::NAME))
}

/// A place the caller wants a result in.
pub struct Out<T>(NonNull<T>);

/// Checks an out-parameter before any work is done.
///
/// # Safety
/// `ptr` is NULL or writable until the call returns (rule 3).
pub unsafe fn out<T>(ptr: *mut T, what: &str) -> Result<Out<T>, Failure> {
    NonNull::new(ptr).map(Out).ok_or_else(|| Failure::null(what))
}

impl<T> Out<T> {
    /// Writes the result.
    pub fn set(self, value: T) {
        // SAFETY: `out` checked for NULL and its caller promised a writable place.
        unsafe { self.0.as_ptr().write(value) }
    }
}

/// Handles of a kind (`MESH_HANDLE_*`, `MESH_HANDLE_ANY` for all) that the program holds now. For
/// finding leaks: after freeing everything it is 0.
#[unsafe(no_mangle)]
pub extern "C" fn mesh_live_handles(kind: i32) -> usize {
    guard!(mesh_live_handles, or 0, {
        if kind == MESH_HANDLE_ANY {
            return LIVE.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        }
        usize::try_from(kind).ok().and_then(|kind| LIVE.get(kind)).map_or(0, |count| count.load(Ordering::Relaxed))
    })
}

fn counter(kind: i32) -> &'static AtomicUsize {
    LIVE.get(usize::try_from(kind).unwrap_or(0)).unwrap_or(&LIVE[0])
}

/// One counter per kind; index 0 is not used.
static LIVE: [AtomicUsize; 15] = [const { AtomicUsize::new(0) }; 15];
