//! The request that is asked about.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

/// A request as the application would hand it to the client.
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
}

impl Asked {
    /// Reads the words of a command line.
    pub fn new(method: &str, url: &str, headers: &[String]) -> Result<Self, String> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is not a method"))?;
        let headers = headers.iter().map(|text| header_of(text)).collect::<Result<HeaderMap, _>>()?;
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let asked = Self { method, uri, headers };
        if asked.authority().is_none() {
            return Err(format!("{url:?} names no service; write http://SERVICE/PATH, or add -H 'host: SERVICE'"));
        }
        Ok(asked)
    }

    /// The logical service: the URL's authority, else the `Host` header.
    pub fn authority(&self) -> Option<&str> {
        let host = || self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.uri.authority().map(http::uri::Authority::as_str).or_else(host)
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }
}

fn header_of(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("header {text:?} is not `name: value`"))?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| format!("the value of header `{name}` is not valid"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_the_authority_or_the_host_header() {
        let host = ["Host: reviews".to_owned()];
        for (url, headers, authority) in [
            ("http://details:9080/a?b", &[][..], "details:9080"),
            ("/a", &host[..], "reviews"),
            ("http://details/a", &host[..], "details"),
        ] {
            assert_eq!(Asked::new("GET", url, headers).unwrap().authority(), Some(authority), "{url}");
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused_with_the_reason() {
        for (method, url, header, reason) in [
            ("G T", "http://a/", "", "not a method"),
            ("GET", "http://[/", "", "not a URL"),
            ("GET", "/a", "", "names no service"),
            ("GET", "http://a/", "no colon", "not `name: value`"),
            ("GET", "http://a/", "a b: c", "not a header name"),
        ] {
            let headers: Vec<String> =
                Some(header).filter(|header| !header.is_empty()).map(str::to_owned).into_iter().collect();
            let error = Asked::new(method, url, &headers).err().unwrap();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn repeated_headers_are_all_kept() {
        let asked = Asked::new("GET", "http://a/", &["x: 1".to_owned(), "x: 2".to_owned()]).unwrap();
        assert_eq!(asked.headers.get_all("x").iter().count(), 2);
    }
}
