//! The scalar values of a document: each one is parsed once, here, and is well-formed from then on.
//!
//! Decides: which values there are, and what they tell of themselves; [`syntax`] decides what is well-formed.
//! Never: resolves, connects or looks anything up. Invariant: a value of these types is well-formed.

mod syntax;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A value that is written as one text.
pub trait TextValue: Sized + fmt::Display {
    /// The `format` of the value in the JSON Schema.
    const FORMAT: &'static str;
    /// What a well-formed text looks like, for diagnostics and the schema.
    const EXPECTED: &'static str;

    /// Reads the text, or says what is wrong with it.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

/// Why a text is not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl ValueError {
    /// An error that says what is wrong.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Serde and schema of a [`TextValue`]: a string with the value's `format`.
macro_rules! text_serde {
    ($type:ty) => {
        impl std::str::FromStr for $type {
            type Err = $crate::config::value::ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <Self as $crate::config::value::TextValue>::parse(text)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                <Self as $crate::config::value::TextValue>::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "format": <Self as $crate::config::value::TextValue>::FORMAT,
                })
            }
        }
    };
}
pub(crate) use text_serde;

/// A newtype over the normalised text.
macro_rules! text_value {
    ($(#[$doc:meta])* $type:ident, $format:literal, $expected:literal, $parse:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The text, normalised.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TextValue for $type {
            const FORMAT: &'static str = $format;
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Result<Self, ValueError> {
                $parse(text).map(Self)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_serde!($type);
    };
}

text_value!(
    /// The name of a cluster, route, rule, listener or check.
    Name, "name", "a name of 1 to 253 printable characters without white space", syntax::parse_name
);
text_value!(
    /// Where to connect or listen: `ip:port`, `host:port`, `[v6]:port` or `unix:/path`.
    AddressText, "address", "an address like 10.0.0.1:8080, host.example:8080, [::1]:8080 or unix:/run/app.sock", syntax::parse_address
);
text_value!(
    /// A name that DNS knows, with or without its final dot.
    HostText, "host", "a host name like reviews.example.com", syntax::parse_host
);
text_value!(
    /// Whom a server's certificate names: a host, or an IP address without brackets. Lower-cased, no final dot.
    ServerNameText, "server-name", "a host name like login.example.com, or an IP address", syntax::parse_server_name
);
text_value!(
    /// Which hosts a route serves: exact, `*.suffix`, `prefix.*` or `*`. Lower-cased; never with a port.
    HostPattern, "host-pattern", "a host like api.example.com, *.example.com, api.* or *", syntax::parse_host_pattern
);
text_value!(
    /// A text with at most one `*`, at one end: exact, `prefix*`, `*suffix` or `*`.
    TextPattern, "text-pattern", "a text with at most one *, at its start or its end", syntax::parse_text_pattern
);
text_value!(
    /// A well-formed SPIFFE ID (SPIFFE-ID 2.0-2.4: scheme, trust domain, path, 2048 bytes).
    SpiffeIdText, "spiffe-id", "a SPIFFE ID like spiffe://cluster.local/ns/default/sa/web", syntax::parse_spiffe_id
);
text_value!(
    /// A trust domain name, as it stands in a SPIFFE ID.
    TrustDomainText, "trust-domain", "a trust domain like cluster.local", syntax::parse_trust_domain
);
text_value!(
    /// A path without query or fragment.
    PathText, "path", "a path like /a/b", syntax::parse_path
);
text_value!(
    /// The name of an HTTP header, lower-cased.
    HeaderName, "header-name", "a header name like end-user", syntax::parse_header_name
);
text_value!(
    /// An HTTP method; methods are case-sensitive (RFC 9110, 9.1).
    Method, "method", "a method like GET", syntax::parse_method
);
text_value!(
    /// A regular expression of linear time that must match the whole text.
    RegexText, "regex", "a regular expression (RE2 syntax, no look-around)", syntax::parse_regex
);

/// A share of a hundred, `0` to `100`, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Percent(pub f64);

impl Percent {
    /// The share of one.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

/// A share relative to the other weights beside it; `0` takes no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u32);

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl JsonSchema for Weight {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": MAX_WEIGHT })
    }
}

/// How a host pattern reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPatternKind<'a> {
    /// The whole host.
    Exact(&'a str),
    /// The host ends with this text (`.example.com`) and has something before it.
    Suffix(&'a str),
    /// The host starts with this text (`api.`) and has something after it.
    Prefix(&'a str),
    /// Every host.
    Any,
}

impl HostPattern {
    /// How the pattern reads.
    pub fn kind(&self) -> HostPatternKind<'_> {
        match (self.0.strip_prefix('*'), self.0.strip_suffix('*')) {
            (Some(""), _) => HostPatternKind::Any,
            (Some(suffix), _) => HostPatternKind::Suffix(suffix),
            (None, Some(prefix)) => HostPatternKind::Prefix(prefix),
            (None, None) => HostPatternKind::Exact(&self.0),
        }
    }
}

/// How a text pattern reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPatternKind<'a> {
    /// The whole text.
    Exact(&'a str),
    /// The text starts so.
    Prefix(&'a str),
    /// The text ends so.
    Suffix(&'a str),
    /// Every text that is present.
    Any,
}

impl TextPattern {
    /// How the pattern reads.
    pub fn kind(&self) -> TextPatternKind<'_> {
        match (self.0.strip_prefix('*'), self.0.strip_suffix('*')) {
            (Some(""), _) => TextPatternKind::Any,
            (Some(suffix), _) => TextPatternKind::Suffix(suffix),
            (None, Some(prefix)) => TextPatternKind::Prefix(prefix),
            (None, None) => TextPatternKind::Exact(&self.0),
        }
    }
}

impl SpiffeIdText {
    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        let rest = &self.0[syntax::SPIFFE_SCHEME.len()..];
        rest.split('/').next().unwrap_or(rest)
    }
}

impl AddressText {
    /// The host without brackets.
    pub fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or(self.0.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0)
    }

    /// The path, when it is a Unix socket.
    pub fn unix_path(&self) -> Option<&std::path::Path> {
        self.0.strip_prefix(syntax::UNIX).map(std::path::Path::new)
    }

    /// Whether it has a port, and that is 0.
    pub fn is_any_port(&self) -> bool {
        self.unix_path().is_none() && self.port() == 0
    }

    /// Whether it is a host name, to be resolved.
    pub fn is_host_name(&self) -> bool {
        // A host of digits and dots is an IPv4 address, or the address would not have been taken: cheaper to see
        // than to read.
        let is_ip = self.0.starts_with('[') || self.0.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b':');
        !is_ip && self.unix_path().is_none()
    }

    /// The socket address, when the host is an IP address.
    pub fn socket_addr(&self) -> Option<std::net::SocketAddr> {
        self.host().parse().ok().map(|ip: std::net::IpAddr| std::net::SocketAddr::new(ip, self.port()))
    }

    /// Whether only this machine can reach the address: a loopback IP, `localhost` or a Unix socket.
    pub fn is_loopback(&self) -> bool {
        if self.unix_path().is_some() {
            return true;
        }
        self.socket_addr().map_or(self.host().eq_ignore_ascii_case("localhost"), |addr| addr.ip().is_loopback())
    }
}

/// A sum of 65536 weights stays within 32 bits, as xDS requires of `WeightedCluster`.
const MAX_WEIGHT: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn all_parse<T: TextValue>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(T::parse(text).is_ok(), "{text:?} is {}", T::EXPECTED);
        }
        for text in bad {
            assert!(T::parse(text).is_err(), "{text:?} is not {}", T::EXPECTED);
        }
    }

    #[test]
    fn each_value_takes_what_its_syntax_says_and_nothing_else() {
        all_parse::<AddressText>(
            &["127.0.0.1:80", "a.b:1", "[::1]:8080", "localhost:0"],
            &[
                "", "a", ":80", "a:", "a:99999", "a:+1", "::1:80", "[::1]", "[x]:1", "1.2.3:80", "a b:1", "a..b:1",
                "a/b:1",
            ],
        );
        all_parse::<ServerNameText>(
            &["login.example.com", "Login.Example.com.", "localhost", "10.0.0.1", "::1", "a_b.example"],
            &["", "*.example.com", "a b", "a..b", "login:443", "[::1]", "-a", "1.2.3"],
        );
        all_parse::<HostPattern>(
            &["a", "*.example.com", "api.*", "*", "[::1]", "A.B"],
            &["", "a:80", "*.a.*", "a*b", "**", "a b", "[x]", "a/b"],
        );
        all_parse::<TextPattern>(&["a", "*", "a*", "*a"], &["", "a*b", "**", "*a*"]);
        all_parse::<SpiffeIdText>(
            &["spiffe://a", "spiffe://a.b/c", "spiffe://a/ns/x/sa/y_Z.1-2"],
            &[
                "",
                "a",
                "spiffe://",
                "spiffe://A/b",
                "spiffe://a/",
                "spiffe://a//b",
                "spiffe://a/./b",
                "spiffe://a/../b",
                "spiffe://a/b%20",
                "spiffe://a:1/b",
                "spiffe://u@a/b",
                "https://a/b",
                "SPIFFE://a/b",
                "spiffe://a/b?c",
                "spiffe://a/b#c",
            ],
        );
        all_parse::<HeaderName>(&["x", "End-User"], &["", "a b", ":path", "a:"]);
        all_parse::<PathText>(&["/", "/a/b"], &["", "a", "/a?b", "/a#b"]);
        all_parse::<Method>(&["GET", "PURGE", "purge"], &["", "get", "A B"]);
        all_parse::<RegexText>(&["/a/[0-9]+", ""], &["(", "(?=a)", "a{1000}{1000}"]);
        all_parse::<Name>(&["a", "outbound|80||x"], &["", "a b", "a\n"]);
        all_parse::<TrustDomainText>(&["cluster.local"], &["", "A", "a/b"]);
    }

    /// Kinds that are about certificates, bundles and sources; the identity modules assert them.
    const OTHER_KINDS: [&str; 7] =
        ["verify_leaf", "workload_api", "parse_bundle", "rotation", "verify_signing_certificate", "load_pem", "sweep"];

    fn vector_input(case: &serde_json::Value) -> String {
        if let Some(input) = case["input"].as_str() {
            return input.to_owned();
        }
        let parts = &case["input_repeat"];
        let text = |name: &str| parts[name].as_str().unwrap();
        let count = usize::try_from(parts["count"].as_u64().unwrap()).unwrap();
        format!("{}{}{}", text("prefix"), text("repeated").repeat(count), text("suffix"))
    }

    #[test]
    fn a_spiffe_id_is_one_exactly_when_the_standard_says_so() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/spiffe_id.json"));
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut count = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let kind = case["kind"].as_str().unwrap();
            if kind != "parse_id" {
                assert!(OTHER_KINDS.contains(&kind), "{kind}");
                continue;
            }
            count += 1;
            let parsed = SpiffeIdText::parse(&vector_input(case));
            assert_eq!(parsed.is_ok(), case["expected"]["valid"].as_bool().unwrap(), "{}: {parsed:?}", case["id"]);
            if let (Ok(id), Some(domain)) = (parsed, case["expected"]["trust_domain"].as_str()) {
                assert_eq!(id.trust_domain(), domain, "{}", case["id"]);
            }
        }
        assert_eq!(count, 66);
    }

    #[test]
    fn a_spiffe_id_has_2048_bytes_at_most() {
        let id = format!("spiffe://a/{}", "x".repeat(2048 - 11));
        assert!(SpiffeIdText::parse(&id).is_ok());
        assert!(SpiffeIdText::parse(&format!("{id}x")).is_err());
    }

    #[test]
    fn an_address_splits_into_host_and_port() {
        for (text, host, port, loopback) in [
            ("127.0.0.9:80", "127.0.0.9", 80, true),
            ("[::1]:8080", "::1", 8080, true),
            ("localhost:1", "localhost", 1, true),
            ("0.0.0.0:1", "0.0.0.0", 1, false),
            ("db.example:5", "db.example", 5, false),
        ] {
            let address = AddressText::parse(text).unwrap();
            assert_eq!((address.host(), address.port(), address.is_loopback()), (host, port, loopback), "{text}");
        }
    }

    #[test]
    fn a_host_pattern_knows_its_kind() {
        let kinds = [
            ("*", HostPatternKind::Any),
            ("*.x", HostPatternKind::Suffix(".x")),
            ("x.*", HostPatternKind::Prefix("x.")),
            ("X", HostPatternKind::Exact("x")),
        ];
        for (text, kind) in kinds {
            assert_eq!(HostPattern::parse(text).unwrap().kind(), kind, "{text}");
        }
    }
}
