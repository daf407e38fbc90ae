//! How a matched request is renamed before it is sent on.
//!
//! Decides: the new authority and the new path. Never: touches query, method or body.
//! Invariant: joining the new prefix and the rest of the path never makes or loses a slash at the
//! seam, and the result starts with exactly one `/`.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Uri, header};

/// A host rewrite, a prefix rewrite, both or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    host: Option<(Authority, HeaderValue)>,
    prefix: Option<Box<str>>,
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
        Ok(Self { host, prefix: prefix.map(Into::into) })
    }

    /// Whether it needs to know which prefix matched.
    pub fn has_prefix(&self) -> bool {
        self.prefix.is_some()
    }

    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        self.host.is_none() && self.prefix.is_none()
    }

    /// Rewrites a request. `matched` is the length of the matched prefix (`Matched::prefix_len`);
    /// without one the path stays.
    ///
    /// The new authority goes wherever the old one is: into the URI, the `host` header or both; if
    /// there is none, into the header. On an error the request is unchanged.
    pub fn apply(&self, uri: &mut Uri, headers: &mut HeaderMap, matched: Option<usize>) -> Result<(), http::Error> {
        let mut parts = uri.clone().into_parts();
        let in_uri = parts.authority.is_some();
        if let (true, Some((authority, _))) = (in_uri, &self.host) {
            parts.authority = Some(authority.clone());
        }
        if let (Some(prefix), Some(matched)) = (&self.prefix, matched) {
            parts.path_and_query = Some(replace_prefix(uri, prefix, matched)?);
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
    let mut path = join(prefix, rest);
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
            rewrite.apply(&mut uri, &mut HeaderMap::new(), len).unwrap();
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
            rewrite.apply(&mut uri, &mut HeaderMap::new(), Some(matched.len())).unwrap();
            assert_eq!(uri.to_string(), expected, "{target} {matched} {prefix}");
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
            rewrite.apply(&mut uri, &mut headers, None).unwrap();
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
        Rewrite::new(None, Some("/x")).unwrap().apply(&mut uri, &mut HeaderMap::new(), None).unwrap();
        assert_eq!(uri, "/a/b");
    }
}
