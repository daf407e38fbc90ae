//! How a matched request is renamed before it is sent on.
//!
//! Decides: the new authority and the new path. Never: touches query, method or body.
//! Invariant: joining the new prefix and the rest of the path never makes or loses a slash at the
//! seam, and the result starts with exactly one `/`.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Uri, header};

use super::template::PathTemplate;
use crate::config::path_template::{RewritePart, RewriteText};
use crate::config::value::TextValue;

/// A host rewrite, a path rewrite, both or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    host: Option<(Authority, HeaderValue)>,
    path: Option<NewPath>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NewPath {
    /// Instead of the matched prefix.
    Prefix(Box<str>),
    /// Put together of what the matched template's operators took.
    Template(RewriteText),
}

/// What a match took of the path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken<'t> {
    /// Its first bytes, if it was a prefix match.
    pub prefix: Option<usize>,
    /// What its operators stand for, if it was a match by template.
    pub template: Option<&'t PathTemplate>,
}

impl Rewrite {
    /// Checks both parts. The empty prefix means `/`: the matched part is removed.
    pub fn new(host: Option<&str>, prefix: Option<&str>) -> Result<Self, String> {
        let host = host.map(parse_host).transpose()?;
        if let Some(prefix) = prefix {
            let fits = prefix.is_empty() || prefix.starts_with('/');
            if !fits || prefix.contains(['?', '#']) || prefix.starts_with("//") || !is_path(prefix) {
                return Err(format!("rewrite prefix `{prefix}` is not a path"));
            }
        }
        Ok(Self { host, path: prefix.map(|prefix| NewPath::Prefix(prefix.into())) })
    }

    /// The same rewrite with a path put together of what the matched template's operators took: `/v2/{rest}`.
    pub fn with_template(mut self, text: &str) -> Result<Self, String> {
        let template = RewriteText::parse(text).map_err(|error| format!("`{text}`: {}", error.message))?;
        self.path = Some(NewPath::Template(template));
        Ok(self)
    }

    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        self.host.is_none() && self.path.is_none()
    }

    /// Rewrites a request whose match took this of its path. Without the kind of match that the rewrite is for, the
    /// path stays.
    ///
    /// The new authority goes wherever the old one is: into the URI, the `host` header or both; if
    /// there is none, into the header. On an error the request is unchanged.
    pub fn apply(&self, uri: &mut Uri, headers: &mut HeaderMap, taken: Taken<'_>) -> Result<(), http::Error> {
        let mut parts = uri.clone().into_parts();
        let in_uri = parts.authority.is_some();
        if let (true, Some((authority, _))) = (in_uri, &self.host) {
            parts.authority = Some(authority.clone());
        }
        match (&self.path, taken) {
            (Some(NewPath::Prefix(prefix)), Taken { prefix: Some(matched), .. }) => {
                parts.path_and_query = Some(replace_prefix(uri, prefix, matched)?);
            }
            (Some(NewPath::Template(rewrite)), Taken { template: Some(matched), .. }) => {
                parts.path_and_query = Some(with_query(fill(rewrite, matched, uri.path()), uri)?);
            }
            _ => {}
        }
        *uri = Uri::from_parts(parts)?;
        if let Some((_, value)) = self.host.as_ref().filter(|_| !in_uri || headers.contains_key(header::HOST)) {
            headers.insert(header::HOST, value.clone());
        }
        Ok(())
    }
}

fn parse_host(host: &str) -> Result<(Authority, HeaderValue), String> {
    let wrong = || format!("rewrite host `{host}` is not an authority");
    let authority: Authority = host.parse().map_err(|_| wrong())?;
    let value = HeaderValue::from_str(host).map_err(|_| wrong())?;
    if host.contains('@') { Err(wrong()) } else { Ok((authority, value)) }
}

fn is_path(prefix: &str) -> bool {
    prefix.is_empty() || prefix.parse::<PathAndQuery>().is_ok()
}

pub(super) fn replace_prefix(uri: &Uri, prefix: &str, matched: usize) -> Result<PathAndQuery, http::Error> {
    let rest = uri.path().get(matched..).unwrap_or_default();
    with_query(join(prefix, rest), uri)
}

fn fill(rewrite: &RewriteText, matched: &PathTemplate, path: &str) -> String {
    let parts = rewrite.parts().iter().map(|part| match part {
        RewritePart::Literal(text) => text.as_str(),
        RewritePart::Captured(name) => matched.captured(path, name).unwrap_or_default(),
    });
    let path = parts.collect::<String>();
    // What an operator took may begin with a slash: `//x` would read as an authority elsewhere.
    if path.starts_with("//") { format!("/{}", path.trim_start_matches('/')) } else { path }
}

fn with_query(mut path: String, uri: &Uri) -> Result<PathAndQuery, http::Error> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    Ok(PathAndQuery::try_from(path)?)
}

fn join(prefix: &str, rest: &str) -> String {
    let head = if rest.starts_with('/') { prefix.trim_end_matches('/') } else { prefix };
    // An empty head leaves `rest` to start the path: `//x` would read as an authority elsewhere.
    let rest = if head.is_empty() { rest.trim_start_matches('/') } else { rest };
    let root = if head.is_empty() { "/" } else { "" };
    [root, head, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_without_making_or_losing_a_slash() {
        // The first eleven rows are Gateway API's table for ReplacePrefixMatch.
        for (target, matched, prefix, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/", "/", "/v2", "/v2/"),
            ("/x?a=/foo&b", "/", "/v2", "/v2/x?a=/foo&b"),
            ("/foo?q", "/foo", "/", "/?q"),
            ("/foo//evil", "/foo", "/", "/evil"),
            ("/foo//x", "/foo", "/v2", "/v2//x"),
        ] {
            let len = crate::route::PathMatcher::prefix(matched).unwrap().prefix_len();
            let rewrite = Rewrite::new(None, Some(prefix)).unwrap();
            let mut uri: Uri = target.parse().unwrap();
            rewrite.apply(&mut uri, &mut HeaderMap::new(), Taken { prefix: len, template: None }).unwrap();
            assert_eq!(uri.to_string(), expected, "{target} {matched} {prefix}");
        }
    }

    #[test]
    fn a_raw_prefix_is_replaced_letter_by_letter() {
        for (target, matched, prefix, expected) in [
            ("/abc", "/ab", "/x", "/xc"),
            ("/a/b", "/a/", "/x/", "/x/b"),
            ("/abc", "/ab", "/", "/c"),
            ("/ab", "/ab", "", "/"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            let rewrite = Rewrite::new(None, Some(prefix)).unwrap();
            let taken = Taken { prefix: Some(matched.len()), template: None };
            rewrite.apply(&mut uri, &mut HeaderMap::new(), taken).unwrap();
            assert_eq!(uri.to_string(), expected, "{target} {matched} {prefix}");
        }
    }

    #[test]
    fn a_path_is_put_together_of_what_a_template_took() {
        let template = PathTemplate::parse("/{lang}/x/{rest=**}").unwrap();
        for (target, rewrite, expected) in [
            ("/de/x/a/b?q=/", "/v2/{rest}/{lang}", "/v2/a/b/de?q=/"),
            ("/de/x/a%2Fb", "/{rest}", "/a%2Fb"),
            ("/de/x//evil", "/{rest}", "/evil"),
            ("/de/x/", "/{rest}", "/"),
            ("/de/x/a", "/{lang}-{rest}.html", "/de-a.html"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            let rewrite = Rewrite::default().with_template(rewrite).unwrap();
            let taken = Taken { prefix: None, template: Some(&template) };
            rewrite.apply(&mut uri, &mut HeaderMap::new(), taken).unwrap();
            assert_eq!(uri.to_string(), expected, "{target}");
        }
    }

    #[test]
    fn a_host_is_replaced_wherever_it_stands() {
        let rewrite = Rewrite::new(Some("b.example:81"), None).unwrap();
        for (uri, host, expected_uri, expected_host) in [
            ("http://a/x?y", None, "http://b.example:81/x?y", None),
            ("http://a/x", Some("a"), "http://b.example:81/x", Some("b.example:81")),
            ("/x", Some("a"), "/x", Some("b.example:81")),
            ("/x", None, "/x", Some("b.example:81")),
        ] {
            let mut uri: Uri = uri.parse().unwrap();
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(header::HOST, HeaderValue::from_static(host));
            }
            rewrite.apply(&mut uri, &mut headers, Taken::default()).unwrap();
            assert_eq!(uri.to_string(), expected_uri);
            assert_eq!(headers.get(header::HOST).map(|value| value.to_str().unwrap()), expected_host);
        }
    }

    #[test]
    fn an_impossible_rewrite_is_refused_when_it_is_compiled() {
        for host in ["", "a b", "a/b", "u@a"] {
            assert!(Rewrite::new(Some(host), None).is_err(), "{host}");
        }
        for prefix in ["x", "/a?b", "/a#b", "//a", "/a b"] {
            assert!(Rewrite::new(None, Some(prefix)).is_err(), "{prefix}");
        }
        assert!(Rewrite::default().is_none());
    }

    #[test]
    fn without_a_matched_prefix_the_path_stays() {
        let mut uri: Uri = "/a/b".parse().unwrap();
        Rewrite::new(None, Some("/x")).unwrap().apply(&mut uri, &mut HeaderMap::new(), Taken::default()).unwrap();
        assert_eq!(uri, "/a/b");
    }
}
