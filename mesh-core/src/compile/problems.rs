//! What could not be compiled, and where it was written.

use crate::config::diagnostic::{Diagnostic, Path};
use crate::config::parse::Positions;

/// Collects every problem of a compilation: field path and reason.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<(String, String)>,
}

impl Problems {
    /// The value, or a note of why there is none.
    pub(crate) fn note<T>(&mut self, path: impl Into<String>, result: Result<T, impl ToString>) -> Option<T> {
        result.map_err(|reason| self.found.push((path.into(), reason.to_string()))).ok()
    }

    /// Whether all went well.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// As diagnostics with line and column; empty when all went well.
    pub(crate) fn diagnostics(&self, positions: &Positions) -> Vec<Diagnostic> {
        self.found.iter().map(|(path, reason)| diagnostic(positions, path, reason)).collect()
    }
}

/// An error about the field at `path`, as in `routes[0].rules[1]`.
pub(crate) fn diagnostic(positions: &Positions, path: &str, message: &str) -> Diagnostic {
    descend(&Path::ROOT, path, &|path| positions.error(path, message))
}

fn descend(parent: &Path<'_>, rest: &str, found: &dyn Fn(&Path<'_>) -> Diagnostic) -> Diagnostic {
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    if rest.is_empty() {
        return found(parent);
    }
    if let Some((index, rest)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return descend(&parent.index(index.parse().unwrap_or(0)), rest, found);
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    descend(&parent.field(&rest[..end]), &rest[end..], found)
}
