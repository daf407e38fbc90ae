//! Answers that a rule gives itself: a redirect, or a response as written.
//!
//! Decides: where a redirect leads. Never: sends a request anywhere. Invariant: a redirect that would lead to the
//! request's own place is still given as written; whether it loops is the operator's to know.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Response, StatusCode, Uri, header};

use super::host::split_port;
use super::rewrite::replace_prefix;

/// What a rule answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go elsewhere.
    Redirect(Redirect),
    /// This response.
    Direct {
        /// Its status.
        status: StatusCode,
        /// Its body, as `text/plain`.
        body: Bytes,
    },
}

/// Where a redirect leads: what is `None` stays as it is in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// A host without port.
    pub host: Option<Box<str>>,
    /// A port. With a new scheme and no port the scheme's own is meant.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<NewPath>,
    /// Whether the query is left out.
    pub strip_query: bool,
}

/// How a redirect changes the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewPath {
    /// To this.
    Full(Box<str>),
    /// The matched prefix becomes this.
    Prefix(Box<str>),
}

impl Answer {
    /// The response to a request for `uri`. `matched` is the length of the matched prefix.
    pub fn respond<B>(&self, uri: &Uri, matched: Option<usize>) -> Result<Response<B>, http::Error>
    where
        B: From<Bytes>,
    {
        match self {
            Self::Redirect(redirect) => {
                let to = HeaderValue::from_str(&redirect.target(uri, matched)?.to_string())?;
                Response::builder().status(redirect.status).header(header::LOCATION, to).body(Bytes::new().into())
            }
            Self::Direct { status, body } => {
                let response = Response::builder().status(*status);
                let response = match body.is_empty() {
                    true => response,
                    false => response.header(header::CONTENT_TYPE, "text/plain; charset=utf-8"),
                };
                response.body(body.clone().into())
            }
        }
    }
}

impl Redirect {
    fn target(&self, uri: &Uri, matched: Option<usize>) -> Result<Uri, http::Error> {
        let mut parts = uri.clone().into_parts();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (host, port) = split_port(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        let scheme = self.scheme.clone().or_else(|| uri.scheme().cloned()).unwrap_or(Scheme::HTTP);
        // A port belongs to the scheme it was written for.
        let port = self.port.map(|port| port.to_string()).or(port.filter(|_| self.scheme.is_none()).map(str::to_owned));
        let usual = if scheme == Scheme::HTTPS { "443" } else { "80" };
        let host = self.host.as_deref().unwrap_or(host);
        let authority = match port.filter(|port| port != usual) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        parts.scheme = Some(scheme);
        parts.authority = Some(Authority::try_from(authority)?);
        parts.path_and_query = Some(self.path_and_query(uri, matched)?);
        Ok(Uri::from_parts(parts)?)
    }

    fn path_and_query(&self, uri: &Uri, matched: Option<usize>) -> Result<PathAndQuery, http::Error> {
        let path = match (&self.path, matched) {
            (Some(NewPath::Full(path)), _) => path.to_string(),
            (Some(NewPath::Prefix(prefix)), Some(matched)) => replace_prefix(uri, prefix, matched)?.path().to_owned(),
            _ => uri.path().to_owned(),
        };
        let target = match uri.query().filter(|_| !self.strip_query) {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        Ok(PathAndQuery::try_from(target)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unchanged() -> Redirect {
        Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None, strip_query: false }
    }

    #[test]
    fn a_redirect_changes_what_it_names_and_nothing_else() {
        let https = || Some(Scheme::HTTPS);
        for (from, redirect, expected) in [
            ("http://a/x?q=1", unchanged(), "http://a/x?q=1"),
            ("http://a:81/x", Redirect { scheme: https(), ..unchanged() }, "https://a/x"),
            ("http://a:81/x", Redirect { scheme: https(), port: Some(8443), ..unchanged() }, "https://a:8443/x"),
            ("http://a:81/x", Redirect { host: Some("b".into()), ..unchanged() }, "http://b:81/x"),
            ("http://a:81/x", Redirect { port: Some(80), ..unchanged() }, "http://a/x"),
            ("http://u@a/x?q", Redirect { strip_query: true, ..unchanged() }, "http://a/x"),
            ("http://a/x?q", Redirect { path: Some(NewPath::Full("/y".into())), ..unchanged() }, "http://a/y?q"),
            ("http://a/x/z?q", Redirect { path: Some(NewPath::Prefix("/y".into())), ..unchanged() }, "http://a/y/z?q"),
        ] {
            let response: Response<Bytes> =
                Answer::Redirect(redirect).respond(&from.parse().unwrap(), Some("/x".len())).unwrap();
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()["location"], expected, "{from}");
        }
    }

    #[test]
    fn a_direct_response_is_as_written() {
        let answer = Answer::Direct { status: StatusCode::GONE, body: Bytes::from_static(b"moved") };
        let response: Response<Bytes> = answer.respond(&"http://a/".parse().unwrap(), None).unwrap();
        assert_eq!((response.status(), &response.body()[..]), (StatusCode::GONE, &b"moved"[..]));
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    }
}
