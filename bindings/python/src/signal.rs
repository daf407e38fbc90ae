//! Who receives signals.
//!
//! Decides: that no thread of the mesh ever does: a SIGINT must reach Python's main thread, a SIGPIPE
//! nobody. Never: installs a handler.

use std::sync::Arc;

/// Blocks every signal on the calling thread while `start` runs; threads born in it inherit the mask.
#[allow(unsafe_code)]
pub fn blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: plain calls on a local signal set; the previous mask is put back below.
    let previous = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut previous = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut previous);
        previous
    };
    let result = start();
    // SAFETY: `previous` was filled by the call above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const previous, std::ptr::null_mut());
    }
    result
}

/// The hook each thread of the mesh's runtime runs first.
#[allow(unsafe_code)]
pub fn block_on_thread_start() -> Arc<dyn Fn() + Send + Sync> {
    Arc::new(|| {
        // SAFETY: plain calls on a local signal set.
        unsafe {
            let mut all = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        }
    })
}

/// Whether Python runs signal handlers on this thread.
#[allow(unsafe_code)]
pub fn is_main_thread() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls have no argument and cannot fail.
    unsafe {
        libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid())
    }
    #[cfg(not(target_os = "linux"))]
    true
}
