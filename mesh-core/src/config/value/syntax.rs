//! What is well-formed.
//!
//! Decides: the syntax of names, addresses, host patterns, identities, methods and expressions, and what is said
//! of a text that breaks it. Never: resolves, connects or looks anything up. Invariant: what passes is normalised.

use super::ValueError;

pub(super) fn parse_name(text: &str) -> Result<String, ValueError> {
    if text.is_empty() || text.len() > MAX_NAME {
        return Err(ValueError::new(format!("a name has 1 to {MAX_NAME} bytes, this one has {}", text.len())));
    }
    match text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        Some(bad) => Err(ValueError::new(format!("a name does not hold {bad:?}"))),
        None => Ok(text.to_owned()),
    }
}

pub(super) const UNIX: &str = "unix:";

/// What fits into `sockaddr_un` with its final zero (unix(7)).
const MAX_UNIX_PATH: usize = 107;

fn parse_unix(path: &str) -> Result<(), ValueError> {
    if !path.starts_with('/') {
        return Err(
            ValueError::new("the path of a Unix socket is not absolute").with_hint("write `unix:/run/app.sock`")
        );
    }
    if path.len() > MAX_UNIX_PATH || path.contains('\0') {
        return Err(ValueError::new(format!("the path of a Unix socket has at most {MAX_UNIX_PATH} bytes")));
    }
    Ok(())
}

pub(super) fn parse_address(text: &str) -> Result<String, ValueError> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return parse_unix(path).map(|()| text.to_owned());
    }
    let no_port = || ValueError::new("the address has no port").with_hint(format!("write `{text}:8080`"));
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return Err(ValueError::new(format!("`{port}` is not a port (0 to 65535)")));
    }
    match host.strip_prefix('[') {
        Some(inner) => {
            let ip = inner.strip_suffix(']').and_then(|ip| ip.parse::<std::net::Ipv6Addr>().ok());
            ip.ok_or_else(|| ValueError::new(format!("`{host}` is not an IPv6 address in brackets")))?;
        }
        None if host.contains(':') => {
            return Err(
                ValueError::new("an IPv6 address stands in brackets").with_hint(format!("write `[{host}]:{port}`"))
            );
        }
        None => check_host(host)?,
    }
    Ok(text.to_owned())
}

pub(super) fn parse_host(text: &str) -> Result<String, ValueError> {
    if text.contains(':') {
        return Err(ValueError::new("a host has no port here").with_hint("give the port in the field `port`"));
    }
    check_host(text)?;
    match text.parse::<std::net::Ipv4Addr>() {
        Ok(_) => Err(ValueError::new("an IP address needs no name server").with_hint("write it under `endpoints`")),
        Err(_) => Ok(text.to_owned()),
    }
}

pub(super) fn parse_server_name(text: &str) -> Result<String, ValueError> {
    match rustls_pki_types::ServerName::try_from(text) {
        Ok(name) => Ok(name.to_str().to_ascii_lowercase()),
        Err(_) => Err(ValueError::new(format!("no certificate can name `{text}`"))),
    }
}

/// A host name (letters, digits, `-`, `_`, `.`) or an IPv4 address that is one.
fn check_host(host: &str) -> Result<(), ValueError> {
    if host.is_empty() {
        return Err(ValueError::new("the host is empty"));
    }
    if host.len() > MAX_NAME {
        return Err(ValueError::new(format!("the host is longer than {MAX_NAME} bytes")));
    }
    if let Some(bad) = host.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
        return Err(ValueError::new(format!("a host does not hold {bad:?}")));
    }
    let looks_like_ip = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if looks_like_ip && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err(ValueError::new(format!("`{host}` is not an IPv4 address")));
    }
    match host.strip_suffix('.').unwrap_or(host).split('.').any(str::is_empty) {
        true => Err(ValueError::new("the host has an empty label")),
        false => Ok(()),
    }
}

pub(super) fn parse_host_pattern(text: &str) -> Result<String, ValueError> {
    let text = parse_text_pattern(text)?.to_ascii_lowercase();
    let core = text.trim_matches('*');
    if core.is_empty() {
        return Ok(text);
    }
    if core.starts_with('[') {
        let ip = core.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        let valid = ip.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
        return if valid { Ok(text) } else { Err(ValueError::new("the host is not an IPv6 address in brackets")) };
    }
    if let Some((host, _)) = core.split_once(':') {
        let error = ValueError::new("a host has no port: the port of the request is dropped before matching");
        return Err(error.with_hint(format!("write `{host}`")));
    }
    match core.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
        Some(bad) => Err(ValueError::new(format!("a host does not hold {bad:?}"))),
        None => Ok(text),
    }
}

pub(super) fn parse_text_pattern(text: &str) -> Result<String, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new("the pattern is empty"));
    }
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    match inner.contains('*') {
        true => Err(ValueError::new("a pattern has one `*` at most, at its start or its end")),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn parse_spiffe_id(text: &str) -> Result<String, ValueError> {
    if text.len() > MAX_SPIFFE_ID {
        return Err(ValueError::new(format!("a SPIFFE ID has {MAX_SPIFFE_ID} bytes at most")));
    }
    let missing =
        || ValueError::new("a SPIFFE ID starts with `spiffe://`").with_hint(format!("write `spiffe://{text}`"));
    let rest = text.strip_prefix(SPIFFE_SCHEME).ok_or_else(missing)?;
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    parse_trust_domain(domain)?;
    if path.is_some_and(|path| path.ends_with('/') || path.is_empty()) {
        return Err(ValueError::new("a SPIFFE ID does not end with `/`"));
    }
    for segment in path.iter().flat_map(|path| path.split('/')) {
        check_segment(segment)?;
    }
    Ok(text.to_owned())
}

fn check_segment(segment: &str) -> Result<(), ValueError> {
    if matches!(segment, "" | "." | "..") {
        return Err(ValueError::new(format!("a SPIFFE ID has no path segment `{segment}`")));
    }
    match segment.chars().find(|c| !c.is_ascii_alphanumeric() && !"-._".contains(*c)) {
        Some(bad) => Err(ValueError::new(format!("the path of a SPIFFE ID does not hold {bad:?}"))),
        None => Ok(()),
    }
}

pub(super) fn parse_trust_domain(text: &str) -> Result<String, ValueError> {
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN {
        return Err(ValueError::new(format!("a trust domain has 1 to {MAX_TRUST_DOMAIN} bytes")));
    }
    match text.chars().find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !"-._".contains(*c)) {
        Some(bad) if bad.is_ascii_uppercase() => Err(ValueError::new("a trust domain is lower-case")),
        Some(bad) => Err(ValueError::new(format!("a trust domain does not hold {bad:?}"))),
        None => Ok(text.to_owned()),
    }
}

pub(super) fn parse_header_name(text: &str) -> Result<String, ValueError> {
    http::HeaderName::from_bytes(text.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| ValueError::new(format!("`{text}` is not a header name")))
}

pub(super) fn parse_method(text: &str) -> Result<String, ValueError> {
    let method = http::Method::from_bytes(text.as_bytes());
    method.map_err(|_| ValueError::new(format!("`{text}` is not a method")))?;
    let upper = text.to_ascii_uppercase();
    if upper != text && STANDARD_METHODS.contains(&upper.as_str()) {
        return Err(ValueError::new("methods are case-sensitive").with_hint(format!("write `{upper}`")));
    }
    Ok(text.to_owned())
}

pub(super) fn parse_path(text: &str) -> Result<String, ValueError> {
    match text {
        text if !text.starts_with('/') => Err(ValueError::new("a path begins with `/`")),
        text if text.contains(['?', '#']) => Err(ValueError::new("a path holds neither a query nor a fragment")),
        text => Ok(text.to_owned()),
    }
}

pub(super) fn parse_regex(text: &str) -> Result<String, ValueError> {
    let anchored = format!("^(?:{text})$");
    let built = regex::RegexBuilder::new(&anchored).size_limit(MAX_REGEX).build();
    match built {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err(ValueError::new("the expression is too large when compiled")),
        Err(error) => {
            let last = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(ValueError::new(format!("not a regular expression: {last}")))
        }
    }
}

/// As DNS (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
/// Bytes, SPIFFE-ID 2.3.
const MAX_SPIFFE_ID: usize = 2048;
/// Bytes, SPIFFE-ID 2.1.
const MAX_TRUST_DOMAIN: usize = 255;
/// Bytes of a compiled expression. Origin: ours; a hundred times what a route needs, far below what hurts.
const MAX_REGEX: usize = 1 << 20;
pub(super) const SPIFFE_SCHEME: &str = "spiffe://";
const STANDARD_METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
