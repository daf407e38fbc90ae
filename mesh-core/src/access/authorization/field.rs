//! What a condition looks at.
//!
//! Decides: which values of a request a field has: none, one, or several (claims, audiences).
//! Never: compares. Invariant: a caller without a proven identity has no principal, namespace, service
//! account or trust domain; a request without a valid token has no claim.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderName;
use serde_json::Value as Json;

use crate::access::attributes::Attributes;

/// A fact of a request that policies ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Principal,
    Namespace,
    /// As `namespace/name`.
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    /// Path and query, as the pseudo header has them.
    Target,
    Scheme,
    Header(HeaderName),
    RequestPrincipal,
    Audiences,
    Presenter,
    /// The path to it.
    Claim(Vec<String>),
}

/// One value of a field.
pub(super) enum Value<'a> {
    Text(&'a str),
    Ip(IpAddr),
    Port(u16),
}

impl Field {
    /// Whether only HTTP has it.
    pub(super) fn is_http_only(&self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::Method
                | Self::Path
                | Self::Target
                | Self::Scheme
                | Self::Header(_)
                | Self::RequestPrincipal
                | Self::Audiences
                | Self::Presenter
                | Self::Claim(_)
        )
    }

    /// Whether a value of the field fits.
    pub(super) fn any(&self, of: &Attributes<'_>, fits: &dyn Fn(Value<'_>) -> bool) -> bool {
        let text = |value: Option<&str>| value.is_some_and(|value| fits(Value::Text(value)));
        let ip = |value: Option<IpAddr>| value.is_some_and(|value| fits(Value::Ip(value)));
        match self {
            Self::Principal => text(principal(of)),
            Self::Namespace => text(account(of).map(|(_, namespace, _)| namespace)),
            Self::ServiceAccount => {
                let account = account(of).map(|(_, namespace, name)| format!("{namespace}/{name}"));
                text(account.as_deref())
            }
            Self::TrustDomain => text(principal(of).map(|principal| principal.split('/').next().unwrap_or_default())),
            Self::SourceIp => ip(of.source_address.map(|address| address.ip())),
            Self::RemoteIp => ip(of.remote_address.or_else(|| of.source_address.map(|address| address.ip()))),
            Self::DestinationIp => ip(of.destination_address.map(|address| address.ip())),
            Self::DestinationPort => of.destination_address.is_some_and(|address| fits(Value::Port(address.port()))),
            Self::Sni => text(of.sni),
            Self::Host => text(Some(of.host)),
            Self::Method => text(Some(of.method)),
            Self::Path => text(Some(of.path)),
            Self::Target => text(Some(&of.path_and_query())),
            Self::Scheme => text(Some(of.scheme)),
            Self::Header(name) => text(header(of, name).as_deref()),
            Self::RequestPrincipal => text(request_principal(of).as_deref()),
            Self::Audiences => any_text(claim(of, &["aud"]), fits),
            Self::Presenter => any_text(claim(of, &["azp"]), fits),
            Self::Claim(path) => match path.as_slice() {
                [name] if SPACE_DELIMITED.contains(&name.as_str()) => any_word(claim(of, path), fits),
                _ => any_text(claim(of, path), fits),
            },
        }
    }
}

impl Field {
    /// Whether one of several lines of a header does; a single line is the whole value, which [`Field::any`] sees.
    pub(super) fn any_line(&self, of: &Attributes<'_>, does: &dyn Fn(&Value<'_>) -> bool) -> bool {
        let Self::Header(name) = self else { return false };
        let lines = of.headers.get_all(name);
        lines.iter().nth(1).is_some()
            && lines.iter().any(|line| does(&Value::Text(&String::from_utf8_lossy(line.as_bytes()))))
    }
}

/// Policies name a principal without its scheme.
fn principal<'a>(of: &Attributes<'a>) -> Option<&'a str> {
    of.principal.map(|principal| principal.strip_prefix("spiffe://").unwrap_or(principal))
}

/// Trust domain, namespace and service account of an identity of Istio's form.
fn account<'a>(of: &Attributes<'a>) -> Option<(&'a str, &'a str, &'a str)> {
    let mut parts = principal(of)?.split('/');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (domain, "ns", namespace, "sa", name, None) => Some((domain, namespace, name)),
        _ => None,
    }
}

/// Several values are joined with `,`, as everywhere.
fn header<'a>(of: &Attributes<'a>, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = of.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    Some(values.fold(first, |joined, value| Cow::Owned(format!("{joined},{value}"))))
}

fn request_principal(of: &Attributes<'_>) -> Option<String> {
    let text = |name| of.claims?.get(name)?.as_str();
    Some(format!("{}/{}", text("iss")?, text("sub")?))
}

fn claim<'a>(of: &Attributes<'a>, path: &[impl AsRef<str>]) -> Option<&'a Json> {
    let (first, rest) = path.split_first()?;
    let first = of.claims?.get(first.as_ref())?;
    rest.iter().try_fold(first, |value, name| value.as_object()?.get(name.as_ref()))
}

/// A claim is a text or a list of texts; numbers and booleans are not compared [Istio].
fn any_text(claim: Option<&Json>, fits: &dyn Fn(Value<'_>) -> bool) -> bool {
    match claim {
        Some(Json::String(text)) => fits(Value::Text(text)),
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).any(|text| fits(Value::Text(text))),
        _ => false,
    }
}

/// Of a list that is written as one text, each word is a value.
fn any_word(claim: Option<&Json>, fits: &dyn Fn(Value<'_>) -> bool) -> bool {
    match claim {
        Some(Json::String(list)) => list.split(' ').any(|word| fits(Value::Text(word))),
        _ => any_text(claim, fits),
    }
}

/// The claims that RFC 8693 and its like write so [Istio].
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];
