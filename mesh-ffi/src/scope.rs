//! Which inbound request a thread of the host works for.
//!
//! Decides: nothing; the engine reads it when a request is made. Invariant: scopes of one thread end in
//! the reverse order of their beginning, whatever order C ends them in.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use mesh_core::CallContext;
use mesh_core::context::ThreadScope;

use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles;
use crate::inbound::mesh_inbound;

/// Scopes begun and not ended, the innermost last.
type Scopes = Vec<(Arc<CallContext>, ThreadScope)>;

thread_local! {
    /// Leaked when a thread ends inside a scope: other thread-locals may be gone by then.
    static ACTIVE: RefCell<ManuallyDrop<Scopes>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// The trace id as 32 hexadecimal digits.
pub fn trace_id(context: &CallContext) -> String {
    context.trace.trace_id.to_string()
}

/// Begins the scope of `context` on this thread.
pub fn enter(context: Arc<CallContext>) {
    let scope = ThreadScope::enter(Arc::clone(&context));
    ACTIVE.with_borrow_mut(|active| active.push((context, scope)));
}

/// Ends the innermost scope of `context` on this thread, and those begun inside it. Tells whether there was one.
pub fn leave(context: Arc<CallContext>) -> bool {
    ACTIVE.with_borrow_mut(|active| {
        let Some(at) = active.iter().rposition(|(found, _)| Arc::ptr_eq(found, &context)) else { return false };
        while active.len() > at {
            drop(active.pop());
        }
        if active.is_empty() {
            // A thread that ends outside of any scope leaks nothing.
            active.shrink_to_fit();
        }
        true
    })
}

/// Makes `inbound` the active request of this thread: requests made from now on continue its trace and
/// deadline. Handlers of `mesh_serve` run like this. Pair with `mesh_inbound_deactivate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_activate(inbound: *const mesh_inbound, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_inbound_activate, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let inbound = unsafe { handles::lend(inbound)? };
        inbound.engine().check_fork()?;
        enter(inbound.context());
        Ok(())
    })
}

/// Ends what `mesh_inbound_activate` began, on the same thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_deactivate(inbound: *const mesh_inbound, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_inbound_deactivate, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let inbound = unsafe { handles::lend(inbound)? };
        inbound.engine().check_fork()?;
        if leave(inbound.context()) {
            Ok(())
        } else {
            Err(Failure::invalid("the request is not active on this thread"))
        }
    })
}
