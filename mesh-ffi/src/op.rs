//! What a queue is asked to do.
//!
//! Decides: nothing. Invariant: a batch with an op that cannot be understood is refused as a whole,
//! before any of it was done.

use std::ffi::c_void;
use std::mem::size_of;

use crate::body::mesh_body;
use crate::buf::mesh_buf;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::*;
use crate::inbound::mesh_inbound;
use crate::request::mesh_request;
use crate::response::mesh_response;
use crate::text::mesh_bytes;

/// Send `handle`, a `mesh_request` (taken over). `arg` > 0: also read up to about that many bytes of the
/// response's body first, so that a small answer needs no read. Completes with `MESH_EV_DONE`.
pub const MESH_OP_SUBMIT: i32 = 1;
/// Read the next chunk of `handle`, a `mesh_response`. Completes with `MESH_EV_CHUNK`.
pub const MESH_OP_READ: i32 = 2;
/// Read the next chunk of `handle`, a `mesh_inbound`. Completes with `MESH_EV_CHUNK`.
pub const MESH_OP_INBOUND_READ: i32 = 3;
/// Write `data` (copied) to `handle`, a `mesh_body`. One at a time per body. Completes with `MESH_EV_WRITTEN`.
pub const MESH_OP_BODY_WRITE: i32 = 4;
/// End `handle`, a `mesh_body` (taken over); `headers` are packed trailers or empty. No completion.
pub const MESH_OP_BODY_END: i32 = 5;
/// Answer `handle`, a `mesh_inbound` (taken over), with status `arg`, packed `headers` and body `data`.
/// No completion.
pub const MESH_OP_RESPOND: i32 = 6;
/// Cancel the operation in flight on this queue whose tag is `tag`; it completes with
/// `MESH_E_CANCELLED`, unless it completes by itself first. No completion of its own.
pub const MESH_OP_CANCEL: i32 = 7;
/// Free `handle`, whose type is `arg` (`MESH_HANDLE_*`: request, response, body, buf, inbound, error).
/// No completion.
pub const MESH_OP_RELEASE: i32 = 8;

/// One thing to do. Zero it, then set what its kind uses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_op {
    /// `MESH_OP_*`.
    pub kind: i32,
    /// Zero.
    pub flags: u32,
    /// The caller's number for the completion: any value not in flight on this queue.
    pub tag: u64,
    /// What it is about.
    pub handle: *mut c_void,
    /// Bytes to send.
    pub data: mesh_bytes,
    /// Packed headers or trailers.
    pub headers: mesh_bytes,
    /// A number; its meaning follows from `kind`.
    pub arg: i64,
}

/// A batch of ops as C laid it out.
pub struct Batch {
    first: *const u8,
    count: usize,
    stride: usize,
}

impl Batch {
    /// Checks every op of the batch.
    ///
    /// # Safety
    /// `ops` is NULL or points to `count` ops that are `stride` bytes apart.
    pub unsafe fn read(ops: *const mesh_op, count: usize, stride: usize) -> Result<Self, Failure> {
        let batch = Self { first: ops.cast(), count, stride };
        if count == 0 {
            return Ok(batch);
        }
        if ops.is_null() {
            return Err(Failure::null("ops"));
        }
        if stride < size_of::<mesh_op>() || !stride.is_multiple_of(align_of::<mesh_op>()) {
            return Err(Failure::invalid("`op_stride` is not the size of a mesh_op"));
        }
        for index in 0..count {
            batch.at(index).check()?;
            // SAFETY: `stride` bytes of this op are readable; the known part is at most `stride`.
            let tail = unsafe {
                let at = batch.first.add(index * stride + size_of::<mesh_op>());
                std::slice::from_raw_parts(at, stride - size_of::<mesh_op>())
            };
            if tail.iter().any(|byte| *byte != 0) {
                return Err(Failure::unsupported("an op sets a field this version does not know"));
            }
        }
        Ok(batch)
    }

    /// The ops in order.
    pub fn iter(&self) -> impl Iterator<Item = mesh_op> + '_ {
        (0..self.count).map(|index| self.at(index))
    }

    fn at(&self, index: usize) -> mesh_op {
        // SAFETY: `read` was promised `count` ops, `stride` bytes apart.
        unsafe { self.first.add(index * self.stride).cast::<mesh_op>().read_unaligned() }
    }
}

impl mesh_op {
    fn check(&self) -> Result<(), Failure> {
        if self.flags != 0 {
            return Err(Failure::unsupported("an op has unknown flags"));
        }
        match self.kind {
            MESH_OP_CANCEL => Ok(()),
            MESH_OP_RELEASE if !RELEASABLE.contains(&self.arg) => Err(Failure::invalid("`arg` is no releasable type")),
            MESH_OP_RELEASE => Ok(()),
            MESH_OP_SUBMIT..=MESH_OP_RESPOND if self.handle.is_null() => Err(Failure::null("op.handle")),
            MESH_OP_SUBMIT..=MESH_OP_RESPOND => Ok(()),
            kind => Err(Failure::unsupported(format!("unknown op {kind}"))),
        }
    }

    /// Frees the handle of a release.
    ///
    /// # Safety
    /// `handle` is NULL or of the type `arg` says, and is freed once (rule 1).
    pub unsafe fn release(&self) {
        let handle = self.handle;
        // SAFETY: each `*_free` asks for what this function's caller promises.
        unsafe {
            match i32::try_from(self.arg).unwrap_or_default() {
                MESH_HANDLE_REQUEST => crate::request::mesh_request_free(handle.cast::<mesh_request>()),
                MESH_HANDLE_RESPONSE => crate::response::mesh_response_free(handle.cast::<mesh_response>()),
                MESH_HANDLE_BODY => crate::body::mesh_body_free(handle.cast::<mesh_body>()),
                MESH_HANDLE_BUF => crate::buf::mesh_buf_free(handle.cast::<mesh_buf>()),
                MESH_HANDLE_INBOUND => crate::inbound::mesh_inbound_free(handle.cast::<mesh_inbound>()),
                MESH_HANDLE_ERROR => crate::error::mesh_error_free(handle.cast::<mesh_error>()),
                _ => {}
            }
        }
    }
}

/// Types that `MESH_OP_RELEASE` frees.
const RELEASABLE: [i64; 6] = [
    MESH_HANDLE_REQUEST as i64,
    MESH_HANDLE_RESPONSE as i64,
    MESH_HANDLE_BODY as i64,
    MESH_HANDLE_BUF as i64,
    MESH_HANDLE_INBOUND as i64,
    MESH_HANDLE_ERROR as i64,
];
