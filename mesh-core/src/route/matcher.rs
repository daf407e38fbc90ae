//! A request against one rule's conditions; routing and access control share it.
//!
//! Decides: whether all conditions of a match hold, and which one fails first. Never: reads a body,
//! decodes a path or keeps state.
//! Invariant: several values of one header are one value, joined with `,` in wire order, so that a
//! second line can neither add a match nor dodge one. An absent header matches no value condition,
//! inverted or not; only presence can be asked of it.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName, Method, Uri};
use percent_encoding::percent_decode;

use super::path::PathMatcher;
use super::source::SourceMatcher;
use super::value::ValueMatcher;

/// What a matcher may look at.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method; compared case-sensitively.
    pub method: &'a Method,
    /// The path, without the query.
    pub path: &'a str,
    /// What follows the `?`, if there is one.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Who asks, proven.
    pub principal: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    /// The head of an `http` request. An absolute URI without a path asks for `/`.
    pub fn new(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        Self { method, path: uri.path(), query: uri.query(), headers, principal: None }
    }

    /// The same head, asked by this SPIFFE ID.
    #[must_use]
    pub fn asked_by(self, principal: Option<&'a str>) -> Self {
        Self { principal, ..self }
    }
}

/// Conditions that must all hold. The default has none and matches every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// The path; `None` takes any.
    pub path: Option<PathMatcher>,
    /// The methods; none named takes any.
    pub methods: MethodMatcher,
    /// Header conditions.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameter conditions.
    pub query: Vec<QueryMatcher>,
    /// Who asks; `None`: anybody.
    pub source: Option<SourceMatcher>,
}

impl RequestMatch {
    /// Whether every condition holds.
    pub fn matches(&self, head: RequestHead<'_>) -> bool {
        self.first_failure(head).is_none()
    }

    /// The first condition that does not hold, cheapest first; `None` when the request matches.
    pub fn first_failure(&self, head: RequestHead<'_>) -> Option<Condition<'_>> {
        if let Some(path) = self.path.as_ref().filter(|path| !path.matches(head.path)) {
            return Some(Condition::Path(path));
        }
        if !self.methods.matches(head.method) {
            return Some(Condition::Method(&self.methods));
        }
        if let Some(header) = self.headers.iter().find(|header| !header.matches(head.headers)) {
            return Some(Condition::Header(header));
        }
        if let Some(source) = self.source.as_ref().filter(|source| !source.matches(head.principal)) {
            return Some(Condition::Source(source));
        }
        self.query.iter().find(|query| !query.matches(head.query)).map(Condition::Query)
    }

    /// Whether every request `other` takes is surely taken by `self`. May say no when in doubt.
    pub fn covers(&self, other: &Self) -> bool {
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(mine), Some(theirs)) => mine.covers(theirs),
            (Some(_), None) => false,
        };
        path && self.methods.covers(&other.methods)
            && self.headers.iter().all(|header| other.headers.contains(header))
            && self.query.iter().all(|query| other.query.contains(query))
            && (self.source.is_none() || self.source == other.source)
    }
}

/// The first of several alternatives that matches. An empty list takes everything: `Some(None)`.
pub fn first_match<'m>(alternatives: &'m [RequestMatch], head: RequestHead<'_>) -> Option<Option<&'m RequestMatch>> {
    match alternatives {
        [] => Some(None),
        some => some.iter().find(|alternative| alternative.matches(head)).map(Some),
    }
}

/// One condition, to be shown to a person. Never shows a value of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The path.
    Path(&'a PathMatcher),
    /// The method.
    Method(&'a MethodMatcher),
    /// A header.
    Header(&'a HeaderMatcher),
    /// A query parameter.
    Query(&'a QueryMatcher),
    /// Who asks.
    Source(&'a SourceMatcher),
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path: {path}"),
            Self::Method(methods) => write!(f, "method: {methods}"),
            Self::Header(header) => write!(f, "header {header}"),
            Self::Query(query) => write!(f, "query {}: {}", query.name, query.value),
            Self::Source(_) => f.write_str("source"),
        }
    }
}

/// A set of methods. `HEAD` is not `GET`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MethodMatcher {
    methods: Vec<Method>,
}

impl MethodMatcher {
    /// Any of these methods; an empty list takes every method.
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Self, String> {
        let parse = |name: &S| {
            let name = name.as_ref();
            Method::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not an HTTP method"))
        };
        Ok(Self { methods: names.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// Whether the method is in the set.
    pub fn matches(&self, method: &Method) -> bool {
        self.is_any() || self.methods.contains(method)
    }

    /// Whether the set takes every method.
    pub fn is_any(&self) -> bool {
        self.methods.is_empty()
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_any() || (!other.is_any() && other.methods.iter().all(|method| self.methods.contains(method)))
    }
}

impl fmt::Display for MethodMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, method) in self.methods.iter().enumerate() {
            write!(f, "{}{method}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// One header and what its value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatcher {
    name: HeaderName,
    value: ValueMatcher,
    invert: bool,
    missing_as_empty: bool,
}

impl HeaderMatcher {
    /// A condition on the header `name`, whose case does not matter.
    pub fn new(name: &str, value: ValueMatcher) -> Result<Self, String> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header name"))?;
        Ok(Self { name, value, invert: false, missing_as_empty: false })
    }

    /// Sets whether the value must *not* fit. An absent header still matches neither way.
    #[must_use]
    pub fn inverted(mut self, invert: bool) -> Self {
        self.invert = invert;
        self
    }

    /// Sets whether an absent header counts as an empty one (xDS `treat_missing_header_as_empty`).
    #[must_use]
    pub fn missing_as_empty(mut self, yes: bool) -> Self {
        self.missing_as_empty = yes;
        self
    }

    /// The header's name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Whether the condition holds.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let value = joined(&self.name, headers);
        let value = match value.as_deref() {
            None if self.missing_as_empty => Some(&b""[..]),
            other => other,
        };
        if value.is_none() && !matches!(self.value, ValueMatcher::Present(_)) {
            return false;
        }
        self.value.matches(value) != self.invert
    }
}

impl fmt::Display for HeaderMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.name, if self.invert { "not " } else { "" }, self.value)
    }
}

/// The one value of a header: its lines joined with `,`. Allocates only if there are several.
pub fn joined<'h>(name: &HeaderName, headers: &'h HeaderMap) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let value = value.to_mut();
        value.push(b',');
        value.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// One query parameter and what its first value must be. Names and values are case-sensitive.
///
/// Both are compared as the application will read them: `%41` and `+` decoded. Envoy compares them
/// raw, which lets `?role=%61dmin` past a rule on `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatcher {
    name: Box<str>,
    value: ValueMatcher,
}

impl QueryMatcher {
    /// A condition on the parameter `name`.
    pub fn new(name: &str, value: ValueMatcher) -> Result<Self, String> {
        match name {
            "" => Err("a query parameter needs a name".to_owned()),
            name => Ok(Self { name: name.into(), value }),
        }
    }

    /// Whether the condition holds for what follows the `?`.
    pub fn matches(&self, query: Option<&str>) -> bool {
        self.value.matches(self.first_value(query.unwrap_or_default()).as_deref())
    }

    fn first_value<'q>(&self, query: &'q str) -> Option<Cow<'q, [u8]>> {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs.filter(|(name, _)| *decoded(name) == *self.name.as_bytes());
        values.next().map(|(_, value)| decoded(value))
    }
}

/// Form decoding (WHATWG URL, `application/x-www-form-urlencoded`); allocates only if needed.
fn decoded(raw: &str) -> Cow<'_, [u8]> {
    match raw.contains('+') {
        false => percent_decode(raw.as_bytes()).into(),
        true => Cow::Owned(percent_decode(raw.replace('+', " ").as_bytes()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::route::tests_support::{cases, header_map, header_matcher};

    #[test]
    fn headers_match_as_the_vectors_say() {
        let cases = cases("header_matcher");
        for case in &cases {
            let matcher = header_matcher(&case["matcher"]);
            let headers = header_map(&case["request_headers"]);
            assert_eq!(Value::from(matcher.matches(&headers)), case["expected"]["match"], "{}", case["id"]);
        }
        assert_eq!(cases.len(), 78);
    }

    #[test]
    fn a_second_header_line_does_not_dodge_a_deny_rule() {
        let cases = cases("rule");
        for case in &cases {
            let rule = &case["deny_rule"];
            let value = ValueMatcher::contains(rule["contains_value"].as_str().unwrap());
            let matcher = HeaderMatcher::new(rule["header"].as_str().unwrap(), value).unwrap();
            let denied = matcher.matches(&header_map(&case["request_headers"]));
            assert_eq!(Value::from(denied), case["expected"]["denied"], "{}", case["id"]);
        }
        assert_eq!(cases.len(), 1);
    }

    #[test]
    fn a_wildcard_in_the_middle_is_refused() {
        let cases = cases("config");
        for case in &cases {
            let pattern = case["host_or_path_pattern"].as_str().unwrap();
            assert_eq!(Value::from(ValueMatcher::pattern(pattern).is_ok()), case["expected"]["valid"]);
            assert_eq!(Value::from(crate::route::HostPattern::parse(pattern).is_ok()), case["expected"]["valid"]);
        }
        assert_eq!(cases.len(), 1);
    }

    #[test]
    fn a_query_is_read_as_the_application_reads_it() {
        for (name, value, query, expected) in [
            ("role", "admin", "role=%61dmin", true),
            ("role", "admin", "%72ole=admin", true),
            ("q", "a b", "q=a+b", true),
            ("q", "a b", "q=a%20b", true),
            ("q", "a+b", "q=a%2Bb", true),
            ("q", "x=y", "q=x=y", true),
            ("q", "", "q", true),
            ("q", "", "", false),
            ("q", "1", "q=2&q=1", false),
        ] {
            let matcher = QueryMatcher::new(name, ValueMatcher::exact(value)).unwrap();
            assert_eq!(matcher.matches(Some(query)), expected, "{query}");
        }
        assert!(!QueryMatcher::new("q", ValueMatcher::exact("")).unwrap().matches(None));
        assert!(QueryMatcher::new("", ValueMatcher::exact("")).is_err());
    }

    #[test]
    fn names_that_are_no_http_names_are_refused() {
        assert!(HeaderMatcher::new("a b", ValueMatcher::Present(true)).is_err());
        assert!(MethodMatcher::new(&["GET", "P ST"]).is_err());
    }
}
