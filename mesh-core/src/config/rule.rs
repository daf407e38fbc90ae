//! What a rule does besides sending on: changed headers, its own answers, faults.
//!
//! Decides: what can be written. Never: answers. Invariant: a rule has backends or an answer of its own, never both.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{HeaderName, Name, Percent};

/// Headers that are changed on the way: removed first, then set, then added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderChanges {
    /// Taken off. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
    /// Put in place of whatever is there. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<HeaderName, String>,
    /// Put beside whatever is there. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<HeaderName, String>,
}

/// Why a rule may not change a header, if so.
pub fn unchangeable(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "host" => Some("`rewrite.host` does"),
        "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "te" => Some("it belongs to the connection"),
        "content-length" | "transfer-encoding" | "trailer" | "expect" => Some("it frames the message"),
        _ if name.starts_with("x-mesh-") => Some("it is between the ends of the mesh"),
        _ => None,
    }
}

/// An answer that sends the caller elsewhere. What is absent stays as it is in the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default: 302 (Gateway API).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 301, max = 308))]
    pub status: Option<u16>,
    /// http or https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// The new host, without port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
    /// The new port. Absent with a `scheme`: that scheme's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The whole new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Replaces the matched path prefix. Needs a prefix match in every alternative.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub prefix: Option<String>,
    /// Whether the query is left out. Default: false.
    pub strip_query: bool,
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RedirectScheme {
    /// Plaintext.
    Http,
    /// TLS.
    Https,
}

/// An answer as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectResponse {
    /// Its status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Its body, at most 4096 characters (Envoy). Default: empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub body: String,
}

/// A copy of each request, or of a share, for another cluster (Envoy's `request_mirror_policies`). It is sent once, as
/// `sheddable`, with `-shadow` at the end of its host; whatever becomes of it, the caller sees nothing of it. A request
/// whose body is longer than 64 KiB, was not read to its end, or which asks for an upgrade has no copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of a cluster of this file.
    pub cluster: Name,
    /// The share of requests that are copied. Default: 100 (Envoy).
    #[serde(default = "all")]
    pub percent: Percent,
}

fn all() -> Percent {
    Percent(100.0)
}

/// Faults on purpose, to see what callers make of them. Drawn for each request, before its first attempt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// A wait before the request is sent; its deadline goes on. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// An answer instead of the service's. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// How long.
    pub time: TimeSpan,
    /// The share of requests that wait.
    pub percent: Percent,
}

/// An answer that the service never gave: exactly one of `status` and `grpc_status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// With this HTTP status; a gRPC call gets the code that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// With this gRPC code; other calls get the status that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u16>,
    /// The share of requests that get it.
    pub percent: Percent,
}
