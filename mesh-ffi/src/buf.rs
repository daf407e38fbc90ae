//! `mesh_buf`: bytes the library received or produced, shared without a copy.
//!
//! Decides: nothing. Invariant: the bytes do not move or change until the buffer is freed.

use bytes::Bytes;

use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_BUF};
use crate::text::mesh_bytes;

/// Counted bytes: a chunk of a body, a metrics page, a status document. Thread-safe.
pub struct mesh_buf {
    bytes: Bytes,
}

impl Handle for mesh_buf {
    const KIND: i32 = MESH_HANDLE_BUF;
    const NAME: &'static str = "buf";
}

impl mesh_buf {
    /// A buffer over shared bytes.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Text, with a NUL byte one past its length.
    pub fn text(mut text: String) -> Self {
        let len = text.len();
        text.push('\0');
        Self { bytes: Bytes::from(text).slice(..len) }
    }

    /// The bytes, valid as long as the buffer.
    pub fn view(&self) -> mesh_bytes {
        mesh_bytes::of(&self.bytes)
    }
}

/// The bytes, valid until the buffer is freed. Status and metrics are also NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_buf_bytes(buf: *const mesh_buf) -> mesh_bytes {
    guard!(mesh_buf_bytes, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(buf) }.map_or(mesh_bytes::empty(), mesh_buf::view)
    })
}

/// A second buffer over a part of the same bytes, without a copy. Free both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_buf_slice(
    buf: *const mesh_buf,
    offset: usize,
    len: usize,
    slice: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_buf_slice, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result, each checked for NULL.
        let (buf, slice) = unsafe { (handles::lend(buf)?, handles::out(slice, "slice")?) };
        let end = offset.checked_add(len).filter(|end| *end <= buf.bytes.len());
        let end = end.ok_or_else(|| Failure::invalid("the slice is outside of the buffer"))?;
        slice.set(handles::give(mesh_buf::new(buf.bytes.slice(offset..end))));
        Ok(())
    })
}

/// Frees it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_buf_free(buf: *mut mesh_buf) {
    // SAFETY: rule 1: NULL or a handle that is freed once.
    guard!(mesh_buf_free, or(), { drop(unsafe { handles::take(buf) }) });
}
