//! Sticky sessions: a client stays with the endpoint that answered it first.
//!
//! Decides: which endpoint a request's session names, and whether the response has to name another.
//! Never: whether that endpoint may be used; the cluster does. Unlike a hash, a session moves no
//! request when other endpoints come or go, also when it is drained by weight 0 (gRFC A55, A60).
//! Invariant: a session names an endpoint of its cluster or nothing; what a client makes up leads
//! nowhere else. It is not a secret: who reads it knows the endpoint's address (Envoy, too).
//!
//! # Format
//! The address, in Base64: `MTAuMC4wLjE6ODA=` for `10.0.0.1:80` (Envoy's header form).

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::hash_policy::{Cookie, value_of};

/// How a session is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// By what.
    pub carrier: Carrier,
    /// Whether a request fails if the endpoint of its session cannot take it, instead of going to
    /// another, which then has the session.
    pub is_strict: bool,
}

/// What names the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie. Requests outside its path have no session.
    Cookie(Cookie),
    /// A header, of request and response; the application takes it from one to the other.
    Header(HeaderName),
}

impl Session {
    /// The endpoint that the request's session names.
    pub fn endpoint(&self, path: &str, headers: &HeaderMap) -> Option<SocketAddr> {
        let text = match &self.carrier {
            Carrier::Cookie(cookie) if !covers(&cookie.path, path) => None,
            Carrier::Cookie(cookie) => value_of(headers, &cookie.name),
            Carrier::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()),
        };
        let decoded = STANDARD.decode(text?).ok()?;
        std::str::from_utf8(&decoded).ok()?.parse().ok()
    }

    /// What the response to a request for `path` has to say, if `endpoint` answered it.
    pub fn header(&self, path: &str, endpoint: SocketAddr) -> Option<(HeaderName, HeaderValue)> {
        let value = STANDARD.encode(endpoint.to_string());
        match &self.carrier {
            Carrier::Cookie(cookie) if !covers(&cookie.path, path) => None,
            Carrier::Cookie(cookie) => Some((header::SET_COOKIE, cookie.set(&value)?)),
            Carrier::Header(name) => Some((name.clone(), HeaderValue::from_str(&value).ok()?)),
        }
    }
}

/// RFC 6265 5.1.4: whether a cookie's path takes that of a request. An empty one takes every path.
fn covers(own: &str, path: &str) -> bool {
    let rest = path.strip_prefix(own);
    rest.is_some_and(|rest| rest.is_empty() || own.is_empty() || own.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cookie(path: &str) -> Session {
        let cookie = Cookie { name: "at".to_owned(), ttl: Some(Duration::from_secs(60)), path: path.to_owned() };
        Session { carrier: Carrier::Cookie(cookie), is_strict: false }
    }

    fn headers(name: &str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_session_is_the_address_in_base64() {
        let session = cookie("/");
        for (value, expected) in [
            ("at=MTAuMC4wLjE6ODA=", Some("10.0.0.1:80")),
            ("at=\"WzoxXTo4MA==\"", None),
            ("at=Wzo6MV06ODA=", Some("[::1]:80")),
            ("at=10.0.0.1:80", None),
            ("at=ZXhhbXBsZS5jb206ODA=", None),
            ("at=////", None),
            ("at=", None),
            ("b=MTAuMC4wLjE6ODA=", None),
        ] {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(session.endpoint("/", &headers("cookie", value)), expected, "{value}");
        }
    }

    #[test]
    fn what_a_response_says_is_understood_in_the_next_request() {
        for address in ["10.0.0.1:80", "[2001:db8::1]:8080"] {
            let address = address.parse().unwrap();
            let (name, value) = cookie("/").header("/x", address).unwrap();
            let text = value.to_str().unwrap();
            assert_eq!(name, "set-cookie");
            assert!(text.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{text}");
            let pair = text.split(';').next().unwrap();
            assert_eq!(cookie("/").endpoint("/x", &headers("cookie", pair)), Some(address));

            let session = Session { carrier: Carrier::Header("x-at".parse().unwrap()), is_strict: true };
            let (name, value) = session.header("/x", address).unwrap();
            assert_eq!(session.endpoint("/", &HeaderMap::from_iter([(name, value)])), Some(address));
        }
    }

    #[test]
    fn a_request_outside_the_cookies_path_has_no_session() {
        for (own, path, expected) in [
            ("/foo", "/foo", true),
            ("/foo", "/foo/bar", true),
            ("/foo", "/foobar", false),
            ("/foo/", "/foo/bar", true),
            ("/foo/", "/foo", false),
            ("/", "/foo", true),
            ("", "/foo", true),
        ] {
            let sent = headers("cookie", "at=MTAuMC4wLjE6ODA=");
            assert_eq!(cookie(own).endpoint(path, &sent).is_some(), expected, "{own} {path}");
            let answered = cookie(own).header(path, "10.0.0.2:80".parse().unwrap());
            assert_eq!(answered.is_some(), expected, "{own} {path}");
        }
    }
}
