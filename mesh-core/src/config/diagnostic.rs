//! What is wrong with a text, where, and what to write instead.
//!
//! Decides: how a finding reads. Never: finds one.
//! Invariant: line and column count from 1 and point into the text the finding is about.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is taken, but probably not what was meant.
    Warning,
}

/// One finding about a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The field: `routes[0].rules[1].backends[0].cluster`. Empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at the start of `file`; the position follows with [`Diagnostic::at`].
    pub fn error(file: &str, path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 1,
            column: 1,
            path: path.to_string(),
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, (line, column): (u32, u32)) -> Self {
        self.line = line;
        self.column = column;
        self
    }

    /// Says what would be right.
    #[must_use]
    pub fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Says what to do about it, when that is known.
    #[must_use]
    pub fn hinting(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Whether the document is refused for it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match (&self.expected, &self.hint) {
            (Some(expected), Some(hint)) => write!(f, " (expected {expected}; {hint})"),
            (Some(expected), None) => write!(f, " (expected {expected})"),
            (None, Some(hint)) => write!(f, " ({hint})"),
            (None, None) => Ok(()),
        }
    }
}

/// The way from the root of a document to one of its fields.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Option<Step<'a>>,
}

/// One step down.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// Into a field.
    Field(&'a str),
    /// Into a list.
    Index(usize),
}

impl<'a> Path<'a> {
    /// The document itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: None };

    /// One field further down.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Some(Step::Field(name)) }
    }

    /// One list entry further down.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Some(Step::Index(index)) }
    }

    /// How many steps it is from the root.
    pub fn depth(&self) -> usize {
        self.parent.map_or(0, Path::depth) + usize::from(self.step.is_some())
    }

    /// The steps from the root.
    pub fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = self.parent.map(Path::steps).unwrap_or_default();
        steps.extend(self.step);
        steps
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.steps().into_iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Field(name) if !is_plain(name) => write!(f, "[{name:?}]")?,
                Step::Field(name) if position == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// "did you mean" the candidate that is at most a third of its letters away, if there is one.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    if word.len() > MAX_COMPARED {
        return None;
    }
    let distances = candidates.into_iter().map(|candidate| (edit_distance(word, candidate), candidate));
    let near = distances.filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1));
    near.min().map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Levenshtein's distance with transpositions of neighbours, case ignored.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut before: Vec<usize> = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let same = left[row - 1] == right[column - 1];
            let replaced = above[column - 1] + usize::from(!same);
            let mut best = replaced.min(above[column] + 1).min(current[column - 1] + 1);
            let swapped =
                row > 1 && column > 1 && left[row - 1] == right[column - 2] && left[row - 2] == right[column - 1];
            if swapped {
                best = best.min(before[column - 2] + 1);
            }
            current[column] = best;
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

/// Longer words are not compared: nobody mistypes them into something short.
const MAX_COMPARED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised_and_a_different_word_is_not() {
        let fields = ["weight", "cluster", "timeout"];
        for (word, expected) in
            [("wieght", "weight"), ("clusters", "cluster"), ("time_out", "timeout"), ("Weight", "weight")]
        {
            assert_eq!(did_you_mean(word, fields), Some(format!("did you mean `{expected}`?")), "{word}");
        }
        for word in ["x", "backends", ""] {
            assert_eq!(did_you_mean(word, fields), None, "{word}");
        }
    }

    #[test]
    fn a_diagnostic_reads_as_one_line() {
        let found = Diagnostic::error("mesh.yaml", "routes[0]", "unknown cluster `x`").at((12, 9));
        assert_eq!(found.to_string(), "mesh.yaml:12:9: routes[0]: unknown cluster `x`");
        let found = found.expecting("one of a, b").hinting(Some("did you mean `a`?".into()));
        let text = "mesh.yaml:12:9: routes[0]: unknown cluster `x` (expected one of a, b; did you mean `a`?)";
        assert_eq!(found.to_string(), text);
    }

    #[test]
    fn a_path_quotes_a_field_that_is_no_word() {
        let root = Path::ROOT;
        let (clusters, labels) = (root.field("clusters"), "labels");
        let first = clusters.index(0);
        let labels = first.field(labels);
        assert_eq!(
            labels.field("app.kubernetes.io/name").to_string(),
            "clusters[0].labels[\"app.kubernetes.io/name\"]"
        );
        assert_eq!(root.to_string(), "");
    }
}
