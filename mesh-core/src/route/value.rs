//! One value against one pattern: the leaf of every matcher.
//!
//! Decides: whether a header, query or attribute value fits. Never: looks the value up; the caller
//! says what the value is, or that there is none.
//! Invariant: a regex always matches the *whole* value, in time linear in its length.
//! Values are bytes, as HTTP has them: `\d` and `\w` are ASCII (as in RE2) and `.` is any byte but a
//! line feed, so that a stray non-UTF-8 byte cannot hide a value from a rule.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// A pattern for one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatcher {
    /// The whole value.
    Exact(Text),
    /// The start of the value.
    Prefix(Text),
    /// The end of the value.
    Suffix(Text),
    /// Any part of the value.
    Contains(Text),
    /// The whole value, by regular expression.
    Regex(FullRegex),
    /// `true`: there is a value, even an empty one. `false`: there is none.
    Present(bool),
    /// A decimal integer, `from` included and `to` excluded; surrounding blanks are ignored.
    Range {
        /// Lowest value that matches.
        from: i64,
        /// Lowest value above the range.
        to: i64,
    },
}

impl ValueMatcher {
    /// Matches this value and no other.
    pub fn exact(text: &str) -> Self {
        Self::Exact(Text::new(text))
    }

    /// Matches values that start with `text`.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(Text::new(text))
    }

    /// Matches values that end with `text`.
    pub fn suffix(text: &str) -> Self {
        Self::Suffix(Text::new(text))
    }

    /// Matches values that have `text` in them.
    pub fn contains(text: &str) -> Self {
        Self::Contains(Text::new(text))
    }

    /// Matches values that fit `pattern` from end to end.
    pub fn regex(pattern: &str) -> Result<Self, String> {
        FullRegex::new(pattern).map(Self::Regex)
    }

    /// Parses `text`, `text*`, `*text` or `*`. A `*` anywhere else is refused rather than taken as a
    /// letter, because whoever wrote it meant a wildcard (istio/istio#46910).
    pub fn pattern(text: &str) -> Result<Self, String> {
        let wildcards = text.matches('*').count();
        match (wildcards, text.strip_prefix('*'), text.strip_suffix('*')) {
            (0, ..) => Ok(Self::exact(text)),
            (1, Some(""), _) => Ok(Self::Present(true)),
            (1, Some(rest), _) => Ok(Self::suffix(rest)),
            (1, _, Some(rest)) => Ok(Self::prefix(rest)),
            _ => Err(format!("`{text}`: one `*` may stand at the start or at the end")),
        }
    }

    /// The same matcher, blind to ASCII case. No effect on regex (write `(?i)`), presence and range.
    #[must_use]
    pub fn ignore_case(mut self) -> Self {
        if let Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) | Self::Contains(text) = &mut self {
            text.ignore_case = true;
        }
        self
    }

    /// Whether the value fits; `None` is an absent value, which only `Present(false)` accepts.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return matches!(self, Self::Present(false)) };
        match self {
            Self::Exact(text) => text.equals(value),
            Self::Prefix(text) => text.starts(value),
            Self::Suffix(text) => text.ends(value),
            Self::Contains(text) => text.is_within(value),
            Self::Regex(regex) => regex.matches(value),
            Self::Present(wanted) => *wanted,
            Self::Range { from, to } => integer(value).is_some_and(|number| (*from..*to).contains(&number)),
        }
    }
}

impl fmt::Display for ValueMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact `{text}`"),
            Self::Prefix(text) => write!(f, "prefix `{text}`"),
            Self::Suffix(text) => write!(f, "suffix `{text}`"),
            Self::Contains(text) => write!(f, "contains `{text}`"),
            Self::Regex(regex) => write!(f, "regex `{regex}`"),
            Self::Present(wanted) => write!(f, "present {wanted}"),
            Self::Range { from, to } => write!(f, "range [{from}, {to})"),
        }
    }
}

/// A literal, compared with or without ASCII case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    text: Box<str>,
    ignore_case: bool,
}

impl Text {
    /// A case-sensitive literal.
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), ignore_case: false }
    }

    /// The literal as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Sets whether ASCII case is ignored.
    pub(super) fn set_ignore_case(&mut self) {
        self.ignore_case = true;
    }

    /// Whether `value` is this literal.
    pub fn equals(&self, value: &[u8]) -> bool {
        match self.ignore_case {
            true => value.eq_ignore_ascii_case(self.text.as_bytes()),
            false => value == self.text.as_bytes(),
        }
    }

    /// Whether `value` starts with this literal.
    pub fn starts(&self, value: &[u8]) -> bool {
        value.get(..self.text.len()).is_some_and(|head| self.equals(head))
    }

    /// Whether `value` ends with this literal.
    pub fn ends(&self, value: &[u8]) -> bool {
        value.len().checked_sub(self.text.len()).is_some_and(|cut| self.equals(&value[cut..]))
    }

    /// Whether this literal is a part of `value`.
    pub fn is_within(&self, value: &[u8]) -> bool {
        self.text.is_empty() || value.windows(self.text.len()).any(|part| self.equals(part))
    }

    /// Whether a comparison by `self` accepts at least the spellings that one by `other` accepts.
    pub(super) fn is_as_lenient_as(&self, other: &Self) -> bool {
        self.ignore_case || !other.ignore_case || self.text.is_empty()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.ignore_case { f.write_str(" (any case)") } else { Ok(()) }
    }
}

/// A regular expression that is anchored at both ends.
#[derive(Debug, Clone)]
pub struct FullRegex {
    pattern: Box<str>,
    regex: Regex,
}

impl FullRegex {
    /// Compiles `pattern`; the message of a refused one says where it is wrong.
    pub fn new(pattern: &str) -> Result<Self, String> {
        // Compiled bare first: `a)|(b` is no pattern, yet becomes one, unanchored, once wrapped.
        compile(pattern)?;
        let regex = compile(&format!(r"\A(?:{pattern})\z"))?;
        Ok(Self { pattern: pattern.into(), regex })
    }

    /// Whether the pattern spans all of `value`.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for FullRegex {}

impl fmt::Display for FullRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|error| format!("regex `{pattern}`: {error}"))
}

fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Most memory one compiled pattern may take: 1 MiB, a hundred times what real route files need.
const REGEX_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_one_wildcard_at_an_end_and_refuses_it_elsewhere() {
        for (pattern, value, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/ab", true),
            ("/a*", "/b", false),
            ("*/health", "/svc/health", true),
            ("*/health", "/svc/healthy", false),
            ("*", "", true),
        ] {
            let matcher = ValueMatcher::pattern(pattern).unwrap();
            assert_eq!(matcher.matches(Some(value.as_bytes())), expected, "{pattern} {value}");
        }
        for pattern in ["/service/*health", "*a*", "**", "a**", "**a", "a*b*"] {
            assert!(ValueMatcher::pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_absent_value_matches_only_the_wish_for_absence() {
        assert!(ValueMatcher::Present(false).matches(None));
        for matcher in [ValueMatcher::pattern("*").unwrap(), ValueMatcher::exact(""), ValueMatcher::prefix("")] {
            assert!(!matcher.matches(None), "{matcher}");
        }
    }

    #[test]
    fn a_regex_cannot_break_out_of_its_anchors() {
        for pattern in ["a)|(b", "(", "[z-a]", "a{100000}{100000}"] {
            assert!(ValueMatcher::regex(pattern).is_err(), "{pattern}");
        }
        let either = ValueMatcher::regex("a|ab").unwrap();
        assert!(either.matches(Some(b"ab")), "alternatives are tried for the whole value");
        assert!(!either.matches(Some(b"abc")));
    }

    #[test]
    fn a_byte_that_is_not_utf8_does_not_hide_a_value() {
        assert!(ValueMatcher::regex(".*admin.*").unwrap().matches(Some(b"\xffadmin")));
        assert!(ValueMatcher::contains("admin").matches(Some(b"\xffadmin")));
    }
}
