//! What a queue delivers.
//!
//! Decides: nothing. Invariant: an event that was not delivered frees what it holds; handles exist only
//! from delivery on.

use std::ffi::c_void;

use bytes::Bytes;

use crate::body_wanted::mesh_body_wanted;
use crate::buf::mesh_buf;
use crate::check::Outcome;
use crate::code::{MESH_OK, mesh_code};
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle};
use crate::inbound::mesh_inbound;
use crate::response::mesh_response;
use crate::scope;
use crate::server::Place;
use crate::text::mesh_bytes;

/// `MESH_OP_SUBMIT` is complete. OK: `handle` is a `mesh_response`, `arg` its status. Else: `code`, and
/// `handle` is a `mesh_error`.
pub const MESH_EV_DONE: i32 = 1;
/// A read is complete. OK: `handle` is a `mesh_buf` and `data` its bytes, or `MESH_EVF_END` is set and
/// `handle` is NULL. Else: `code`, and `handle` is a `mesh_error`.
pub const MESH_EV_CHUNK: i32 = 2;
/// `MESH_OP_BODY_WRITE` is complete: the next chunk may be written. Not OK: `handle` is a `mesh_error`.
pub const MESH_EV_WRITTEN: i32 = 3;
/// A request arrived: `handle` is a `mesh_inbound`, `tag` the listener's, `arg` its id.
pub const MESH_EV_INBOUND: i32 = 4;
/// The peer of the request with id `arg` went away before the answer. Its handle is still to be freed.
/// May arrive after it was: ignore unknown ids.
pub const MESH_EV_INBOUND_GONE: i32 = 5;
/// `mesh_cq_wake` was called (several calls may give one event).
pub const MESH_EV_WAKE: i32 = 6;
/// `mesh_inbound_begin` or `mesh_body_wanted_give` had to wait, and the request was admitted: `handle` is a
/// `mesh_inbound`, `arg` its id. Else: `code`, and `handle` is a `mesh_error`.
pub const MESH_EV_ADMITTED: i32 = 7;
/// As `MESH_EV_ADMITTED`, and the mesh answered: `handle` is a `mesh_response`, `arg` its status, `data` its body.
pub const MESH_EV_ANSWERED: i32 = 8;
/// `mesh_inbound_begin` had to wait, and then a check wants to know the body: `handle` is a `mesh_body_wanted`, `arg` how
/// many bytes of it.
pub const MESH_EV_BODY_WANTED: i32 = 9;

/// `MESH_EV_CHUNK`: the body has ended.
pub const MESH_EVF_END: u32 = 1;
/// `MESH_EV_DONE`, `MESH_EV_ANSWERED`: `data` is the whole body, borrowed from the response.
pub const MESH_EVF_WHOLE_BODY: u32 = 2;

/// Return value of a handler: the request is done with; the library frees it (and answers 500 if the
/// handler did not answer).
pub const MESH_HANDLED: i32 = 0;
/// Return value of a handler: it keeps the handle, answers later, and frees it.
pub const MESH_KEEP: i32 = 1;

/// Answers a request; runs on a thread of the host. Must return normally: no `longjmp`, no exception.
pub type mesh_handler = Option<unsafe extern "C" fn(userdata: *mut c_void, inbound: *mut mesh_inbound) -> i32>;

/// Takes an event that `mesh_cq_run` met and that belongs to no handler. What `event->handle` is, is
/// the callback's to free.
pub type mesh_event_callback = Option<unsafe extern "C" fn(userdata: *mut c_void, event: *const mesh_event)>;

/// One completion or arrival.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_event {
    /// `MESH_EV_*`. Ignore kinds you do not know.
    pub kind: i32,
    /// `MESH_OK` or `MESH_E_*`.
    pub code: mesh_code,
    /// The tag of the op, or of the listener.
    pub tag: u64,
    /// `MESH_EVF_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// Owned by the receiver; its type follows from `kind` and `code`.
    pub handle: *mut c_void,
    /// Bytes that `handle` owns.
    pub data: mesh_bytes,
    /// A number; its meaning follows from `kind`.
    pub arg: i64,
}

/// The host's function for the requests of a listener.
#[derive(Clone, Copy)]
pub struct Handler {
    function: unsafe extern "C" fn(*mut c_void, *mut mesh_inbound) -> i32,
    userdata: *mut c_void,
}

// SAFETY: `userdata` is never followed here, only given back to the host's function, which the host
// promised to be callable from the threads it runs the queue on.
unsafe impl Send for Handler {}
// SAFETY: as above.
unsafe impl Sync for Handler {}

impl Handler {
    /// `None` for a NULL function.
    pub fn new(function: mesh_handler, userdata: *mut c_void) -> Option<Self> {
        Some(Self { function: function?, userdata })
    }

    fn run(self, inbound: mesh_inbound) {
        let context = inbound.context();
        let handle = handles::give(inbound);
        scope::enter(context.clone());
        // SAFETY: the host gave a function of this type and a `userdata` that is still valid.
        let verdict = unsafe { (self.function)(self.userdata, handle) };
        scope::leave(context);
        if verdict != MESH_KEEP {
            // SAFETY: `handle` is ours until the handler says that it keeps it.
            drop(unsafe { handles::take(handle) });
        }
    }
}

/// An event before it is delivered.
pub enum Event {
    /// A call has its response, and perhaps the whole body, or failed.
    Done { tag: u64, outcome: Result<(Box<mesh_response>, Option<Bytes>), Failure> },
    /// A read has its chunk, the end, or failed.
    Chunk { tag: u64, outcome: Result<Option<Bytes>, Failure> },
    /// A write was taken, or not.
    Written { tag: u64, outcome: Result<(), Failure> },
    /// A request came in.
    Inbound { tag: u64, inbound: Box<mesh_inbound>, handler: Option<Handler>, place: Place },
    /// The peer of a request went away.
    Gone { tag: u64, id: u64 },
    /// A request of the host's own server was admitted or answered, after a wait.
    Begun { tag: u64, outcome: Result<Outcome, Failure> },
    /// Somebody called `mesh_cq_wake`.
    Wake,
}

impl Event {
    /// A failed call.
    pub fn failed_call(tag: u64, failure: Failure) -> Self {
        Self::Done { tag, outcome: Err(failure) }
    }

    /// A failed read.
    pub fn failed_read(tag: u64, failure: Failure) -> Self {
        Self::Chunk { tag, outcome: Err(failure) }
    }

    /// A failed write.
    pub fn failed_write(tag: u64, failure: Failure) -> Self {
        Self::Written { tag, outcome: Err(failure) }
    }

    /// A request that could not begin.
    pub fn failed_begin(tag: u64, failure: Failure) -> Self {
        Self::Begun { tag, outcome: Err(failure) }
    }

    /// Delivers it: runs its handler here and now, or gives the C form.
    pub fn deliver(self) -> Option<mesh_event> {
        let event = match self {
            Self::Done { tag, outcome: Ok((mut response, whole)) } => {
                let mut event = mesh_event::new(MESH_EV_DONE, tag);
                event.arg = response.status().into();
                if let Some(whole) = &whole {
                    event.flags = MESH_EVF_WHOLE_BODY;
                    event.data = mesh_bytes::of(whole);
                }
                response.keep(whole);
                event.with(*response)
            }
            Self::Chunk { tag, outcome: Ok(Some(chunk)) } => {
                let buf = mesh_buf::new(chunk);
                let mut event = mesh_event::new(MESH_EV_CHUNK, tag);
                event.data = buf.view();
                event.with(buf)
            }
            Self::Chunk { tag, outcome: Ok(None) } => {
                mesh_event { flags: MESH_EVF_END, ..mesh_event::new(MESH_EV_CHUNK, tag) }
            }
            Self::Written { tag, outcome: Ok(()) } => mesh_event::new(MESH_EV_WRITTEN, tag),
            Self::Done { tag, outcome: Err(failure) } => mesh_event::failed(MESH_EV_DONE, tag, failure),
            Self::Chunk { tag, outcome: Err(failure) } => mesh_event::failed(MESH_EV_CHUNK, tag, failure),
            Self::Written { tag, outcome: Err(failure) } => mesh_event::failed(MESH_EV_WRITTEN, tag, failure),
            Self::Inbound { inbound, handler: Some(handler), place, .. } => {
                drop(place);
                handler.run(*inbound);
                return None;
            }
            Self::Inbound { tag, inbound, handler: None, place } => {
                drop(place);
                let mut event = mesh_event::new(MESH_EV_INBOUND, tag);
                event.arg = number(inbound.id());
                event.with(*inbound)
            }
            Self::Gone { tag, id } => mesh_event { arg: number(id), ..mesh_event::new(MESH_EV_INBOUND_GONE, tag) },
            Self::Begun { tag, outcome: Ok(Outcome::Admitted(inbound)) } => {
                let mut event = mesh_event::new(MESH_EV_ADMITTED, tag);
                event.arg = number(inbound.id());
                event.with(*inbound)
            }
            Self::Begun { tag, outcome: Ok(Outcome::Answered(response)) } => {
                let mut event = mesh_event::new(MESH_EV_ANSWERED, tag);
                event.arg = response.status().into();
                event.flags = MESH_EVF_WHOLE_BODY;
                event.data = response.whole().map_or(mesh_bytes::empty(), |whole| mesh_bytes::of(whole));
                event.with(*response)
            }
            Self::Begun { tag, outcome: Ok(Outcome::Wanted(wanted)) } => {
                let mut event = mesh_event::new(MESH_EV_BODY_WANTED, tag);
                event.arg = i64::try_from(wanted.limit()).unwrap_or(i64::MAX);
                event.with(*wanted)
            }
            Self::Begun { tag, outcome: Err(failure) } => mesh_event::failed(MESH_EV_ADMITTED, tag, failure),
            Self::Wake => mesh_event::new(MESH_EV_WAKE, 0),
        };
        Some(event)
    }
}

impl mesh_event {
    const fn new(kind: i32, tag: u64) -> Self {
        let (handle, data) = (std::ptr::null_mut(), mesh_bytes::empty());
        Self { kind, code: MESH_OK, tag, flags: 0, reserved: 0, handle, data, arg: 0 }
    }

    fn with<T: Handle>(self, value: T) -> Self {
        Self { handle: handles::give(value).cast(), ..self }
    }

    /// Frees what nobody wants.
    pub fn discard(self) {
        // SAFETY: the handle was made by `deliver` with the type its kind and code say, and given to nobody.
        unsafe {
            match (self.kind, self.code) {
                (_, code) if code != MESH_OK => drop(handles::take(self.handle.cast::<mesh_error>())),
                (MESH_EV_DONE | MESH_EV_ANSWERED, _) => drop(handles::take(self.handle.cast::<mesh_response>())),
                (MESH_EV_CHUNK, _) => drop(handles::take(self.handle.cast::<mesh_buf>())),
                (MESH_EV_INBOUND | MESH_EV_ADMITTED, _) => drop(handles::take(self.handle.cast::<mesh_inbound>())),
                (MESH_EV_BODY_WANTED, _) => drop(handles::take(self.handle.cast::<mesh_body_wanted>())),
                _ => {}
            }
        }
    }

    fn failed(kind: i32, tag: u64, failure: Failure) -> Self {
        Self { code: failure.code, ..Self::new(kind, tag) }.with(mesh_error::from(failure))
    }
}

fn number(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

const _: () = assert!(MESH_HANDLED != MESH_KEEP, "a handler's two answers differ");
