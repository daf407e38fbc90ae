//! From a document to what is in force.
//!
//! Decides: whether a document is accepted; all or nothing. Never: touches what is in force when it is
//! not. Invariant: `revision` grows by one with each accepted document and at no other time.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::compile::problems::diagnostic;
use crate::compile::{self, Context};
use crate::config::diagnostic::Diagnostic;
use crate::config::document::Document;
use crate::config::{self, Parsed};
use crate::discovery::file::WatchedFile;
use crate::identity::source::IdentitySource;
use crate::snapshot::Snapshot;
use crate::time::Clock;

/// Accepts documents, one after the other.
pub struct Publisher {
    file: Option<WatchedFile>,
    base: PathBuf,
    origin: String,
    clock: Arc<dyn Clock>,
    identity: Option<IdentitySource>,
    sources: BTreeSet<Arc<str>>,
    revision: u64,
    accepted: u64,
    refused: u64,
    problems: Vec<Diagnostic>,
}

/// The first document.
pub struct First<'a> {
    /// Its text.
    pub text: &'a str,
    /// Names it in diagnostics.
    pub origin: &'a str,
    /// The file it came from, to be watched.
    pub path: Option<PathBuf>,
    /// Names of the endpoint sources that the application registered.
    pub sources: BTreeSet<Arc<str>>,
}

/// What the first document gives rise to.
pub struct Opened {
    /// Accepts the next ones.
    pub publisher: Publisher,
    /// In force.
    pub snapshot: Arc<Snapshot>,
    /// The identity it configures, not issued yet.
    pub identity: Option<IdentitySource>,
}

/// A refused configuration: every problem found, not only the first.
pub struct ConfigError {
    diagnostics: Vec<Diagnostic>,
}

impl Publisher {
    /// Takes the first document.
    pub fn open(first: First<'_>, clock: &Arc<dyn Clock>) -> Result<Opened, ConfigError> {
        let First { text, origin, path, sources } = first;
        // A document given as text is where its origin says: relative paths in it are relative to that.
        let base = path.as_deref().unwrap_or(Path::new(origin)).parent().unwrap_or(Path::new("")).to_path_buf();
        let parsed = config::parse(text, origin).map_err(ConfigError::new)?;
        let identity = parsed.document.identity.as_ref().map(|_| IdentitySource::new());
        let mut publisher = Self {
            file: path.map(|path| WatchedFile::with_content(path, text.to_owned())),
            base,
            origin: origin.to_owned(),
            clock: Arc::clone(clock),
            identity: identity.clone(),
            sources,
            revision: 0,
            accepted: 0,
            refused: 0,
            problems: Vec::new(),
        };
        let snapshot = publisher.compile(parsed, (None, false)).map_err(ConfigError::new)?;
        Ok(Opened { publisher, snapshot, identity })
    }

    /// Takes a further document. `Err`: refused, counted, and `current` stays in force. `is_followed`: sources
    /// of endpoints are at work.
    pub fn accept(
        &mut self,
        parsed: Parsed,
        (current, is_followed): (&Snapshot, bool),
    ) -> Result<Arc<Snapshot>, ConfigError> {
        let accepted = unchangeable(&parsed, &current.document);
        let accepted = accepted.and_then(|()| self.compile(parsed, (Some(current), is_followed)));
        accepted.map_err(|diagnostics| self.refuse(diagnostics))
    }

    /// A document that says nothing usable: refused and counted.
    pub fn refuse(&mut self, diagnostics: Vec<Diagnostic>) -> ConfigError {
        self.refused += 1;
        self.problems.clone_from(&diagnostics);
        ConfigError::new(diagnostics)
    }

    /// Whether [`poll_file`](Self::poll_file) would have something to do. Costs one `stat`.
    pub fn may_have_news(&self) -> bool {
        self.file.as_ref().is_some_and(WatchedFile::may_have_changed)
    }

    /// The watched file's new content, if it changed.
    pub fn poll_file(&mut self) -> Option<(String, String)> {
        let file = self.file.as_mut()?;
        match file.poll() {
            Ok(content) => content.map(|content| (content.to_owned(), self.origin.clone())),
            Err(error) => {
                self.refused += 1;
                self.problems = vec![Diagnostic::error(&self.origin, "", format!("cannot read the file: {error}"))];
                tracing::warn!(file = self.origin, error = %error, "configuration file unreadable; the last good one stays");
                None
            }
        }
    }

    /// An endpoints file could not be used; what was in force stays.
    pub fn note_endpoints_refused(&mut self, file: &str, reason: &str) {
        self.refused += 1;
        self.problems = vec![Diagnostic::error(file, "", reason)];
    }

    /// Names the document.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What relative paths in the document are relative to.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Documents accepted and refused so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.accepted, self.refused)
    }

    /// For the admin endpoint: where the document came from, and what was wrong with the last refused one.
    pub fn status(&self) -> Value {
        json!({
            "source": self.origin,
            "accepted": self.accepted,
            "refused": self.refused,
            "problems": self.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    fn compile(
        &mut self,
        parsed: Parsed,
        (previous, is_followed): (Option<&Snapshot>, bool),
    ) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
        for warning in &parsed.warnings {
            tracing::warn!("{warning}");
        }
        let context = Context {
            origin: &self.origin,
            base: &self.base,
            clock: &self.clock,
            identity: self.identity.as_ref(),
            previous,
            sources: Some(&self.sources),
            is_followed,
            revision: self.revision + 1,
        };
        let snapshot = compile::compile(parsed, &context)?;
        self.revision += 1;
        self.accepted += 1;
        self.problems.clear();
        Ok(Arc::new(snapshot))
    }
}

/// What a running process cannot change: who it is, and where it reports to.
fn unchangeable(parsed: &Parsed, current: &Document) -> Result<(), Vec<Diagnostic>> {
    let new = &parsed.document;
    let pairs = [
        ("identity", new.identity != current.identity),
        ("node", new.node != current.node),
        ("telemetry.admin", new.telemetry.admin != current.telemetry.admin),
        ("telemetry.access_log", new.telemetry.access_log != current.telemetry.access_log),
    ];
    let changed = pairs.iter().filter(|(_, is_changed)| *is_changed);
    let problems: Vec<_> = changed
        .map(|(path, _)| {
            diagnostic(&parsed.positions, path, "cannot change while the process runs; restart it, or undo this change")
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

impl ConfigError {
    /// Of these diagnostics.
    pub fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    /// A file that could not be read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::new(vec![Diagnostic::error(&path.display().to_string(), "", format!("cannot read the file: {error}"))])
    }

    /// Everything that was found, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for crate::error::Error {
    fn from(error: ConfigError) -> Self {
        Self::new(crate::error::ErrorKind::Config, error.to_string())
    }
}
