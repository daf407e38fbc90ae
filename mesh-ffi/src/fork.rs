//! Noticing `fork()`.
//!
//! Decides: nothing; it tells the engine. Never: runs anything in the child but one atomic increment,
//! because the child of a threaded program may call only async-signal-safe functions.

use std::sync::Once;

/// Registers the child handler once in the life of the process, at the first `mesh_open`.
pub fn watch() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler is a function that lives as long as the library, which is never unloaded.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

extern "C" fn in_child() {
    mesh_core::runtime::note_fork_in_child();
}

/// Tells the library that this process is a child made without `fork()` of libc (a raw `clone`). Not
/// needed after `fork()`, which is noticed. Handles made before return `MESH_E_FORKED` from here on.
#[unsafe(no_mangle)]
pub extern "C" fn mesh_after_fork_child() {
    guard!(mesh_after_fork_child, or(), { mesh_core::runtime::note_fork_in_child() });
}
