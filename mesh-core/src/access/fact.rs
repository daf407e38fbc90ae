//! Names of facts, and how a fact is read from a request.
//!
//! Decides: which names a policy server or an operator may refer to, and the exact bytes each stands for.
//! Never: guesses. A name that is not known here is an error, so an answer that depends on something
//! this process cannot see is never reused.
//! Invariant: equal bytes mean that the fact is equal; an absent fact has no bytes at all, which differs
//! from an empty value.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};

use super::attributes::Attributes;
use super::jwt;
use crate::config::end_user::ClaimPath;
use crate::config::value::TextValue;

/// One named fact of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// `source.principal`, `principal`
    Principal,
    /// `destination.service`
    Service,
    /// `destination.listener`, `listener`
    Listener,
    /// `request.method`, `method`
    Method,
    /// `request.path`, `path`: without the query
    Path,
    /// `request.query`, `query`
    Query,
    /// `request.host`, `host`
    Host,
    /// `request.scheme`
    Scheme,
    /// `request.protocol`
    Protocol,
    /// `source.ip`
    SourceIp,
    /// `source.certificate`: the caller's certificate
    Certificate,
    /// `connection.sni`: the server name the TLS client asked for
    Sni,
    /// `request.headers[name]`, `header:name`: the values joined with `,`
    Header(OrderedName),
    /// `request.auth.principal`: issuer and subject of the end user's verified token
    RequestPrincipal,
    /// `request.auth.claims[a][b]`, `claim:a`: a claim of that token; what is not text is its JSON
    Claim(ClaimPath),
    /// `request.auth.claims`: all of them, as JSON
    Claims,
    /// `path_template(request.path, /users/{id})`: the template if the path fits it, else absent
    PathTemplate(String),
    /// `prefix(request.path, n)`: the first n segments of the path
    PathPrefix(usize),
    /// `cidr(source.ip, n)`: the first n bits of the address
    SourceBlock(u8),
    /// `lower(x)`: another fact in ASCII lower case
    Lower(Box<Fact>),
}

/// A header name with an order, which `http` does not give it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderedName(pub HeaderName);

impl PartialOrd for OrderedName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

/// A name that no fact has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown fact `{0}`")]
pub struct UnknownFact(pub String);

impl Fact {
    /// Reads a name, in the long form a policy server uses or the short form of the configuration.
    pub fn parse(name: &str) -> Result<Self, UnknownFact> {
        let unknown = || UnknownFact(name.to_owned());
        let name = name.trim();
        if let Some(header) = header_name(name) {
            return HeaderName::from_bytes(header.as_bytes())
                .map(|name| Self::Header(OrderedName(name)))
                .map_err(|_| unknown());
        }
        if let Some(claim) = claim_name(name) {
            return ClaimPath::parse(claim).map(Self::Claim).map_err(|_| unknown());
        }
        if let Some((function, arguments)) = name.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
            return Self::derived(function, arguments).ok_or_else(unknown);
        }
        Ok(match name {
            "source.principal" | "principal" => Self::Principal,
            "destination.service" => Self::Service,
            "destination.listener" | "listener" => Self::Listener,
            "request.method" | "method" => Self::Method,
            "request.path" | "path" => Self::Path,
            "request.query" | "query" => Self::Query,
            "request.host" | "host" => Self::Host,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.claims" => Self::Claims,
            "request.scheme" => Self::Scheme,
            "request.protocol" => Self::Protocol,
            "source.ip" => Self::SourceIp,
            "source.certificate" => Self::Certificate,
            "connection.sni" => Self::Sni,
            _ => return Err(unknown()),
        })
    }

    fn derived(function: &str, arguments: &str) -> Option<Self> {
        if function == "lower" {
            return Some(Self::Lower(Box::new(Self::parse(arguments).ok()?)));
        }
        let (fact, parameter) = arguments.split_once(',')?;
        let parameter = parameter.trim();
        match (function, Self::parse(fact).ok()?) {
            ("path_template", Self::Path) => Some(Self::PathTemplate(parameter.to_owned())),
            ("prefix", Self::Path) => Some(Self::PathPrefix(parameter.parse().ok()?)),
            ("cidr", Self::SourceIp) => Some(Self::SourceBlock(parameter.parse().ok().filter(|bits| *bits <= 128)?)),
            _ => None,
        }
    }

    /// The bytes of this fact in a request; `None` when the request does not have it.
    pub fn value<'a>(&self, attributes: &Attributes<'a>) -> Option<Cow<'a, [u8]>> {
        match self.place(attributes) {
            Place::Absent => None,
            Place::There(bytes) => Some(Cow::Borrowed(bytes)),
            Place::Nowhere => self.made(attributes).map(Cow::Owned),
        }
    }

    /// Whether a request has it.
    pub(super) fn is_in(&self, attributes: &Attributes<'_>) -> bool {
        self.read(attributes, |bytes| bytes.is_some())
    }

    /// Hands the same bytes to `reader` without allocating, but for what is rare or long.
    #[inline]
    pub(super) fn read<R>(&self, attributes: &Attributes<'_>, reader: impl FnOnce(Option<&[u8]>) -> R) -> R {
        match self.place(attributes) {
            Place::Absent => reader(None),
            Place::There(bytes) => reader(Some(bytes)),
            Place::Nowhere => self.read_made(attributes, reader),
        }
    }

    #[inline(never)]
    fn read_made<R>(&self, attributes: &Attributes<'_>, reader: impl FnOnce(Option<&[u8]>) -> R) -> R {
        match self {
            Self::PathTemplate(template) => reader(fits(attributes.path, template).then_some(template.as_bytes())),
            Self::SourceIp | Self::SourceBlock(_) => match self.address(attributes) {
                Some(address) => reader(Some(ShortText::of(address).bytes())),
                None => reader(None),
            },
            Self::Lower(fact) => match fact.place(attributes) {
                Place::There(bytes) if bytes.len() <= SHORT_BYTES => reader(Some(ShortText::lower(bytes).bytes())),
                _ => reader(self.made(attributes).as_deref()),
            },
            _ => reader(self.made(attributes).as_deref()),
        }
    }

    /// Where the bytes are.
    #[inline]
    fn place<'a>(&self, attributes: &Attributes<'a>) -> Place<'a> {
        let text = |text: &'a str| Place::There(text.as_bytes());
        match self {
            Self::Principal => attributes.principal.map_or(Place::Absent, text),
            Self::Service => text(attributes.service),
            Self::Listener => text(attributes.listener),
            Self::Method => text(attributes.method),
            Self::Path => text(attributes.path),
            Self::Query => attributes.query.map_or(Place::Absent, text),
            Self::Host => text(attributes.host),
            Self::Scheme => text(attributes.scheme),
            Self::Protocol => text(attributes.protocol),
            Self::Certificate => attributes.certificate.map_or(Place::Absent, |der| Place::There(der)),
            Self::Sni => attributes.sni.map_or(Place::Absent, text),
            Self::Header(name) => header(attributes, &name.0),
            Self::Claim(path) => claim(attributes, &path.0),
            Self::PathPrefix(segments) => text(first_segments(attributes.path, *segments)),
            Self::SourceIp
            | Self::RequestPrincipal
            | Self::Claims
            | Self::PathTemplate(_)
            | Self::SourceBlock(_)
            | Self::Lower(_) => Place::Nowhere,
        }
    }

    /// The bytes that stand nowhere in the request.
    fn made(&self, attributes: &Attributes<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Header(name) => Some(joined(attributes, &name.0)),
            Self::RequestPrincipal => Some(jwt::principal(attributes.claims?)?.into_bytes()),
            Self::Claim(path) => Some(jwt::find(attributes.claims?, &path.0)?.to_string().into_bytes()),
            Self::Claims => serde_json::to_vec(&**attributes.claims?).ok(),
            Self::PathTemplate(template) => fits(attributes.path, template).then(|| template.clone().into_bytes()),
            Self::Lower(fact) => Some(fact.value(attributes)?.to_ascii_lowercase()),
            _ => Some(self.address(attributes)?.to_string().into_bytes()),
        }
    }

    /// The caller's address, or the network it is in.
    fn address(&self, attributes: &Attributes<'_>) -> Option<IpAddr> {
        let address = attributes.source_address?.ip();
        Some(if let Self::SourceBlock(bits) = self { block(address, *bits) } else { address })
    }

    /// Whether it says what a claim of the end user says, beyond who he is.
    pub fn reads_claims(&self) -> bool {
        match self {
            Self::Claim(_) | Self::Claims => true,
            Self::Lower(fact) => fact.reads_claims(),
            _ => false,
        }
    }

    /// Whether the value is a credential, or all that a token or a certificate says: it is kept only as a digest.
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Claims | Self::Certificate => true,
            Self::Header(name) => [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(&name.0),
            Self::Lower(fact) => fact.is_secret(),
            _ => false,
        }
    }
}

fn claim_name(name: &str) -> Option<&str> {
    let path = || name.strip_prefix("request.auth.claims").filter(|path| path.starts_with('['));
    name.strip_prefix("claim:").or_else(path)
}

fn header_name(name: &str) -> Option<&str> {
    name.strip_prefix("header:").or_else(|| name.strip_prefix("request.headers[")?.strip_suffix(']'))
}

/// Where the bytes of a fact are.
enum Place<'a> {
    /// The request does not have it.
    Absent,
    /// In the request, as they are.
    There(&'a [u8]),
    /// They would have to be made, if the request has the fact at all.
    Nowhere,
}

/// A text that was made, without allocating.
struct ShortText {
    bytes: [u8; SHORT_BYTES],
    length: usize,
}

impl ShortText {
    fn of(address: IpAddr) -> Self {
        let mut text = Self { bytes: [0; SHORT_BYTES], length: 0 };
        let mut rest = &mut text.bytes[..];
        // There is room for every address.
        let _ = write!(rest, "{address}");
        text.length = SHORT_BYTES - rest.len();
        text
    }

    /// Of at most [`SHORT_BYTES`].
    fn lower(bytes: &[u8]) -> Self {
        let mut text = Self { bytes: [0; SHORT_BYTES], length: bytes.len() };
        text.bytes[..bytes.len()].copy_from_slice(bytes);
        text.bytes.make_ascii_lowercase();
        text
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A text and its JSON differ by the quotes, so no other claim looks like a text.
fn claim<'a>(attributes: &Attributes<'a>, path: &[String]) -> Place<'a> {
    match attributes.claims.and_then(|claims| jwt::find(claims, path)) {
        None => Place::Absent,
        Some(serde_json::Value::String(text)) => Place::There(text.as_bytes()),
        Some(_) => Place::Nowhere,
    }
}

/// Of several values, none stands for the header.
fn header<'a>(attributes: &Attributes<'a>, name: &HeaderName) -> Place<'a> {
    let mut values = attributes.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Place::Absent,
        (Some(value), None) => Place::There(value.as_bytes()),
        (Some(_), Some(_)) => Place::Nowhere,
    }
}

/// Several values of one header read as one, joined with `,` (RFC 9110 section 5.3).
fn joined(attributes: &Attributes<'_>, name: &HeaderName) -> Vec<u8> {
    let values: Vec<&[u8]> = attributes.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    values.join(&b',')
}

/// Segment by segment; `{name}` stands for one non-empty segment.
fn fits(path: &str, template: &str) -> bool {
    let (mut path, mut template) = (path.split('/'), template.split('/'));
    loop {
        match (path.next(), template.next()) {
            (None, None) => return true,
            (Some(segment), Some(slot)) if slot.starts_with('{') && slot.ends_with('}') && !segment.is_empty() => {}
            (Some(segment), Some(literal)) if segment == literal => {}
            _ => return false,
        }
    }
}

fn first_segments(path: &str, segments: usize) -> &str {
    match path.match_indices('/').nth(segments) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

/// The network an address is in.
pub(super) fn block(address: IpAddr, bits: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

/// The longest text that is made on the stack: an address has at most 45 bytes, a header in lower case may have more.
const SHORT_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AttributesBuf;

    #[test]
    fn both_spellings_of_a_name_are_the_same_fact() {
        for (long, short) in [
            ("source.principal", "principal"),
            ("request.path", "path"),
            ("request.headers[X-User]", "header:x-user"),
            ("destination.listener", "listener"),
            ("request.auth.claims[sub]", "claim:sub"),
            ("request.auth.claims[a][b]", "claim:[a][b]"),
        ] {
            assert_eq!(Fact::parse(long), Fact::parse(short), "{long}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        for name in [
            "",
            "request.body",
            "header:",
            "request.headers[a b]",
            "cidr(source.ip, 129)",
            "claim(sub)",
            "claim:",
            "request.auth.claimsub",
        ] {
            assert!(Fact::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_fact_reads_its_bytes() {
        let mut attributes = AttributesBuf { path: "/users/7/orders".into(), ..AttributesBuf::default() };
        attributes.headers.append("x-a", "1".parse().unwrap());
        attributes.headers.append("x-a", "Two".parse().unwrap());
        let claims = serde_json::json!({"iss": "https://a", "sub": "b", "n": 1, "one": "1", "c": {"d": ["e"]}});
        attributes.claims = claims.as_object().cloned().map(std::sync::Arc::new);
        attributes.source_address = Some("10.1.2.3:4".parse().unwrap());
        attributes.certificate = Some(b"der"[..].into());
        for (name, expected) in [
            ("request.path", Some("/users/7/orders")),
            ("request.query", None),
            ("request.method", Some("GET")),
            ("request.host", Some("details")),
            ("request.scheme", Some("http")),
            ("request.protocol", Some("HTTP/1.1")),
            ("source.principal", Some("spiffe://cluster.local/ns/default/sa/caller")),
            ("destination.service", Some("details")),
            ("destination.listener", Some("inbound")),
            ("source.ip", Some("10.1.2.3")),
            ("source.certificate", Some("der")),
            ("connection.sni", None),
            ("lower(claim:sub)", Some("b")),
            ("lower(header:x-b)", None),
            ("header:x-a", Some("1,Two")),
            ("lower(header:x-a)", Some("1,two")),
            ("header:x-b", None),
            ("prefix(path, 1)", Some("/users")),
            ("prefix(path, 9)", Some("/users/7/orders")),
            ("path_template(path, /users/{id}/orders)", Some("/users/{id}/orders")),
            ("path_template(path, /users/{id})", None),
            ("cidr(source.ip, 24)", Some("10.1.2.0")),
            ("cidr(source.ip, 0)", Some("0.0.0.0")),
            ("request.auth.principal", Some("https://a/b")),
            ("claim:sub", Some("b")),
            ("claim:one", Some("1")),
            ("claim:n", Some("1")),
            ("claim:[c][d]", Some("[\"e\"]")),
            ("claim:[c][x]", None),
            ("request.auth.claims", Some(r#"{"c":{"d":["e"]},"iss":"https://a","n":1,"one":"1","sub":"b"}"#)),
        ] {
            let fact = Fact::parse(name).unwrap();
            let value = fact.value(&attributes.borrow()).map(Cow::into_owned);
            assert_eq!(value.as_deref(), expected.map(str::as_bytes), "{name}");
            let read = fact.read(&attributes.borrow(), |bytes| bytes.map(<[u8]>::to_vec));
            assert_eq!(read, value, "{name}, read in place");
            assert_eq!(fact.is_in(&attributes.borrow()), value.is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_long_or_an_address_reads_the_same_in_place() {
        let mut attributes = AttributesBuf::default();
        for (length, address) in
            [(0, "[::]:1"), (128, "[1111:2222:3333:4444:5555:6666:7777:8888]:1"), (129, "1.2.3.4:1")]
        {
            attributes.source_address = Some(address.parse().unwrap());
            attributes.headers.insert("x-a", "A".repeat(length).parse().unwrap());
            for name in [
                "source.ip",
                "cidr(source.ip, 64)",
                "lower(header:x-a)",
                "lower(source.ip)",
                "lower(lower(header:x-a))",
            ] {
                let fact = Fact::parse(name).unwrap();
                let value = fact.value(&attributes.borrow()).map(Cow::into_owned);
                assert!(value.is_some(), "{name}");
                let read = fact.read(&attributes.borrow(), |bytes| bytes.map(<[u8]>::to_vec));
                assert_eq!(read, value, "{name} of {length} bytes from {address}");
            }
        }
    }
}
