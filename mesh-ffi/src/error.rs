//! `mesh_error`: what a failed call tells.
//!
//! Decides: nothing. Never: a thread-local last error, a secret in a message.
//! Invariant: code and name are API, the message is not.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::code::{MESH_OK, mesh_code};
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_ERROR, Out};
use crate::text::{Text, mesh_str};

/// Why a call failed. Free it with `mesh_error_free`.
pub struct mesh_error {
    code: mesh_code,
    flags: u32,
    name: Text,
    message: Text,
    details: Vec<(Text, Text)>,
    diagnostics: Vec<Value>,
    json: OnceLock<Text>,
}

impl Handle for mesh_error {
    const KIND: i32 = MESH_HANDLE_ERROR;
    const NAME: &'static str = "error";
}

impl From<Failure> for mesh_error {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code,
            flags: failure.flags,
            name: Text::new(failure.name),
            message: Text::new(&failure.message),
            details: failure.details.iter().map(|(key, value)| (Text::new(key), Text::new(value))).collect(),
            diagnostics: failure.diagnostics,
            json: OnceLock::new(),
        }
    }
}

impl mesh_error {
    fn to_json(&self) -> Value {
        let text = |text: &Text| String::from_utf8_lossy(text.bytes()).into_owned();
        let details: Map<String, Value> =
            self.details.iter().map(|(key, value)| (text(key), Value::String(text(value)))).collect();
        json!({
            "code": self.code,
            "name": text(&self.name),
            "message": text(&self.message),
            "flags": self.flags,
            "details": details,
            "diagnostics": self.diagnostics,
        })
    }
}

/// The `MESH_E_*` code. `MESH_OK` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_code(error: *const mesh_error) -> mesh_code {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_error_code, or MESH_OK, { unsafe { handles::lend(error) }.map_or(MESH_OK, |error| error.code) })
}

/// `MESH_ERR_*` bits. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_flags(error: *const mesh_error) -> u32 {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_error_flags, or 0, { unsafe { handles::lend(error) }.map_or(0, |error| error.flags) })
}

/// Stable name, such as `no_route` or `timeout`: for logs, metric labels and comparisons.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_name(error: *const mesh_error) -> mesh_str {
    guard!(mesh_error_name, or mesh_str::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(error) }.map_or(mesh_str::empty(), |error| error.name.lend())
    })
}

/// What to tell a person. Not stable; never holds a secret. A refused configuration lists every finding.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_message(error: *const mesh_error) -> mesh_str {
    guard!(mesh_error_message, or mesh_str::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(error) }.map_or(mesh_str::empty(), |error| error.message.lend())
    })
}

/// A fact by key, empty when unknown. Keys: `route`, `cluster`, `endpoint`, `attempts`,
/// `retry_after_ms`, `cause`, `os_errno`; for configurations `file`, `line`, `column`, `path`, `hint`
/// of the first finding.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_detail(error: *const mesh_error, key: mesh_str) -> mesh_str {
    guard!(mesh_error_detail, or mesh_str::empty(), {
        // SAFETY: rules 1 and 4: NULL or a live handle, and readable text.
        let (Ok(error), Ok(key)) = (unsafe { handles::lend(error) }, unsafe { key.read("key") }) else {
            return mesh_str::empty();
        };
        let found = error.details.iter().find(|(name, _)| name.bytes() == key.as_bytes());
        found.map_or(mesh_str::empty(), |(_, value)| value.lend())
    })
}

/// How many facts there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_detail_count(error: *const mesh_error) -> usize {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_error_detail_count, or 0, { unsafe { handles::lend(error) }.map_or(0, |error| error.details.len()) })
}

/// The fact at `index`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_detail_at(
    error: *const mesh_error,
    index: usize,
    key: *mut mesh_str,
    value: *mut mesh_str,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_error_detail_at, err, {
        // SAFETY: rules 1 and 3: a live handle and writable results, each checked for NULL.
        let (error, key, value): (_, Out<_>, Out<_>) =
            unsafe { (handles::lend(error)?, handles::out(key, "key")?, handles::out(value, "value")?) };
        let found = error.details.get(index).ok_or_else(|| Failure::invalid("`index` is out of range"))?;
        key.set(found.0.lend());
        value.set(found.1.lend());
        Ok(())
    })
}

/// All of it as one JSON object: `code`, `name`, `message`, `flags`, `details`, and for a refused
/// configuration `diagnostics`: objects of `severity`, `file`, `line`, `column`, `path`, `message`,
/// `expected`, `hint`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_json(error: *const mesh_error) -> mesh_str {
    guard!(mesh_error_json, or mesh_str::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(error) = (unsafe { handles::lend(error) }) else { return mesh_str::empty() };
        error.json.get_or_init(|| Text::new(error.to_json().to_string())).lend()
    })
}

/// Frees it. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_error_free(error: *mut mesh_error) {
    // SAFETY: rule 1: NULL or a handle that is freed once.
    guard!(mesh_error_free, or(), { drop(unsafe { handles::take(error) }) });
}
