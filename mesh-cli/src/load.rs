//! Reads and compiles a configuration, exactly as a process would that starts with it.
//!
//! Never: starts, connects, listens or resolves. Invariant: what is refused here is refused there.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use mesh_core::compile::{self, Context};
use mesh_core::config::{self, Diagnostic};
use mesh_core::identity::source::IdentitySource;
use mesh_core::snapshot::Snapshot;
use mesh_core::time::{Clock, SystemClock};

/// A file that was read, and what came of it.
pub struct Loaded {
    /// As diagnostics call it.
    pub origin: String,
    /// Its text, for quoting; empty if it could not be read.
    pub text: String,
    /// Everything that was found, warnings included, in the order of the file.
    pub findings: Vec<Diagnostic>,
    /// What would be in force; `None`: refused.
    pub snapshot: Option<Snapshot>,
}

/// Reads `path`, or standard input for `-`.
pub fn load(path: &Path) -> Loaded {
    let origin = if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() };
    match read(path) {
        Ok(text) => compile_text(path, origin, text),
        Err(error) => {
            let finding = Diagnostic::error(&origin, "", format!("cannot read the file: {error}"));
            Loaded { origin, text: String::new(), findings: vec![finding], snapshot: None }
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path != Path::new("-") {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn compile_text(path: &Path, origin: String, text: String) -> Loaded {
    let parsed = match config::parse(&text, &origin) {
        Ok(parsed) => parsed,
        Err(findings) => return Loaded { origin, text, findings, snapshot: None },
    };
    let mut findings = parsed.warnings.clone();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = parsed.document.identity.as_ref().map(|_| IdentitySource::new());
    let context = Context {
        origin: &origin,
        base: path.parent().unwrap_or(Path::new("")),
        clock: &clock,
        identity: identity.as_ref(),
        previous: None,
        sources: None,
        is_followed: false,
        revision: 1,
    };
    let snapshot = match compile::compile(parsed, &context) {
        Ok(snapshot) => Some(snapshot),
        Err(problems) => {
            findings.extend(problems);
            None
        }
    };
    Loaded { origin, text, findings, snapshot }
}
