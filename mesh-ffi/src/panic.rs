//! The wall every call from C goes through.
//!
//! Decides: that a panic becomes `MESH_E_INTERNAL` (or the given default), and that a failure becomes
//! an error handle when the caller wants one. Never: lets anything unwind into C.
//! Invariant: every exported function has its body inside `guard!`, under its own name.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::code::{MESH_OK, mesh_code};
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles;

/// `guard!(function, err, { .. Ok(()) })` for fallible functions,
/// `guard!(function, or default, { .. })` for those that return a value.
macro_rules! guard {
    ($function:ident, or $default:expr, $body:block) => {
        $crate::panic::infallible(stringify!($function), $default, || $body)
    };
    ($function:ident, $err:ident, $body:block) => {{
        let body = || $body;
        // SAFETY: rule 3 of the header: `err` is NULL or points to a writable `mesh_error *`.
        unsafe { $crate::panic::fallible(stringify!($function), $err, body) }
    }};
}

/// Runs the body of a fallible entry point.
///
/// # Safety
/// `err` is NULL or points to a writable `mesh_error *`.
pub unsafe fn fallible(
    function: &'static str,
    err: *mut *mut mesh_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> mesh_code {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        inject(function);
        body()
    }));
    let failure = match outcome {
        Ok(Ok(())) => return MESH_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::internal(format!("{function} panicked: {}", what_it_said(payload.as_ref()))),
    };
    let code = failure.code;
    if !err.is_null() {
        // SAFETY: not NULL, and writable as this function's caller promises.
        unsafe { err.write(handles::give(mesh_error::from(failure))) };
    }
    code
}

/// Runs the body of an entry point that has no way to report.
pub fn infallible<T>(function: &'static str, default: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(|| {
        inject(function);
        body()
    }))
    .unwrap_or(default)
}

/// The text of a panic, when it has one.
pub fn what_it_said(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(not(feature = "panic-injection"))]
fn inject(_function: &str) {}

#[cfg(feature = "panic-injection")]
fn inject(function: &str) {
    let armed =
        injection::TARGET.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_deref() == Some(function);
    assert!(!armed, "injected");
}

/// Only in test builds: a C program names the function that is to panic.
#[cfg(feature = "panic-injection")]
pub mod injection {
    use std::ffi::{CStr, c_char};
    use std::sync::{Mutex, PoisonError};

    pub(super) static TARGET: Mutex<Option<String>> = Mutex::new(None);

    /// Makes the guard of the named function panic on every call until disarmed with NULL.
    /// Only in builds with the feature `panic-injection`.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn mesh_test_panic_in(function: *const c_char) {
        // SAFETY: not NULL, and the test gives a terminated string.
        let name = (!function.is_null()).then(|| unsafe { CStr::from_ptr(function) }.to_string_lossy().into_owned());
        *TARGET.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }
}
