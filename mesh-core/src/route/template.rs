//! Path templates: `{*}` stands for one segment, `{**}` for any number of them.
//!
//! Decides: whether a path fits, and what the named operators took. Never: decodes.
//! Invariant: at most one `{**}` is in a template, so there is nothing to search for.

use std::fmt;

use crate::config::path_template::{TemplateSegment, TemplateText};
use crate::config::value::TextValue;

/// A path with operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(TemplateText);

impl PathTemplate {
    /// Whether a text has to be read as a template.
    pub fn is_template(text: &str) -> bool {
        text.contains('{') || text.contains('}')
    }

    /// Reads a template whose operators may have names.
    pub fn parse(text: &str) -> Result<Self, String> {
        TemplateText::parse(text).map(Self).map_err(|error| error.message)
    }

    /// Reads a template as Istio's policies have them: only `{*}` and `{**}`.
    pub fn without_names(text: &str) -> Result<Self, String> {
        let template = Self::parse(text)?;
        if template.0.names().next().is_some() {
            return Err("a template has no operators besides {*} and {**}".to_owned());
        }
        Ok(template)
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &str) -> bool {
        self.places(path).is_some()
    }

    /// What the operator of this name took of a path that fits.
    pub fn captured<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        let at = self.0.segments().iter().position(|segment| segment.name() == Some(name))?;
        self.places(path)?.get(at).copied()
    }

    /// Whether an operator has this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.names().any(|known| known == name)
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// What each segment of the template stands for in a path that fits.
    fn places<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let path = path.strip_prefix('/')?;
        let template = self.0.segments();
        let any = template.iter().position(|segment| matches!(segment, TemplateSegment::Any(_)));
        let mut places = Vec::with_capacity(template.len());
        let mut rest = Some(path);
        for (at, segment) in template.iter().enumerate() {
            // `/a/{**}` takes `/a/`, not `/a`: the operator's own slash has to be there.
            let text = rest?;
            let taken = if any == Some(at) { any_of(text, template.len() - at - 1)? } else { first_of(text) };
            rest = taken.1;
            let fits = match segment {
                TemplateSegment::Literal(literal) => taken.0 == literal,
                TemplateSegment::One(_) => !taken.0.is_empty(),
                TemplateSegment::Any(_) => true,
            };
            if !fits {
                return None;
            }
            places.push(taken.0);
        }
        rest.is_none().then_some(places)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The first segment, and what follows its slash.
fn first_of(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)))
}

/// All but the last segments, so many; `None` if there are fewer.
fn any_of(text: &str, last: usize) -> Option<(&str, Option<&str>)> {
    if last == 0 {
        return Some((text, None));
    }
    match text.rmatch_indices('/').nth(last - 1) {
        Some((at, _)) => Some((&text[..at], Some(&text[at + 1..]))),
        // `/a/{**}/z` takes `/a/z`: the operator stands for no segment at all.
        None => (text.matches('/').count() + 1 == last).then_some(("", Some(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_stands_for_whole_segments() {
        for (template, path, expected) in [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a", false),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}/z", "/a/z", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/b/zz", false),
            ("/a/{**}/z", "/a/z/", false),
            ("/a/{**}/y/z", "/a/y/z", true),
            ("/a/{**}/y/z", "/a/z", false),
            ("/{*}/x", "/a/x", true),
            ("/{**}", "/", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/{id}", "/a/7", true),
        ] {
            assert_eq!(PathTemplate::parse(template).unwrap().matches(path), expected, "{template} {path}");
        }
    }

    #[test]
    fn istios_templates_have_no_names() {
        for text in ["/{**}/a/{*}", "/{**}/{**}", "/a{*}b", "/{*}/a*", "{*}", "/{x}", "/{*"] {
            assert!(PathTemplate::without_names(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_what_its_operator_took() {
        let template = PathTemplate::parse("/v1/{id}/{*}/{rest=**}/end").unwrap();
        for (path, id, rest) in [("/v1/a%2Fb/x/p/q/end", "a%2Fb", "p/q"), ("/v1/a/x/end", "a", "")] {
            assert_eq!(template.captured(path, "id"), Some(id), "{path}");
            assert_eq!(template.captured(path, "rest"), Some(rest), "{path}");
        }
        assert_eq!(template.captured("/v1/a/x/end", "other"), None);
        assert_eq!(template.captured("/v2/a/x/end", "id"), None);
    }
}
