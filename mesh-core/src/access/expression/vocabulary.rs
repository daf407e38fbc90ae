//! The names an expression may use, and what they stand for.
//!
//! Invariant: a fact that a request does not have is not there, which `has()` tells; headers and claims are always maps.

use super::*;

/// One name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term(usize);

impl Term {
    /// The term that `segments` begin with, as `request.headers` of `request.headers.host`.
    pub(super) fn of(segments: &[&str]) -> Option<Self> {
        let begins = |(name, _): &(&str, Read)| {
            let own: Vec<&str> = name.split('.').collect();
            segments.starts_with(&own) && (segments.len() == own.len() || is_open(name))
        };
        TERMS.iter().position(begins).map(Self)
    }

    pub(super) fn is_of_request(self) -> bool {
        TERMS[self.0].0.starts_with("request.")
    }
}

/// All names, for whoever mistyped one.
pub(super) fn names() -> String {
    TERMS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Whether `name` is the first part of terms, and no value by itself.
pub(super) fn is_root(name: &str) -> bool {
    ["request", "source", "destination", "connection"].contains(&name)
}

/// The variables with those of their fields that are asked for.
pub(super) fn bind(terms: &[Term], of: &Attributes<'_>) -> Vec<(&'static str, Value)> {
    let mut roots: HashMap<&'static str, HashMap<String, Value>> = HashMap::new();
    for term in terms {
        let (name, read) = TERMS[term.0];
        let Some((root, field)) = name.split_once('.') else { continue };
        let fields = roots.entry(root).or_default();
        let Some(value) = read(of) else { continue };
        match field.strip_prefix("auth.") {
            None => _ = fields.insert(field.to_owned(), value),
            Some(inner) => _ = fields.insert(AUTH.to_owned(), with(fields.get(AUTH), inner, value)),
        }
    }
    // Whoever asks about a token finds that there is none, not that there is no such question.
    let asks_auth = terms.iter().any(|term| TERMS[term.0].0.starts_with("request.auth."));
    if let Some(request) = roots.get_mut("request").filter(|_| asks_auth) {
        request.entry(AUTH.to_owned()).or_insert_with(|| Value::from(HashMap::<String, Value>::new()));
    }
    roots.into_iter().map(|(name, fields)| (name, Value::from(fields))).collect()
}

/// The map with one more field.
fn with(map: Option<&Value>, field: &str, value: Value) -> Value {
    let mut fields: HashMap<String, Value> = HashMap::new();
    if let Some(Value::Map(map)) = map {
        fields.extend(map.map.iter().map(|(key, value)| (key.to_string(), value.clone())));
    }
    fields.insert(field.to_owned(), value);
    Value::from(fields)
}

/// Whether further fields follow the name.
fn is_open(name: &str) -> bool {
    [HEADERS, CLAIMS].contains(&name)
}

type Read = fn(&Attributes<'_>) -> Option<Value>;

fn text(text: &str) -> Option<Value> {
    Some(Value::from(text))
}

/// In lower case, the lines of one header joined with `,`.
fn headers(of: &Attributes<'_>) -> Option<Value> {
    let joined = of.headers.keys().map(|name| {
        let lines: Vec<_> =
            of.headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        (name.as_str().to_owned(), Value::from(lines.join(",")))
    });
    Some(Value::from(joined.collect::<HashMap<_, _>>()))
}

fn claims(of: &Attributes<'_>) -> Option<Value> {
    match of.claims {
        Some(claims) => cel::to_value(claims.as_ref()).ok(),
        None => Some(Value::from(HashMap::<String, Value>::new())),
    }
}

fn claim(of: &Attributes<'_>, name: &str) -> Option<Value> {
    cel::to_value(of.claims?.get(name)?).ok()
}

fn request_principal(of: &Attributes<'_>) -> Option<Value> {
    let part = |name| of.claims?.get(name)?.as_str();
    Some(Value::from(format!("{}/{}", part("iss")?, part("sub")?)))
}

fn address(address: Option<std::net::SocketAddr>) -> Option<Value> {
    Some(Value::from(address?.to_string()))
}

fn ip(address: Option<std::net::SocketAddr>) -> Option<Value> {
    Some(Value::from(address?.ip().to_string()))
}

fn port(address: Option<std::net::SocketAddr>) -> Option<Value> {
    Some(Value::Int(i64::from(address?.port())))
}

const AUTH: &str = "auth";
const HEADERS: &str = "request.headers";
const CLAIMS: &str = "request.auth.claims";

/// As Envoy and Istio call them; `request.path` has no query here, as in our rules.
const TERMS: &[(&str, Read)] = &[
    ("request.method", |of| text(of.method)),
    ("request.path", |of| text(of.path)),
    ("request.query", |of| text(of.query.unwrap_or_default())),
    ("request.host", |of| text(of.host)),
    ("request.scheme", |of| text(of.scheme)),
    ("request.protocol", |of| text(of.protocol)),
    ("request.id", |of| text(of.request_id)),
    (HEADERS, headers),
    ("request.auth.principal", request_principal),
    ("request.auth.audiences", |of| claim(of, "aud")),
    ("request.auth.presenter", |of| claim(of, "azp")),
    (CLAIMS, claims),
    ("source.principal", |of| of.principal.and_then(text)),
    ("source.address", |of| address(of.source_address)),
    ("source.ip", |of| ip(of.source_address)),
    ("source.port", |of| port(of.source_address)),
    ("destination.principal", |of| of.own_principal.and_then(text)),
    ("destination.address", |of| address(of.destination_address)),
    ("destination.ip", |of| ip(of.destination_address)),
    ("destination.port", |of| port(of.destination_address)),
    ("destination.service", |of| text(of.service)),
    ("destination.listener", |of| text(of.listener)),
    ("connection.mtls", |of| Some(Value::Bool(of.principal.is_some()))),
    ("connection.sni", |of| of.sni.and_then(text)),
];
