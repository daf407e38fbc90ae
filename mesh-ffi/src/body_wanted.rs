//! `mesh_body_wanted`: a request of the program's own server whose body a check wants to know.
//!
//! Decides: nothing; the engine asked. Never: reads it: the server does. Invariant: it goes on at most once; freed before,
//! the request was given up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use mesh_core::inbound::own_server::{Given, Wanted};

use crate::check::{Outs, of_same_mesh, outcome, queue_of, settle};
use crate::code::mesh_code;
use crate::cq::mesh_cq;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_BODY_WANTED};
use crate::inbound::mesh_inbound;
use crate::received::MESH_RECEIVED_WHOLE_BODY;
use crate::response::mesh_response;
use crate::text::mesh_bytes;

/// For `mesh_body_wanted_give`: its time passed before there was enough of the body.
pub const MESH_RECEIVED_LATE: u32 = 2;

/// A request that goes on once its body was handed over: see `mesh_inbound_begin`. One thread at a time.
pub struct mesh_body_wanted {
    engine: Arc<Engine>,
    limit: usize,
    deadline: Instant,
    wanted: Mutex<Option<Wanted>>,
}

impl Handle for mesh_body_wanted {
    const KIND: i32 = MESH_HANDLE_BODY_WANTED;
    const NAME: &'static str = "wanted";
}

impl mesh_body_wanted {
    /// For C.
    pub fn new(engine: Arc<Engine>, wanted: Wanted) -> Self {
        Self { engine, limit: wanted.limit(), deadline: wanted.deadline(), wanted: Mutex::new(Some(wanted)) }
    }

    /// How many bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// How many bytes of the body checks want to know. Read one more if there are more. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_wanted_limit(wanted: *const mesh_body_wanted) -> usize {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_body_wanted_limit, or 0, { unsafe { handles::lend(wanted) }.map_or(0, mesh_body_wanted::limit) })
}

/// Nanoseconds until it is too late, which is when to stop reading (`MESH_RECEIVED_LATE`): the caller waits no longer, or
/// took longer than the check grants (`with_request_body.timeout`). 0 when it is, -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_wanted_remaining_ns(wanted: *const mesh_body_wanted) -> i64 {
    guard!(mesh_body_wanted_remaining_ns, or - 1, {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(wanted) = (unsafe { handles::lend(wanted) }) else { return -1 };
        i64::try_from(wanted.deadline.saturating_duration_since(Instant::now()).as_nanos()).unwrap_or(i64::MAX)
    })
}

/// Goes on as `mesh_inbound_begin` does. `flags`: `MESH_RECEIVED_WHOLE_BODY` if `body` is all of it, `MESH_RECEIVED_LATE`
/// if it is too late, else 0: there is more. Once. The handle is still to be freed; freed without this, the
/// request was given up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_wanted_give(
    wanted: *const mesh_body_wanted,
    body: mesh_bytes,
    flags: u32,
    cq: *const mesh_cq,
    tag: u64,
    inbound: *mut *mut mesh_inbound,
    answer: *mut *mut mesh_response,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_body_wanted_give, err, {
        // SAFETY: rules 1, 3 and 4: live handles or NULL, readable bytes, writable results.
        let (wanted, body, queue, outs) =
            unsafe { (handles::lend(wanted)?, body.read("body")?, queue_of(cq)?, Outs::new(inbound, answer, None)?) };
        wanted.engine.runtime()?;
        of_same_mesh(&wanted.engine, queue)?;
        let given = match flags {
            0 => Given::Beginning(Bytes::copy_from_slice(body)),
            MESH_RECEIVED_WHOLE_BODY => Given::Whole(Bytes::copy_from_slice(body)),
            MESH_RECEIVED_LATE => Given::Later,
            _ => return Err(Failure::unsupported("unknown bits in `flags`")),
        };
        let taken = wanted.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let going_on = taken.ok_or_else(|| Failure::invalid("its body was handed over already"))?.give(given);
        let engine = Arc::clone(&wanted.engine);
        let work = async move { outcome(engine, going_on.await) };
        outs.set(settle(&wanted.engine, queue.map(|queue| (queue, tag)), work)?);
        Ok(())
    })
}

/// Frees it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_wanted_free(wanted: *mut mesh_body_wanted) {
    guard!(mesh_body_wanted_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(wanted) = (unsafe { handles::take(wanted) }) else { return };
        if wanted.engine.is_foreign() {
            std::mem::forget(wanted);
        }
    });
}
