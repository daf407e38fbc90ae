//! One spelling for a path, before anything is decided about it.
//!
//! Decides: what a request target becomes, or that it is refused. Never: touches the query.
//! Invariant: a normalised path has no `.` or `..` segment, no backslash, and no escape of a
//! character that needs none, so a rule on `/admin` also sees `/x/%2e%2e/admin`.
//! Steps, in order, as in Envoy: escaped slashes, normalisation, merging of slashes.

use std::borrow::Cow;
use std::fmt;

/// What is done to a path. The default normalises, and leaves double and escaped slashes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathNormalization {
    /// Removes dot segments, turns `\` into `/`, decodes unreserved characters (RFC 3986, 6.2.2).
    pub normalize: bool,
    /// Makes one `/` of several.
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What happens to `%2F` and `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They stay, byte for byte: an id may hold one.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// They are decoded, and the request goes on.
    Unescape,
    /// They are decoded, and the caller is sent to the decoded path.
    Redirect,
}

/// A target after normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized<'a> {
    /// Go on with this target (path and query).
    Target(Cow<'a, str>),
    /// Answer 307 with this target as the location.
    Redirect(String),
}

/// Why a target is refused (HTTP 400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPath {
    /// A `%` that is not followed by two hexadecimal digits, or `%00`.
    Escape,
    /// An escaped slash where they are refused.
    EscapedSlash,
    /// A `#`: a fragment never goes on the wire.
    Fragment,
}

impl Default for PathNormalization {
    fn default() -> Self {
        Self { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep }
    }
}

impl PathNormalization {
    /// Normalises a request target. `*` (as in `OPTIONS *`) is not a path and stays.
    pub fn apply<'a>(&self, target: &'a str) -> Result<Normalized<'a>, BadPath> {
        if target.contains('#') {
            return Err(BadPath::Fragment);
        }
        let (raw, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        if raw == "*" {
            return Ok(Normalized::Target(Cow::Borrowed(target)));
        }
        let mut path = self.unescape_slashes(raw)?;
        let redirect = self.escaped_slashes == EscapedSlashes::Redirect && *path != *raw;
        if self.normalize {
            path = Cow::Owned(without_dot_segments(&decode_unreserved(&path)?));
        }
        if self.merge_slashes && path.contains("//") {
            path = Cow::Owned(merge_slashes(&path));
        }
        match (redirect, *path == *raw) {
            (true, _) => Ok(Normalized::Redirect(path.into_owned() + query)),
            (false, true) => Ok(Normalized::Target(Cow::Borrowed(target))),
            (false, false) => Ok(Normalized::Target(Cow::Owned(path.into_owned() + query))),
        }
    }

    fn unescape_slashes<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, BadPath> {
        let escaped = ["%2f", "%2F", "%5c", "%5C"];
        if self.escaped_slashes == EscapedSlashes::Keep || !escaped.iter().any(|escape| path.contains(escape)) {
            return Ok(Cow::Borrowed(path));
        }
        if self.escaped_slashes == EscapedSlashes::Reject {
            return Err(BadPath::EscapedSlash);
        }
        Ok(Cow::Owned(escaped.iter().fold(path.to_owned(), |path, escape| path.replace(escape, "/"))))
    }
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Escape => "the path has a broken or forbidden percent escape",
            Self::EscapedSlash => "the path has an escaped slash",
            Self::Fragment => "the request target has a fragment",
        })
    }
}

impl std::error::Error for BadPath {}

/// Checks every escape, decodes those of unreserved characters, turns `\` into `/`.
fn decode_unreserved(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(place) = rest.find(['%', '\\']) {
        out.push_str(&rest[..place]);
        let found = &rest[place..];
        if let Some(after) = found.strip_prefix('\\') {
            out.push('/');
            rest = after;
            continue;
        }
        let escape = found.get(..3).ok_or(BadPath::Escape)?;
        match hex_byte(&escape[1..])? {
            0 => return Err(BadPath::Escape),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(escape),
        }
        rest = &found[3..];
    }
    out.push_str(rest);
    Ok(out)
}

fn hex_byte(digits: &str) -> Result<u8, BadPath> {
    // `from_str_radix` alone would take `+f`.
    match digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => u8::from_str_radix(digits, 16).map_err(|_| BadPath::Escape),
        false => Err(BadPath::Escape),
    }
}

/// RFC 3986, 5.2.4: `..` takes away the segment before it and never climbs above the root.
pub(super) fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            name => {
                kept.push(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

pub(super) fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn options(value: &Value) -> PathNormalization {
        let escaped_slashes = match value["escaped_slashes"].as_str().unwrap() {
            "keep" => EscapedSlashes::Keep,
            "reject" => EscapedSlashes::Reject,
            "unescape_and_forward" => EscapedSlashes::Unescape,
            "unescape_and_redirect" => EscapedSlashes::Redirect,
            other => panic!("unknown action {other}"),
        };
        let flag = |name: &str| value[name].as_bool().unwrap();
        PathNormalization { normalize: flag("normalize_path"), merge_slashes: flag("merge_slashes"), escaped_slashes }
    }

    #[test]
    fn paths_are_normalised_as_the_vectors_say() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/path_normalize.json"));
        let vectors: Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        for case in cases {
            let expected = &case["expected"];
            let result = options(&case["options"]).apply(case["input"].as_str().unwrap());
            assert_eq!(Value::from(result.is_ok()), expected["accepted"], "{}", case["id"]);
            match result {
                Ok(Normalized::Target(target)) => assert_eq!(*target, expected["output"], "{}", case["id"]),
                Ok(Normalized::Redirect(target)) => {
                    assert_eq!(expected["redirect_status"], 307, "{}", case["id"]);
                    assert_eq!(target, expected["location_path"], "{}", case["id"]);
                }
                Err(_) => assert_eq!(expected["status"], 400, "{}", case["id"]),
            }
        }
        assert_eq!(cases.len(), 60);
    }

    #[test]
    fn a_normalised_path_stays_as_it_is() {
        for target in ["/", "/a/../b/%2e%2e//c\\d?x=..", "/%7e/./%2f", "*"] {
            let Ok(Normalized::Target(once)) = PathNormalization::default().apply(target) else { panic!("{target}") };
            assert_eq!(PathNormalization::default().apply(&once), Ok(Normalized::Target(once.clone())), "{target}");
        }
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for target in ["/%", "/%4", "/%+f", "/%é", "/%zz", "/%00"] {
            assert_eq!(PathNormalization::default().apply(target), Err(BadPath::Escape), "{target}");
        }
    }
}
