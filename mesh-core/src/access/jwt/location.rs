//! Where a token may stand in a request.
//!
//! Decides: which text of a request is a token. Never: reads it. Invariant: what could be two tokens is refused, not
//! chosen from: whoever reads after us might choose the other one.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::{Refusal, cookie};
use crate::access::query::is_named;

/// A place for a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A header, after a prefix.
    Header {
        /// Its name.
        name: HeaderName,
        /// What stands before the token. One that ends with a space is an authentication scheme (RFC 9110 11.4): its
        /// case does not matter, nor how many spaces follow. Without it, the header holds something else.
        prefix: String,
    },
    /// A parameter of the query.
    Query(String),
    /// A cookie, by its name in its own case.
    Cookie(String),
}

impl Location {
    /// `Authorization: Bearer TOKEN` (RFC 6750 2.1).
    pub fn bearer() -> Self {
        Self::Header { name: AUTHORIZATION, prefix: "bearer ".to_owned() }
    }

    /// The token that stands there, if one does.
    pub(super) fn token<'r>(
        &self,
        headers: &'r HeaderMap,
        query: Option<&'r str>,
    ) -> Result<Option<Cow<'r, str>>, Refusal> {
        match self {
            Self::Header { name, prefix } => Ok(in_header(headers, name, prefix)?.map(Cow::Borrowed)),
            Self::Cookie(name) => Ok(cookie::value(headers, name)?.map(Cow::Borrowed)),
            Self::Query(name) => {
                let mut found = parameters(query.unwrap_or_default()).filter(|(key, _)| is_named(key, name));
                let Some((_, value)) = found.next() else { return Ok(None) };
                if found.next().is_some() {
                    return Err(Refusal::SeveralTokens);
                }
                Ok(Some(percent_decode_str(value).decode_utf8().map_err(|_| Refusal::Malformed)?))
            }
        }
    }
}

/// The query without the parameters of this name; `None` when nothing is left.
pub(super) fn without_parameter(query: &str, name: &str) -> Option<String> {
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_named(key(pair), name)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

fn in_header<'r>(headers: &'r HeaderMap, name: &HeaderName, prefix: &str) -> Result<Option<&'r str>, Refusal> {
    let mut tokens = Vec::new();
    for value in headers.get_all(name) {
        // Bytes outside of ASCII make no token, and what is meant by them is for nobody to guess.
        match value.to_str() {
            Ok(text) => tokens.extend(after_prefix(text, prefix)),
            Err(_) => return Err(Refusal::Malformed),
        }
    }
    match tokens[..] {
        [] => Ok(None),
        [token] if headers.get_all(name).iter().nth(1).is_none() => Ok(Some(token)),
        _ => Err(Refusal::SeveralTokens),
    }
}

pub(super) fn after_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let Some(scheme) = prefix.strip_suffix(' ') else {
        return without_prefix(text, prefix).map(|token| token.trim_matches(' '));
    };
    let rest = without_prefix(text.trim_matches(' '), scheme)?;
    let is_scheme = rest.is_empty() || rest.starts_with([' ', '\t']);
    is_scheme.then(|| rest.trim_matches(' '))
}

fn without_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_stands_after_its_scheme_and_another_scheme_is_none() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["Bearer a.b.c"], Ok(Some("a.b.c"))),
            (&["bearer a.b.c"], Ok(Some("a.b.c"))),
            (&["BEARER   a.b.c "], Ok(Some("a.b.c"))),
            (&["Basic a.b.c"], Ok(None)),
            (&["Bearers a.b.c"], Ok(None)),
            (&["Bear"], Ok(None)),
            (&[""], Ok(None)),
            // The scheme says that there is a token; that it cannot be one is for the reader to find.
            (&["Bearer"], Ok(Some(""))),
            (&["Bearer "], Ok(Some(""))),
            (&["Bearer\ta.b.c"], Ok(Some("\ta.b.c"))),
            (&["Bearer a.b.c, Bearer d.e.f"], Ok(Some("a.b.c, Bearer d.e.f"))),
            (&["Bearer a.b.c", "Bearer d.e.f"], Err(Refusal::SeveralTokens)),
            (&["Bearer a.b.c", "Bearer a.b.c"], Err(Refusal::SeveralTokens)),
            (&["Basic x", "Bearer a.b.c"], Err(Refusal::SeveralTokens)),
            (&["Basic x", "Basic y"], Ok(None)),
        ] {
            let headers = headers(values);
            let found = Location::bearer().token(&headers, None);
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().map(|token| *token), "{values:?}");
        }
        let mut odd = HeaderMap::new();
        odd.insert(AUTHORIZATION, http::HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(Location::bearer().token(&odd, None), Err(Refusal::Malformed));
    }

    #[test]
    fn a_header_of_its_own_needs_no_scheme() {
        let plain = Location::Header { name: AUTHORIZATION, prefix: String::new() };
        assert_eq!(plain.token(&headers(&[" a.b.c "]), None).unwrap().as_deref(), Some("a.b.c"));
        assert_eq!(plain.token(&headers(&[]), None).unwrap(), None);
        let prefixed = Location::Header { name: AUTHORIZATION, prefix: "jwt=".to_owned() };
        assert_eq!(prefixed.token(&headers(&["JWT=a.b.c"]), None).unwrap().as_deref(), Some("a.b.c"));
        assert_eq!(prefixed.token(&headers(&["a.b.c"]), None).unwrap(), None);
    }

    #[test]
    fn a_parameter_is_found_however_its_name_is_written_and_leaves_no_trace() {
        let place = Location::Query("token".to_owned());
        for (query, expected, rest) in [
            ("token=a.b.c", Ok(Some("a.b.c")), None),
            ("x=1&token=a.b.c&y", Ok(Some("a.b.c")), Some("x=1&y")),
            ("x=1&%74oken=a%2Eb.c", Ok(Some("a.b.c")), Some("x=1")),
            ("token", Ok(Some("")), None),
            ("xtoken=1&tokens=2", Ok(None), Some("xtoken=1&tokens=2")),
            ("token=a&token=b", Err(Refusal::SeveralTokens), None),
            ("token=a&%74oken=b", Err(Refusal::SeveralTokens), None),
            ("token=%ff", Err(Refusal::Malformed), None),
        ] {
            let headers = HeaderMap::new();
            let found = place.token(&headers, Some(query));
            assert_eq!(found.as_ref().map(Option::as_deref), expected.as_ref().map(|token| *token), "{query}");
            assert_eq!(without_parameter(query, "token").as_deref(), rest, "{query}");
        }
        assert_eq!(place.token(&HeaderMap::new(), None).unwrap(), None);
    }
}
