//! Path templates, as they are written: `/v1/{*}/x/{**}`, with names `/v1/{version}/x/{rest=**}`.
//!
//! Decides: what a well-formed template is (Envoy's `uri_template`, Istio's `{*}` and `{**}`). Never: matches.
//! Invariant: at most one `{**}`, and no operator after it, so that there is nothing to search for.

use super::value::{TextValue, ValueError, text_serde};

/// A path with operators, well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText {
    text: String,
    segments: Vec<TemplateSegment>,
}

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSegment {
    /// This text.
    Literal(String),
    /// One segment that is not empty, by name if it has one.
    One(Option<String>),
    /// Any number of segments.
    Any(Option<String>),
}

impl TemplateText {
    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments, without the leading slash.
    pub fn segments(&self) -> &[TemplateSegment] {
        &self.segments
    }

    /// The names of its operators, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(TemplateSegment::name)
    }
}

impl TemplateSegment {
    /// The operator's name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::One(name) | Self::Any(name) => name.as_deref(),
        }
    }

    fn parse(segment: &str) -> Result<Self, ValueError> {
        let Some(inner) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return match segment {
                literal if literal.contains(['{', '}']) => {
                    Err(ValueError::new("an operator has to be a whole segment"))
                }
                literal if literal.contains('*') => {
                    Err(ValueError::new("a template has no wildcards besides {*} and {**}"))
                }
                literal if literal.contains(['?', '#']) => {
                    Err(ValueError::new("a path holds neither a query nor a fragment"))
                }
                literal => Ok(Self::Literal(literal.to_owned())),
            };
        };
        match inner.split_once('=') {
            None if inner == "*" => Ok(Self::One(None)),
            None if inner == "**" => Ok(Self::Any(None)),
            None => named(inner).map(|name| Self::One(Some(name))),
            Some((name, "*")) => named(name).map(|name| Self::One(Some(name))),
            Some((name, "**")) => named(name).map(|name| Self::Any(Some(name))),
            Some(_) => Err(ValueError::new("after `=` stands `*` or `**`")),
        }
    }
}

impl TextValue for TemplateText {
    const FORMAT: &'static str = "path-template";
    const EXPECTED: &'static str = "a path like /v1/{*}/x/{**} or /v1/{version}/{rest=**}";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let path = text.strip_prefix('/').ok_or_else(|| ValueError::new("a path template begins with `/`"))?;
        let mut segments = Vec::new();
        for segment in path.split('/') {
            let segment = TemplateSegment::parse(segment)?;
            let is_operator = !matches!(segment, TemplateSegment::Literal(_));
            if is_operator && segments.iter().any(|earlier| matches!(earlier, TemplateSegment::Any(_))) {
                return Err(ValueError::new("no operator may follow {**}"));
            }
            if segment.name().is_some() && segments.iter().any(|earlier| earlier.name() == segment.name()) {
                return Err(ValueError::new("a name stands twice"));
            }
            segments.push(segment);
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}

impl std::fmt::Display for TemplateText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

text_serde!(TemplateText);

/// A path that is put together of what a template's operators took: `/v2/{rest}/{version}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteText {
    text: String,
    parts: Vec<RewritePart>,
}

/// A piece of a rewritten path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritePart {
    /// This text.
    Literal(String),
    /// What the operator of this name took.
    Captured(String),
}

impl RewriteText {
    /// The pieces, in order.
    pub fn parts(&self) -> &[RewritePart] {
        &self.parts
    }

    /// The names it needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            RewritePart::Literal(_) => None,
            RewritePart::Captured(name) => Some(name.as_str()),
        })
    }
}

impl TextValue for RewriteText {
    const FORMAT: &'static str = "path-rewrite";
    const EXPECTED: &'static str = "a path with names of the matched template, like /v2/{rest}/{version}";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if !text.starts_with('/') || text.starts_with("//") || text.contains(['?', '#', ' ']) {
            return Err(ValueError::new("a path begins with one `/` and holds neither a query nor a fragment"));
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| ValueError::new("a `{` without its `}`"))?;
            parts.push(RewritePart::Literal(literal.to_owned()));
            parts.push(RewritePart::Captured(named(name)?));
            rest = after;
        }
        parts.push(RewritePart::Literal(rest.to_owned()));
        if parts.iter().any(|part| matches!(part, RewritePart::Literal(literal) if literal.contains('}'))) {
            return Err(ValueError::new("a `}` without its `{`"));
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl std::fmt::Display for RewriteText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

text_serde!(RewriteText);

/// Envoy: a letter, then letters, digits and `_`; at most 16 characters.
fn named(name: &str) -> Result<String, ValueError> {
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.len() <= MAX_NAME;
    let wrong = "the name of an operator is a letter and then letters, digits and `_`, 16 at most";
    if is_name { Ok(name.to_owned()) } else { Err(ValueError::new(wrong)) }
}

const MAX_NAME: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_would_be_ambiguous_is_refused() {
        for text in [
            "/{**}/a/{*}",
            "/{**}/{**}",
            "/a{*}b",
            "/{*}/a*",
            "{*}",
            "/{1}",
            "/{*",
            "/{a}/{a}",
            "/{a=x}",
            "/{}",
            "/a?b",
        ] {
            assert!(TemplateText::parse(text).is_err(), "{text}");
        }
        for text in ["a", "//a", "/a?b", "/{", "/}", "/{*}", "/{a", "/a b"] {
            assert!(RewriteText::parse(text).is_err(), "{text}");
        }
        assert_eq!(RewriteText::parse("/x/{a}-{b}").unwrap().names().collect::<Vec<_>>(), ["a", "b"]);
        let named = TemplateText::parse("/v1/{version}/{*}/{rest=**}").unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), ["version", "rest"]);
    }
}
