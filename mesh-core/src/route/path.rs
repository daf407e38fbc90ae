//! A request path against one pattern.
//!
//! Decides: whether a path (no query) fits, and how much of it a prefix took. Never: decodes or
//! normalises; that is done once before (`normalize`).
//! Invariant: a prefix ends at a segment boundary (`/v2` takes `/v2` and `/v2/x`, not `/v2x`) unless
//! it was asked for as a raw prefix.

use std::fmt;

use super::template::PathTemplate;
use super::value::{FullRegex, Text};

/// A pattern for the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatcher {
    /// The whole path; a trailing slash counts.
    Exact(Text),
    /// Leading segments. Held without its trailing slash, so `/` is the empty text.
    Prefix(Text),
    /// Leading characters, wherever they end.
    RawPrefix(Text),
    /// The whole path, by regular expression.
    Regex(FullRegex),
    /// The whole path, by template.
    Template(PathTemplate),
}

impl PathMatcher {
    /// Matches this path and no other.
    pub fn exact(path: &str) -> Result<Self, String> {
        rooted(path).map(|path| Self::Exact(Text::new(path)))
    }

    /// Matches the path and everything below it; a trailing slash makes no difference.
    pub fn prefix(path: &str) -> Result<Self, String> {
        rooted(path).map(|path| Self::Prefix(Text::new(path.trim_end_matches('/'))))
    }

    /// Matches every path that starts with these characters.
    pub fn raw_prefix(path: &str) -> Result<Self, String> {
        rooted(path).map(|path| Self::RawPrefix(Text::new(path)))
    }

    /// Matches paths that fit `pattern` from end to end.
    pub fn regex(pattern: &str) -> Result<Self, String> {
        FullRegex::new(pattern).map(Self::Regex)
    }

    /// Matches paths that fit a template (`/v1/{*}/x/{**}`) from end to end.
    pub fn template(text: &str) -> Result<Self, String> {
        PathTemplate::parse(text).map(Self::Template)
    }

    /// The same matcher, blind to ASCII case. No effect on a regex (write `(?i)`) or a template.
    #[must_use]
    pub fn ignore_case(mut self) -> Self {
        if let Self::Exact(text) | Self::Prefix(text) | Self::RawPrefix(text) = &mut self {
            text.set_ignore_case();
        }
        self
    }

    /// Whether `path` fits.
    pub fn matches(&self, path: &str) -> bool {
        let bytes = path.as_bytes();
        match self {
            Self::Exact(text) => text.equals(bytes),
            Self::Prefix(text) => text.starts(bytes) && ends_segment(text, bytes),
            Self::RawPrefix(text) => text.starts(bytes),
            Self::Regex(regex) => regex.matches(bytes),
            Self::Template(template) => template.matches(path),
        }
    }

    /// Bytes of a matching path that a rewrite replaces; `None` for a matcher that is no prefix.
    pub fn prefix_len(&self) -> Option<usize> {
        match self {
            Self::Prefix(text) | Self::RawPrefix(text) => Some(text.as_str().len()),
            Self::Exact(_) | Self::Regex(_) | Self::Template(_) => None,
        }
    }

    /// Whether every path `other` takes is surely taken by `self`. May say no when in doubt.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Regex(mine), Self::Regex(theirs)) => return mine == theirs,
            (Self::Template(mine), Self::Template(theirs)) => return mine == theirs,
            (Self::Exact(_), Self::Prefix(_) | Self::RawPrefix(_)) => return false,
            _ => {}
        }
        let (Some(mine), Some(theirs)) = (self.text(), other.text()) else { return false };
        let bytes = theirs.as_str().as_bytes();
        let takes = match (self, other) {
            (Self::Exact(_), _) => mine.equals(bytes),
            // `/v2` covers the raw `/v2/`, but not the raw `/v2`, which also takes `/v2x`.
            (Self::Prefix(_), Self::RawPrefix(_)) => {
                mine.starts(bytes) && bytes.get(mine.as_str().len()) == Some(&b'/')
            }
            (Self::Prefix(_), _) => mine.starts(bytes) && ends_segment(mine, bytes),
            _ => mine.starts(bytes),
        };
        takes && mine.is_as_lenient_as(theirs)
    }

    fn text(&self) -> Option<&Text> {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::RawPrefix(text) => Some(text),
            Self::Regex(_) | Self::Template(_) => None,
        }
    }
}

impl fmt::Display for PathMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact `{text}`"),
            Self::Prefix(text) if text.as_str().is_empty() => f.write_str("prefix `/`"),
            Self::Prefix(text) => write!(f, "prefix `{text}`"),
            Self::RawPrefix(text) => write!(f, "raw prefix `{text}`"),
            Self::Regex(regex) => write!(f, "regex `{regex}`"),
            Self::Template(template) => write!(f, "template `{template}`"),
        }
    }
}

fn rooted(path: &str) -> Result<&str, String> {
    match path {
        path if !path.starts_with('/') => Err(format!("path `{path}` must start with `/`")),
        path if path.contains(['?', '#']) => Err(format!("path `{path}` must not hold a query or a fragment")),
        path => Ok(path),
    }
}

/// Whether the path stops, or a new segment starts, right after `prefix`.
fn ends_segment(prefix: &Text, path: &[u8]) -> bool {
    matches!(path.get(prefix.as_str().len()), None | Some(b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_segment() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/x", true),
            ("/v2", "/v2", true),
            ("/v2", "/v2/", true),
            ("/v2", "/v2/x", true),
            ("/v2", "/v2x", false),
            ("/v2/", "/v2", true),
            ("/v2/", "/v2/x", true),
            ("/v2", "/x/v2", false),
            ("/", "*", false),
        ] {
            assert_eq!(PathMatcher::prefix(prefix).unwrap().matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn a_path_that_cannot_arrive_is_refused() {
        for path in ["", "a", "/a?b", "/a#b"] {
            assert!(PathMatcher::exact(path).is_err(), "{path}");
            assert!(PathMatcher::prefix(path).is_err(), "{path}");
            assert!(PathMatcher::raw_prefix(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_matcher_covers_only_what_it_surely_takes() {
        let prefix = |path| PathMatcher::prefix(path).unwrap();
        let raw = |path| PathMatcher::raw_prefix(path).unwrap();
        let exact = |path| PathMatcher::exact(path).unwrap();
        let regex = |pattern| PathMatcher::regex(pattern).unwrap();
        for (wide, narrow, expected) in [
            (prefix("/"), exact("/a"), true),
            (prefix("/"), raw("/a"), true),
            (prefix("/a"), prefix("/a/b"), true),
            (prefix("/a"), prefix("/ab"), false),
            (prefix("/a"), raw("/a"), false),
            (prefix("/a"), raw("/a/"), true),
            (raw("/a"), prefix("/ab"), true),
            (raw("/a/"), prefix("/a"), false),
            (exact("/a"), prefix("/a"), false),
            (exact("/a"), exact("/a"), true),
            (prefix("/a"), exact("/a").ignore_case(), false),
            (prefix("/a").ignore_case(), exact("/A"), true),
            (regex("/a.*"), exact("/a"), false),
            (regex("/a.*"), regex("/a.*"), true),
        ] {
            assert_eq!(wide.covers(&narrow), expected, "{wide} over {narrow}");
        }
    }
}
