//! What an entry point returns inside Rust before it becomes a `mesh_error` handle.
//!
//! Decides: how an engine error, a refused configuration and a wrong argument read in C terms.
//! Never: allocates a handle. Invariant: `name` is stable text, `message` is for people.

use std::error::Error as StdError;

use serde_json::Value;

use mesh_core::error::BoxError;
use mesh_core::{ConfigError, Error, ErrorKind, Sent};

use crate::code::*;

/// One refused or failed call.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The `MESH_E_*` code.
    pub code: mesh_code,
    /// Stable name, as in logs and metric labels.
    pub name: &'static str,
    /// One sentence for people.
    pub message: String,
    /// `MESH_ERR_*` bits.
    pub flags: u32,
    /// Facts by key.
    pub details: Vec<(&'static str, String)>,
    /// What is wrong with a configuration, one object per finding.
    pub diagnostics: Vec<Value>,
}

impl Failure {
    fn plain(code: mesh_code, name: &'static str, message: impl Into<String>) -> Self {
        Self { code, name, message: message.into(), flags: 0, details: Vec::new(), diagnostics: Vec::new() }
    }

    /// The caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::plain(MESH_E_INVALID_ARGUMENT, "invalid_argument", message)
    }

    /// A pointer that must not be NULL is.
    pub fn null(what: &str) -> Self {
        Self::invalid(format!("`{what}` is NULL"))
    }

    /// Something a later version may know.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::plain(MESH_E_UNSUPPORTED, "unsupported", message)
    }

    /// Header and library do not fit.
    pub fn abi(message: impl Into<String>) -> Self {
        Self::plain(MESH_E_ABI, "abi", message)
    }

    /// The tag is taken.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::plain(MESH_E_BUSY, "busy", message)
    }

    /// A signal ended the wait.
    pub fn interrupted() -> Self {
        let mut failure = Self::plain(MESH_E_INTERRUPTED, "interrupted", "a signal arrived while waiting");
        failure.flags = MESH_ERR_CANCELLED;
        failure
    }

    /// A file could not be read.
    pub fn config_io(path: &str, error: &std::io::Error) -> Self {
        let mut failure = Self::plain(MESH_E_CONFIG_IO, "config_io", format!("cannot read {path}: {error}"));
        failure.details.push(("file", path.to_owned()));
        if let Some(number) = error.raw_os_error() {
            failure.details.push(("os_errno", number.to_string()));
        }
        failure
    }

    /// A failure the engine has a kind for, before anything was sent.
    pub fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }

    /// A caught panic or a broken invariant.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::of(ErrorKind::Internal, message)
    }

    /// The call was ended by its caller.
    pub fn cancelled(message: impl Into<String>) -> Self {
        let mut failure = Self::plain(code_of(ErrorKind::Cancelled), ErrorKind::Cancelled.as_str(), message);
        failure.flags = MESH_ERR_CANCELLED;
        failure
    }

    /// The mesh is closed.
    pub fn closed() -> Self {
        Self::of(ErrorKind::Closed, "the mesh was closed")
    }

    /// The handle belongs to the parent process.
    pub fn forked() -> Self {
        Self::of(ErrorKind::Forked, "the process forked after this mesh was started; open a new one in the child")
    }

    /// An error that ended a body. Its kind is the engine's when it is in the chain.
    pub fn of_body(error: &BoxError) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error.as_ref());
        while let Some(current) = cause {
            if let Some(known) = current.downcast_ref::<Error>() {
                return Self::from(known);
            }
            cause = current.source();
        }
        Error::new(ErrorKind::Reset, format!("the body ended early: {error}")).with_sent(Sent::Maybe).into()
    }

    fn detail(&mut self, key: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.details.push((key, value.to_string()));
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let mut failure = Self::plain(code_of(error.kind()), error.kind().as_str(), error.message());
        let unsent = error.sent() != Sent::Maybe;
        failure.flags = flags_of(error.kind());
        if unsent {
            failure.flags |= MESH_ERR_NOT_SENT;
        }
        if unsent && is_transient(error.kind()) {
            failure.flags |= MESH_ERR_RETRIABLE;
        }
        let place = error.place();
        failure.detail("route", place.route.as_ref());
        failure.detail("cluster", place.cluster.as_ref());
        failure.detail("endpoint", place.endpoint.as_ref());
        failure.detail("attempts", (place.attempts > 0).then_some(place.attempts));
        failure.detail("retry_after_ms", place.retry_after.map(|wait| wait.as_millis()));
        failure.detail("cause", error.source());
        failure
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let mut failure = Self::plain(MESH_E_CONFIG, ErrorKind::Config.as_str(), error.to_string().trim_end());
        if let Some(first) = error.diagnostics().first() {
            failure.detail("file", Some(&first.file));
            failure.detail("line", Some(first.line));
            failure.detail("column", Some(first.column));
            failure.detail("path", Some(&first.path));
            failure.detail("hint", first.hint.as_ref());
        }
        failure.diagnostics =
            error.diagnostics().iter().filter_map(|finding| serde_json::to_value(finding).ok()).collect();
        failure
    }
}
