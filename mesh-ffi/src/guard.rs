//! `mesh_guard` and `mesh_guard_call`: a function of the program under the mesh's policy, step by step.
//!
//! Decides: nothing; the engine's session does. Never: runs the function, sleeps, or calls back: the
//! program does, on its own thread. Invariant: a call that is freed before its end was given up: it gives
//! back what it held and counts against nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::guard::{Call, Class, Ending, Guard, Outcome, Step};
use mesh_core::{ErrorKind, Sent};

use crate::code::{MESH_ERR_NOT_SENT, mesh_code};
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_GUARD, MESH_HANDLE_GUARD_CALL};
use crate::inbound::mesh_inbound;
use crate::mesh::{duration, mesh};
use crate::sized::{self, Sized32};
use crate::text::{Text, mesh_str};

/// Not an outcome: start an attempt, the first one or the one after a wait.
pub const MESH_GUARD_READY: i32 = 0;
/// It worked.
pub const MESH_GUARD_SUCCESS: i32 = 1;
/// It was answered "no" (not found, not valid): the caller's fault, the callee is well.
pub const MESH_GUARD_REJECTED: i32 = 2;
/// It failed, and would fail again.
pub const MESH_GUARD_FAILED: i32 = 3;
/// It failed, may work another time, and may have acted.
pub const MESH_GUARD_TRANSIENT: i32 = 4;
/// It failed, may work another time, and is known not to have acted.
pub const MESH_GUARD_UNPROCESSED: i32 = 5;
/// "Too many": not acted on, and no sign of ill health.
pub const MESH_GUARD_THROTTLED: i32 = 6;
/// It was given up at the limit of its attempt; it may have acted.
pub const MESH_GUARD_TIMED_OUT: i32 = 7;
/// Nothing was learned: the program gave it up, or refused it itself.
pub const MESH_GUARD_IGNORED: i32 = 8;

/// Run the function, and give it up after `time_ns` (-1: no limit); then tell its outcome.
pub const MESH_GUARD_PROCEED: i32 = 1;
/// Wait `time_ns`, then say `MESH_GUARD_READY`.
pub const MESH_GUARD_WAIT: i32 = 2;
/// The call is over; the outcome of the last attempt is its result.
pub const MESH_GUARD_STOP: i32 = 3;

/// For `mesh_guard_options.flags`: doing it twice does no harm, whatever the configuration says.
pub const MESH_GUARD_IDEMPOTENT: u32 = 1;
/// For `mesh_guard_options.flags`: doing it twice does harm, whatever the configuration says.
pub const MESH_GUARD_NOT_IDEMPOTENT: u32 = 2;

/// A guard of the configuration. Thread-safe; a reload reaches it.
pub struct mesh_guard {
    engine: Arc<Engine>,
    guard: Guard,
}

impl Handle for mesh_guard {
    const KIND: i32 = MESH_HANDLE_GUARD;
    const NAME: &'static str = "guard";
}

/// One call under a guard, of one thread at a time.
pub struct mesh_guard_call {
    engine: Arc<Engine>,
    call: Mutex<Call>,
    reason: Text,
}

impl Handle for mesh_guard_call {
    const KIND: i32 = MESH_HANDLE_GUARD_CALL;
    const NAME: &'static str = "call";
}

/// What a program says about one call. Start from `MESH_INIT(mesh_guard_options)`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_guard_options {
    /// Size of this struct.
    pub struct_size: u32,
    /// `MESH_GUARD_IDEMPOTENT`, `MESH_GUARD_NOT_IDEMPOTENT` or 0.
    pub flags: u32,
    /// The program's own bound; 0: none.
    pub timeout_ns: i64,
    /// The request that is served by it; NULL: the one that is active on this thread.
    pub parent: *const mesh_inbound,
}

// SAFETY: `repr(C)`, numbers and a pointer, the size comes first.
unsafe impl Sized32 for mesh_guard_options {
    const NAME: &'static str = "options";
}

/// What to do next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_guard_step {
    /// `MESH_GUARD_PROCEED`, `MESH_GUARD_WAIT` or `MESH_GUARD_STOP`.
    pub action: i32,
    /// Attempts started so far.
    pub attempts: u32,
    /// With PROCEED the time the attempt has (-1: no limit), with WAIT how long to wait, else 0.
    pub time_ns: i64,
    /// With STOP why there is no further attempt, as metrics name it. Borrowed from the call.
    pub reason: mesh_str,
}

/// The guard that the configuration calls `name`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_open(
    mesh: *const mesh,
    name: mesh_str,
    guard: *mut *mut mesh_guard,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_guard_open, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable text and a writable result.
        let (mesh, name, guard) = unsafe { (handles::lend(mesh)?, name.read("name")?, handles::out(guard, "guard")?) };
        let opened = mesh.engine.mesh()?.guard(name)?;
        guard.set(handles::give(mesh_guard { engine: Arc::clone(&mesh.engine), guard: opened }));
        Ok(())
    })
}

/// Frees the guard; its calls go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_free(guard: *mut mesh_guard) {
    guard!(mesh_guard_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(guard) = (unsafe { handles::take(guard) }) else { return };
        if guard.engine.is_foreign() {
            std::mem::forget(guard);
        }
    });
}

/// Begins a call: takes its place under the limit, or fails with `MESH_E_OVERLOADED`. Then alternate
/// `mesh_guard_next` and what it says. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_begin(
    guard: *const mesh_guard,
    options: *const mesh_guard_options,
    call: *mut *mut mesh_guard_call,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_guard_begin, err, {
        // SAFETY: rules 1, 3 and 6: a live handle, sized options or NULL, a writable result.
        let (guard, options, call) =
            unsafe { (handles::lend(guard)?, sized::read(options)?, handles::out(call, "call")?) };
        guard.engine.begin_use()?;
        let mut terms = guard.guard.clone();
        let mut context = mesh_core::CallContext::current();
        if let Some(options) = options {
            terms = options.apply(terms)?;
            // SAFETY: rule 1: NULL or a live handle.
            if let Ok(parent) = unsafe { handles::lend(options.parent) } {
                context = Some(parent.context());
            }
        }
        let begun = terms.begin_within(context)?;
        let engine = Arc::clone(&guard.engine);
        call.set(handles::give(mesh_guard_call { engine, call: Mutex::new(begun), reason: Text::new("") }));
        Ok(())
    })
}

/// Tells how the attempt ended (or `MESH_GUARD_READY` to start one) and what to do next. `retry_after_ns`
/// is the wait the callee asked for, -1 when it asked for none. Fails when the guard refuses an attempt
/// (`MESH_E_CIRCUIT_OPEN`, `MESH_E_TIMEOUT`) or was the one to end it (`MESH_E_ATTEMPT_TIMEOUT`): the call is
/// over then, and the error is its result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_next(
    call: *mut mesh_guard_call,
    outcome: i32,
    retry_after_ns: i64,
    step: *mut mesh_guard_step,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_guard_next, err, {
        // SAFETY: rules 1, 2 and 3: a live handle used by one thread, and a writable result.
        let (call, out) = unsafe { (call.as_mut(), handles::out(step, "step")?) };
        let call = call.ok_or_else(|| Failure::null("call"))?;
        call.engine.check_fork()?;
        let inner = call.call.get_mut().unwrap_or_else(PoisonError::into_inner);
        let told = told(inner, outcome, retry_after_ns)?;
        let next = match told {
            None => inner.proceed(),
            Some(outcome) => inner.ended(outcome),
        };
        let (action, time_ns) = match &next {
            Step::Proceed { until } => {
                (MESH_GUARD_PROCEED, until.map_or(-1, |until| nanoseconds(inner.remaining(until))))
            }
            Step::Wait { length } => (MESH_GUARD_WAIT, nanoseconds(*length)),
            Step::Stop(_) => (MESH_GUARD_STOP, 0),
        };
        let attempts = inner.attempts();
        call.reason = Text::new(inner.reason());
        if let Step::Stop(Ending::Refused(error)) = next {
            return Err(error.into());
        }
        out.set(mesh_guard_step { action, attempts, time_ns, reason: call.reason.lend() });
        Ok(())
    })
}

/// What an error of the mesh that the function itself got means for its guard: a `MESH_GUARD_*` outcome.
/// `name` is the error's name, `flags` its flags.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_outcome_of(name: mesh_str, flags: u32) -> i32 {
    guard!(mesh_guard_outcome_of, or MESH_GUARD_FAILED, {
        // SAFETY: rule 4: readable text.
        let Ok(name) = (unsafe { name.read("name") }) else { return MESH_GUARD_FAILED };
        let Some(kind) = ErrorKind::ALL.iter().find(|kind| kind.as_str() == name) else { return MESH_GUARD_FAILED };
        let sent = if flags & MESH_ERR_NOT_SENT != 0 { Sent::Never } else { Sent::Maybe };
        number(Class::of(*kind, sent))
    })
}

/// Ends the call and frees it. Before its end it was given up. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_guard_end(call: *mut mesh_guard_call) {
    guard!(mesh_guard_end, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(call) = (unsafe { handles::take(call) }) else { return };
        // A thread that the child lacks may hold a lock that ending the call would take.
        if call.engine.is_foreign() {
            std::mem::forget(call);
        }
    });
}

impl mesh_guard_options {
    fn apply(&self, guard: Guard) -> Result<Guard, Failure> {
        let guard = match self.flags {
            0 => guard,
            MESH_GUARD_IDEMPOTENT => guard.idempotent(true),
            MESH_GUARD_NOT_IDEMPOTENT => guard.idempotent(false),
            _ => return Err(Failure::unsupported("unknown bits in `options.flags`")),
        };
        match duration(self.timeout_ns, "options.timeout_ns")? {
            Duration::ZERO => Ok(guard),
            timeout => Ok(guard.timeout(timeout)),
        }
    }
}

const fn number(class: Class) -> i32 {
    match class {
        Class::Success => MESH_GUARD_SUCCESS,
        Class::Rejected => MESH_GUARD_REJECTED,
        Class::Failed => MESH_GUARD_FAILED,
        Class::Transient => MESH_GUARD_TRANSIENT,
        Class::Unprocessed => MESH_GUARD_UNPROCESSED,
        Class::Throttled => MESH_GUARD_THROTTLED,
        Class::TimedOut => MESH_GUARD_TIMED_OUT,
        Class::Ignored => MESH_GUARD_IGNORED,
    }
}

/// What the program says; `None`: it is ready for an attempt.
fn told(call: &Call, outcome: i32, retry_after_ns: i64) -> Result<Option<Outcome>, Failure> {
    let class = match outcome {
        MESH_GUARD_READY if call.is_running() => {
            return Err(Failure::invalid("an attempt is running: tell how it ended"));
        }
        MESH_GUARD_READY => return Ok(None),
        MESH_GUARD_SUCCESS => Class::Success,
        MESH_GUARD_REJECTED => Class::Rejected,
        MESH_GUARD_FAILED => Class::Failed,
        MESH_GUARD_TRANSIENT => Class::Transient,
        MESH_GUARD_UNPROCESSED => Class::Unprocessed,
        MESH_GUARD_THROTTLED => Class::Throttled,
        MESH_GUARD_TIMED_OUT => Class::TimedOut,
        MESH_GUARD_IGNORED => Class::Ignored,
        _ => return Err(Failure::unsupported("unknown `outcome`")),
    };
    if !call.is_running() {
        return Err(Failure::invalid("no attempt is running"));
    }
    Ok(Some(Outcome { class, retry_after: u64::try_from(retry_after_ns).ok().map(Duration::from_nanos) }))
}

fn nanoseconds(length: Duration) -> i64 {
    i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)
}
