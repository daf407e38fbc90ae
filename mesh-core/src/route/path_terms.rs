//! What a listener does to the paths of its requests.
//!
//! Decides: which normalisation a target gets, and whether its other readings are judged. Never: judges.
//! Invariant: where escaped slashes are kept for some paths only, which ones is decided on the path as it would be kept.

use super::normalize::{BadPath, EscapedSlashes, Normalized, PathNormalization};
use super::path::PathMatcher;
use super::readings::Readings;

/// Terms for paths. The default normalises, keeps double and escaped slashes, and judges every reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTerms {
    /// What is done to a path.
    pub normalization: PathNormalization,
    /// Paths whose escaped slashes are kept, whatever is done to others.
    pub kept: Vec<PathMatcher>,
    /// Whether rules are asked about every way in which a path may be read.
    pub judges_readings: bool,
}

impl Default for PathTerms {
    fn default() -> Self {
        Self { normalization: PathNormalization::default(), kept: Vec::new(), judges_readings: true }
    }
}

impl PathTerms {
    /// Normalises a request target.
    pub fn apply<'a>(&self, target: &'a str) -> Result<Normalized<'a>, BadPath> {
        if self.kept.is_empty() {
            return self.normalization.apply(target);
        }
        let keeping = PathNormalization { escaped_slashes: EscapedSlashes::Keep, ..self.normalization };
        let kept = keeping.apply(target)?;
        let is_kept = match &kept {
            Normalized::Target(target) => {
                let path = target.split('?').next().unwrap_or_default();
                self.kept.iter().any(|prefix| prefix.matches(path))
            }
            Normalized::Redirect(_) => false,
        };
        if is_kept { Ok(kept) } else { self.normalization.apply(target) }
    }

    /// The other readings of a path, as far as rules are asked about them.
    pub fn readings(&self, path: &str) -> Readings {
        if self.judges_readings { Readings::of(path) } else { Readings::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o55_escaped_slashes_are_kept_where_the_route_needs_them() {
        let normalization =
            PathNormalization { escaped_slashes: EscapedSlashes::Reject, ..PathNormalization::default() };
        let kept = vec![PathMatcher::prefix("/projects").unwrap()];
        let terms = PathTerms { normalization, kept, ..PathTerms::default() };
        for (target, expected) in [
            ("/projects/a%2Fb?x=%2F", Ok("/projects/a%2Fb?x=%2F")),
            ("/%70rojects/a%2Fb", Ok("/projects/a%2Fb")),
            ("/projectsx/a%2Fb", Err(BadPath::EscapedSlash)),
            ("/projects/../a%2Fb", Err(BadPath::EscapedSlash)),
            ("/projects/%2e%2e/a%2Fb", Err(BadPath::EscapedSlash)),
            ("/other", Ok("/other")),
        ] {
            let expected = expected.map(|target: &str| Normalized::Target(target.into()));
            assert_eq!(terms.apply(target), expected, "{target}");
        }
    }
}
