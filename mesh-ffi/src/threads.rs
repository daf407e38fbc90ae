//! What the library's own threads look like to the host: not at all.
//!
//! Decides: that a signal meant for the program lands on the program's threads, and that a peer that
//! resets a connection cannot kill the program with SIGPIPE. Never: touches a thread of the host.

use std::sync::Arc;

use mesh_core::runtime::OnThreadStart;

/// The hook that runs first on each library thread.
pub fn on_start() -> OnThreadStart {
    Arc::new(block_signals)
}

/// Blocks every signal but those a thread raises by its own fault: the host's crash reporter shall see them.
fn block_signals() {
    // SAFETY: an all-zero `sigset_t` is only a place for `sigfillset` to write to.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid, writable set; no old mask is asked for.
    unsafe {
        libc::sigfillset(&raw mut set);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
            libc::sigdelset(&raw mut set, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
