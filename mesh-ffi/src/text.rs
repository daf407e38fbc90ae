//! Text and bytes that cross the boundary.
//!
//! Decides: that lengths are given and text is UTF-8. Never: keeps a caller's pointer after return.
//! Invariant: text that goes out is followed by a NUL byte one past its length.

use std::ffi::{CStr, c_char};

use crate::failure::Failure;

/// Text by pointer and length. In: need not end with NUL, must be UTF-8; `{NULL, 0}` is empty text.
/// Out: borrowed from the handle it came from, and followed by a NUL byte so that it can be printed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_str {
    /// First byte.
    pub ptr: *const c_char,
    /// Bytes, without a terminator.
    pub len: usize,
}

/// Bytes by pointer and length: bodies, header values, packed headers. `{NULL, 0}` is empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_bytes {
    /// First byte.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl mesh_str {
    /// Empty text, readable as a C string.
    pub const fn empty() -> Self {
        Self { ptr: c"".as_ptr(), len: 0 }
    }

    /// The text, or why it is none.
    ///
    /// # Safety
    /// `ptr` is NULL or points to `len` readable bytes that stay for `'a` (rule 4).
    pub unsafe fn read<'a>(self, what: &str) -> Result<&'a str, Failure> {
        let bytes = mesh_bytes { ptr: self.ptr.cast(), len: self.len };
        // SAFETY: the promise of this function is the one `read` asks for.
        let bytes = unsafe { bytes.read(what) }?;
        std::str::from_utf8(bytes).map_err(|_| Failure::invalid(format!("`{what}` is not UTF-8")))
    }
}

impl mesh_bytes {
    /// No bytes.
    pub const fn empty() -> Self {
        Self { ptr: std::ptr::null(), len: 0 }
    }

    /// A view of bytes that the receiver borrows.
    pub fn of(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes, or why there are none.
    ///
    /// # Safety
    /// `ptr` is NULL or points to `len` readable bytes that stay for `'a` (rule 4).
    pub unsafe fn read<'a>(self, what: &str) -> Result<&'a [u8], Failure> {
        if self.len == 0 {
            return Ok(&[]);
        }
        if self.ptr.is_null() {
            return Err(Failure::null(what));
        }
        if isize::try_from(self.len).is_err() {
            return Err(Failure::invalid(format!("`{what}` has an impossible length")));
        }
        // SAFETY: not NULL, the length fits, and the caller promises the bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.ptr, self.len) })
    }
}

/// Text the library owns and lends to C.
#[derive(Debug, Clone)]
pub struct Text(Box<[u8]>);

impl Text {
    /// A copy with the NUL byte in place.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text);
        bytes.push(0);
        Self(bytes.into_boxed_slice())
    }

    /// The text without its NUL.
    pub fn bytes(&self) -> &[u8] {
        &self.0[..self.0.len() - 1]
    }

    /// The borrowed C form.
    pub fn lend(&self) -> mesh_str {
        mesh_str { ptr: self.0.as_ptr().cast(), len: self.0.len() - 1 }
    }
}

/// The `mesh_str` of a NUL-terminated string. NULL gives empty text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_strz(text: *const c_char) -> mesh_str {
    guard!(mesh_strz, or mesh_str::empty(), {
        if text.is_null() {
            return mesh_str::empty();
        }
        // SAFETY: not NULL; the caller promises a terminator.
        let len = unsafe { CStr::from_ptr(text) }.to_bytes().len();
        mesh_str { ptr: text, len }
    })
}
