//! Text to document, with every finding at once.
//!
//! Decides: the order of the passes: YAML, schema, meaning. A pass runs only on what the one before took.
//! Never: reads a file. Invariant: what comes out has no error; what is refused says every reason of its pass.

use serde::de::DeserializeOwned;

use super::check;
use super::cluster::Endpoint;
use super::diagnostic::{Diagnostic, Path};
use super::document::Document;
use super::schema;
use super::tree::{Node, Value};

/// A document that was taken.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What was written.
    pub document: Document,
    /// Where each field was written.
    pub positions: Positions,
    /// What is probably not meant, although it is valid.
    pub warnings: Vec<Diagnostic>,
}

/// Where each field of a document was written.
#[derive(Debug, Clone)]
pub struct Positions {
    origin: String,
    tree: Node,
}

impl Positions {
    /// Line and column of the field, or of the nearest one above it that was written.
    pub fn at(&self, path: &Path<'_>) -> (u32, u32) {
        self.tree.place_of(path)
    }

    /// Whether the field was written at all.
    pub fn has(&self, path: &Path<'_>) -> bool {
        self.tree.find(path).is_some_and(|node| node.value != Value::Null)
    }

    /// An error about the field, with its place: for what only compilation can find.
    pub fn error(&self, path: &Path<'_>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.origin, path, message).at(self.at(path))
    }

    /// The file, as the caller named it.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Reads a configuration file. `origin` names it in findings.
pub fn parse(text: &str, origin: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let tree = Node::read(text, origin).map_err(sorted)?;
    let document: Document = clean(&tree, schema::document_findings(&tree, origin), origin)?;
    let positions = Positions { origin: origin.to_owned(), tree };
    let (errors, warnings): (Vec<_>, Vec<_>) =
        sorted(check::document(&document, &positions)).into_iter().partition(Diagnostic::is_error);
    if errors.is_empty() { Ok(Parsed { document, positions, warnings }) } else { Err(errors) }
}

/// Reads a watched file of endpoints: a YAML list. An empty file is an empty list.
pub fn parse_endpoints(text: &str, origin: &str) -> Result<Vec<Endpoint>, Vec<Diagnostic>> {
    let mut tree = Node::read(text, origin).map_err(sorted)?;
    if tree.value == Value::Map(Vec::new()) {
        tree.value = Value::List(Vec::new());
    }
    let endpoints: Vec<Endpoint> = clean(&tree, schema::endpoints_findings(&tree, origin), origin)?;
    let positions = Positions { origin: origin.to_owned(), tree };
    let errors: Vec<_> =
        sorted(check::endpoints(&endpoints, &positions)).into_iter().filter(Diagnostic::is_error).collect();
    if errors.is_empty() { Ok(endpoints) } else { Err(errors) }
}

/// The value of a tree without findings.
fn clean<T: DeserializeOwned>(tree: &Node, found: Vec<Diagnostic>, origin: &str) -> Result<T, Vec<Diagnostic>> {
    if !found.is_empty() {
        return Err(sorted(found));
    }
    serde_json::from_value(tree.to_json()).map_err(|error| vec![Diagnostic::error(origin, "", error.to_string())])
}

/// By place, as a reader meets them.
fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
    found
}
