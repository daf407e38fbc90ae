//! An authority against host patterns.
//!
//! Decides: which pattern fits an authority best: exact, then suffix (`*.a`), then prefix (`a.*`),
//! then `*`; within a kind one that names the port, then the longest. Never: resolves a name.
//! Invariant: case, a trailing dot and the port make no difference, unless the pattern names a port
//! itself; a wildcard stands for at least one character. One lookup costs one hash per distinct
//! pattern length, however many patterns there are.

use std::borrow::Cow;
use std::fmt;

use foldhash::{HashMap, HashMapExt};

/// One host pattern of a virtual host, normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    kind: Kind,
    /// Lower case, without the `*`.
    text: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Exact,
    Suffix,
    Prefix,
    Any,
}

impl HostPattern {
    /// Parses `host`, `*suffix`, `prefix*` or `*`. A `*` in the middle is refused.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let text = pattern.to_ascii_lowercase();
        let (kind, text) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => (Kind::Any, ""),
            (Some(suffix), _) => (Kind::Suffix, suffix),
            (None, Some(prefix)) => (Kind::Prefix, prefix),
            (None, None) => (Kind::Exact, text.as_str()),
        };
        if kind != Kind::Any && text.is_empty() {
            return Err("a host must not be empty".to_owned());
        }
        if text.contains('*') {
            return Err(format!("host `{pattern}`: one `*` may stand at the start or at the end"));
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@".contains(c)) {
            return Err(format!("host `{pattern}` is not a host name"));
        }
        if kind == Kind::Exact && !text.starts_with('[') && text.matches(':').count() > 1 {
            return Err(format!("host `{pattern}`: an IPv6 address stands in brackets"));
        }
        let text = if kind == Kind::Prefix { text.into() } else { normalized(text).into() };
        Ok(Self { kind, text })
    }

    fn names_a_port(&self) -> bool {
        split_port(&self.text).1.is_some()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Exact => f.write_str(&self.text),
            Kind::Suffix => write!(f, "*{}", self.text),
            Kind::Prefix => write!(f, "{}*", self.text),
            Kind::Any => f.write_str("*"),
        }
    }
}

/// Finds the best pattern; each pattern leads to the number it was inserted with.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    ported: Patterns,
    bare: Patterns,
    any: Option<usize>,
}

impl HostIndex {
    /// Adds a pattern; says which number the same pattern already has.
    pub(super) fn insert(&mut self, pattern: &HostPattern, target: usize) -> Result<(), usize> {
        let patterns = if pattern.names_a_port() { &mut self.ported } else { &mut self.bare };
        let taken = match pattern.kind {
            Kind::Exact => *patterns.exact.entry(pattern.text.clone()).or_insert(target),
            Kind::Suffix => patterns.suffix.insert(&pattern.text, target),
            Kind::Prefix => patterns.prefix.insert(&pattern.text, target),
            Kind::Any => *self.any.get_or_insert(target),
        };
        if taken == target { Ok(()) } else { Err(taken) }
    }

    /// The number of the best pattern.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        let authority = normalized(authority);
        let (host, port) = split_port(&authority);
        let full = port.map(|_| &*authority);
        let exact = full.and_then(|full| self.ported.exact.get(full)).or_else(|| self.bare.exact.get(host)).copied();
        exact
            .or_else(|| full.and_then(|full| self.ported.suffix.find_end_of(full)))
            .or_else(|| self.bare.suffix.find_end_of(host))
            .or_else(|| full.and_then(|full| self.ported.prefix.find_start_of(full)))
            .or_else(|| self.bare.prefix.find_start_of(host))
            .or(self.any)
    }
}

#[derive(Debug, Default)]
struct Patterns {
    exact: HashMap<Box<str>, usize>,
    suffix: Wildcards,
    prefix: Wildcards,
}

/// Patterns of one wildcard kind: a hash map, asked once per distinct length, longest first.
#[derive(Debug)]
struct Wildcards {
    lengths: Vec<usize>,
    by_text: HashMap<Box<[u8]>, usize>,
}

impl Default for Wildcards {
    fn default() -> Self {
        Self { lengths: Vec::new(), by_text: HashMap::new() }
    }
}

impl Wildcards {
    fn insert(&mut self, text: &str, target: usize) -> usize {
        if let Err(position) = self.lengths.binary_search_by(|length| text.len().cmp(length)) {
            self.lengths.insert(position, text.len());
        }
        *self.by_text.entry(text.as_bytes().into()).or_insert(target)
    }

    fn find_end_of(&self, host: &str) -> Option<usize> {
        let bytes = host.as_bytes();
        self.shorter_than(host).find_map(|length| self.by_text.get(&bytes[bytes.len() - length..]).copied())
    }

    fn find_start_of(&self, host: &str) -> Option<usize> {
        self.shorter_than(host).find_map(|length| self.by_text.get(&host.as_bytes()[..length]).copied())
    }

    /// Strictly shorter: the `*` stands for at least one character.
    fn shorter_than(&self, host: &str) -> impl Iterator<Item = usize> {
        let length = host.len();
        self.lengths.iter().copied().filter(move |candidate| *candidate < length)
    }
}

/// The one form in which authorities are compared: lower case, no user, no dot at the end of the host. Allocates only
/// if something has to change.
pub(crate) fn normalized(authority: &str) -> Cow<'_, str> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let (host, port) = split_port(authority);
    let undotted = without_final_dot(host);
    let whole = match port {
        Some(port) if undotted.len() != host.len() => Cow::Owned(format!("{undotted}:{port}")),
        Some(_) => Cow::Borrowed(authority),
        None => Cow::Borrowed(undotted),
    };
    match whole.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(whole.to_ascii_lowercase()),
        false => whole,
    }
}

/// Host and port; the colons of an IPv6 address are not a port.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    let search_from = if authority.starts_with('[') { authority.find(']').unwrap_or(authority.len()) } else { 0 };
    match authority[search_from..].split_once(':') {
        // Two colons outside brackets: a bare IPv6 address.
        Some((_, rest)) if !rest.contains(':') => (&authority[..authority.len() - rest.len() - 1], Some(rest)),
        _ => (authority, None),
    }
}

fn without_final_dot(host: &str) -> &str {
    host.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::route::tests_support::cases;

    #[test]
    fn host_patterns_are_accepted_or_refused_as_the_vectors_say() {
        let cases = cases("domain_syntax");
        for case in &cases {
            let valid = HostPattern::parse(case["domain"].as_str().unwrap()).is_ok();
            assert_eq!(Value::from(valid), case["expected"]["valid"], "{}", case["id"]);
        }
        assert_eq!(cases.len(), 11);
    }

    #[test]
    fn a_port_case_and_a_final_dot_make_no_difference() {
        let mut index = HostIndex::default();
        for (number, pattern) in
            ["a.com", "*.b.com", "c.*", "[::1]", "A.com.:8080", "*.d.:81", "e:*"].into_iter().enumerate()
        {
            index.insert(&HostPattern::parse(pattern).unwrap(), number).unwrap();
        }
        for (authority, expected) in [
            ("a.com", Some(0)),
            ("A.com.", Some(0)),
            ("a.com:80", Some(0)),
            ("A.COM.:80", Some(0)),
            ("user@a.com:80", Some(0)),
            ("a.com:8080", Some(4)),
            ("A.com.:8080", Some(4)),
            ("x.b.com:1", Some(1)),
            ("b.com", None),
            ("c.x:1", Some(2)),
            ("c.:1", None),
            ("[::1]:443", Some(3)),
            ("[::1]", Some(3)),
            ("[::2]:443", None),
            ("x.d:81", Some(5)),
            ("x.d:82", None),
            ("e:9", Some(6)),
            ("e", None),
            ("", None),
            (".", None),
            (":80", None),
            ("é.b.com", Some(1)),
            ("ééé", None),
        ] {
            assert_eq!(index.find(authority), expected, "{authority}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for pattern in ["a b", "a/b", "user@a", "::1", "a?b"] {
            assert!(HostPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
