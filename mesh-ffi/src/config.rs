//! `mesh_config`: a configuration document that was checked.
//!
//! Decides: nothing. Never: starts a thread or opens a socket, so it may be used in tests and CI.
//! Invariant: a handle exists only for a document the engine accepts.

use mesh_core::{Mesh, MeshBuilder};

use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_CONFIG};
use crate::text::{mesh_bytes, mesh_str};

/// A checked configuration document, for `mesh_open` and `mesh_reload`.
pub struct mesh_config {
    /// The document.
    pub text: String,
    /// Where it came from: the file name in diagnostics, and what relative paths are relative to.
    pub origin: String,
    /// Whether `origin` is a file, which an open mesh watches.
    pub is_file: bool,
}

impl Handle for mesh_config {
    const KIND: i32 = MESH_HANDLE_CONFIG;
    const NAME: &'static str = "config";
}

impl mesh_config {
    fn checked(text: String, origin: String, is_file: bool) -> Result<Self, Failure> {
        Mesh::check(&text, &origin)?;
        Ok(Self { text, origin, is_file })
    }

    /// A mesh of this document.
    pub fn build(&self, builder: MeshBuilder) -> Result<Mesh, Failure> {
        Ok(if self.is_file { builder.from_file(&self.origin)? } else { builder.from_yaml(&self.text, &self.origin)? })
    }
}

/// Checks a document (YAML or JSON). `origin` names it in diagnostics; relative paths in it are
/// relative to the directory of `origin`. No thread, no network.
///
/// On `MESH_E_CONFIG` the error's message and JSON list everything that is wrong, with line and column.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_config_parse(
    text: mesh_bytes,
    origin: mesh_str,
    config: *mut *mut mesh_config,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_config_parse, err, {
        // SAFETY: rules 3 and 4: readable text and a writable result, each checked for NULL.
        let (text, origin, config) =
            unsafe { (text.read("text")?, origin.read("origin")?, handles::out(config, "config")?) };
        let text = std::str::from_utf8(text).map_err(|_| Failure::invalid("`text` is not UTF-8"))?;
        config.set(handles::give(mesh_config::checked(text.to_owned(), origin.to_owned(), false)?));
        Ok(())
    })
}

/// Reads and checks a file. A mesh opened from it reads it again and then follows its changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_config_load_file(
    path: mesh_str,
    config: *mut *mut mesh_config,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_config_load_file, err, {
        // SAFETY: rules 3 and 4: readable text and a writable result, each checked for NULL.
        let (path, config) = unsafe { (path.read("path")?, handles::out(config, "config")?) };
        let text = std::fs::read_to_string(path).map_err(|error| Failure::config_io(path, &error))?;
        config.set(handles::give(mesh_config::checked(text, path.to_owned(), true)?));
        Ok(())
    })
}

/// Frees it. NULL is fine. A mesh opened from it does not need it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_config_free(config: *mut mesh_config) {
    // SAFETY: rule 1: NULL or a handle that is freed once.
    guard!(mesh_config_free, or(), { drop(unsafe { handles::take(config) }) });
}
