//! What a request is counted by: Envoy's rate limit actions, as the descriptors that a server is asked about.
//!
//! Decides: which entries a request makes, and which descriptors are left out because one of their actions made none.
//! Never: decodes or shortens a value; what is no UTF-8 reads with replacement characters.
//! Invariant: entries stand in the order of their actions, descriptors in the order of their rules.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderName;
use serde_json::Value;

use super::attributes::Attributes;
use super::fact::{Fact, OrderedName, block};
use crate::route::matcher::{HeaderMatcher, QueryMatcher};

/// Key and value.
pub type Entry<'a> = (&'a str, Cow<'a, str>);
/// Entries, in order.
pub type Descriptor<'a> = Vec<Entry<'a>>;

/// What makes one descriptor.
#[derive(Debug)]
pub struct DescriptorRule {
    /// What makes its entries, in this order.
    pub actions: Vec<Action>,
}

/// What makes an entry.
#[derive(Debug)]
pub enum Action {
    /// The same for every request.
    Fixed {
        /// Key.
        key: Box<str>,
        /// Value.
        value: Box<str>,
    },
    /// The service that is asked for.
    Destination,
    /// The address the request comes from.
    RemoteAddress,
    /// The network the request comes from, by the bits of IPv4 and IPv6 addresses.
    RemoteNetwork(u8, u8),
    /// The value of something the request may have.
    Value {
        /// What.
        of: Source,
        /// Key.
        key: Box<str>,
        /// What stands for an absent value.
        absent: Absent,
    },
    /// A fixed value, if conditions hold, or if they do not.
    Match {
        /// The conditions.
        on: Conditions,
        /// Whether they must hold.
        expected: bool,
        /// Key.
        key: Box<str>,
        /// Value.
        value: Box<str>,
    },
}

/// Something a request may have.
#[derive(Debug)]
pub enum Source {
    /// A header; several values are joined with `,`.
    Header(HeaderName),
    /// `:path`, with the query.
    PathAndQuery,
    /// A fact that policies know.
    Fact(Fact),
    /// A claim of the end user's token, by the names that lead to it.
    Claim(Vec<String>),
}

/// What stands for an absent value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// The whole descriptor is left out.
    Drops,
    /// The entry is left out.
    Skips,
    /// This value.
    Is(Box<str>),
}

/// Conditions that all hold.
#[derive(Debug)]
pub enum Conditions {
    /// On headers.
    Headers(Vec<HeaderMatcher>),
    /// On query parameters.
    Query(Vec<QueryMatcher>),
}

/// The descriptors of a request. None: there is nothing to ask.
pub fn describe<'a>(rules: &'a [DescriptorRule], attributes: &Attributes<'a>) -> Vec<Descriptor<'a>> {
    rules.iter().filter_map(|rule| rule.describe(attributes)).collect()
}

impl DescriptorRule {
    fn describe<'a>(&'a self, attributes: &Attributes<'a>) -> Option<Descriptor<'a>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(attributes) {
                Made::Entry(key, value) => entries.push((key, value)),
                Made::Nothing => {}
                Made::NoDescriptor => return None,
            }
        }
        // An empty descriptor would be every request's.
        (!entries.is_empty()).then_some(entries)
    }
}

enum Made<'a> {
    Entry(&'a str, Cow<'a, str>),
    Nothing,
    NoDescriptor,
}

impl Action {
    fn entry<'a>(&'a self, attributes: &Attributes<'a>) -> Made<'a> {
        match self {
            Self::Fixed { key, value } => Made::Entry(key, Cow::Borrowed(value)),
            Self::Destination => Made::Entry("destination_cluster", Cow::Borrowed(attributes.service)),
            Self::RemoteAddress => address(attributes)
                .map_or(Made::NoDescriptor, |address| Made::Entry("remote_address", Cow::Owned(address.to_string()))),
            Self::RemoteNetwork(v4, v6) => address(attributes).map_or(Made::NoDescriptor, |address| {
                let bits = if address.is_ipv4() { *v4 } else { *v6 };
                Made::Entry("masked_remote_address", Cow::Owned(format!("{}/{bits}", block(address, bits))))
            }),
            Self::Value { of, key, absent } => match (of.value(attributes), absent) {
                (Some(value), _) => Made::Entry(key, value),
                (None, Absent::Is(value)) => Made::Entry(key, Cow::Borrowed(value)),
                (None, Absent::Skips) => Made::Nothing,
                (None, Absent::Drops) => Made::NoDescriptor,
            },
            Self::Match { on, expected, key, value } if on.hold(attributes) == *expected => {
                Made::Entry(key, Cow::Borrowed(value))
            }
            Self::Match { .. } => Made::NoDescriptor,
        }
    }
}

impl Source {
    /// A header by Envoy's name for it, pseudo headers among them.
    pub fn header(name: &str) -> Option<Self> {
        Some(match &*name.to_ascii_lowercase() {
            ":path" => Self::PathAndQuery,
            ":method" => Self::Fact(Fact::Method),
            ":authority" => Self::Fact(Fact::Host),
            ":scheme" => Self::Fact(Fact::Scheme),
            name => Self::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }

    fn value<'a>(&self, attributes: &Attributes<'a>) -> Option<Cow<'a, str>> {
        match self {
            // A bare connection has none of them, whatever stands there.
            Self::PathAndQuery | Self::Fact(Fact::Method | Fact::Host | Fact::Path | Fact::Query | Fact::Scheme)
                if attributes.is_tcp =>
            {
                None
            }
            Self::PathAndQuery => Some(Cow::Owned(attributes.path_and_query())),
            Self::Header(name) => Fact::Header(OrderedName(name.clone())).value(attributes).map(text),
            Self::Fact(fact) => fact.value(attributes).map(text),
            Self::Claim(path) => claim(attributes, path).map(Cow::Owned),
        }
    }
}

impl Conditions {
    fn hold(&self, attributes: &Attributes<'_>) -> bool {
        match self {
            Self::Headers(conditions) => conditions.iter().all(|condition| condition.matches(attributes.headers)),
            Self::Query(conditions) => conditions.iter().all(|condition| condition.matches(attributes.query)),
        }
    }
}

/// The original client where that is known. An IPv4 address is one, however the socket writes it.
fn address(attributes: &Attributes<'_>) -> Option<IpAddr> {
    let peer = || attributes.source_address.map(|address| address.ip());
    attributes.remote_address.or_else(peer).map(|address| address.to_canonical())
}

fn claim(attributes: &Attributes<'_>, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let claim = rest.iter().try_fold(attributes.claims?.get(first)?, |value, name| value.get(name))?;
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_so) => Some(is_so.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}
