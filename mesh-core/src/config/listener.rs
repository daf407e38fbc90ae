//! Listeners: the inbound side, as it is written.
//!
//! Decides: what a listener can be. Never: binds. Invariant: a listener without address binds nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::Action;
use super::admission::{Criticality, ListenerConcurrency};
use super::health::ListenerHealth;
use super::path::{EscapedSlashes, JudgedPaths};
use super::value::{AddressText, Name, PathText};

/// One inbound side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The name that rules and checks refer to. Unique.
    pub name: Name,
    /// Where to listen. Absent: the application has its own server and uses only the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressText>,
    /// What is spoken to it. Default: http (either version).
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Who may connect. Default: strict with an identity, plaintext without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// What happens to what neither an allow rule nor an ALLOW policy lets in by name; the stricter of this and
    /// `policy.access.default` holds. Default: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_default: Option<Action>,
    /// Whether requests are routed onward by `routes` (an ingress) instead of served here. Default: false.
    #[serde(default)]
    pub forward: bool,
    /// When responses tell how loaded this process is (ORCA). Default: on_request, over TLS only to callers with a proven
    /// identity; with `forward` off (ours; gRPC and Envoy servers tell always once they are told to).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_reports: Option<LoadReports>,
    /// How many requests are taken on at once, and who waits. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ListenerConcurrency>,
    /// The highest class that is believed of callers who prove no identity. Default: critical (ours).
    #[serde(default)]
    pub max_criticality: Criticality,
    /// Which health checks are answered here, before rules and application. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ListenerHealth>,
    /// Whether dot segments, `\\` and needless escapes are resolved in paths (RFC 3986) before anything is decided.
    /// Default: true (Istio; Envoy alone: false).
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub normalize_path: bool,
    /// Whether several `/` in a row become one. Default: false (Envoy).
    #[serde(default, skip_serializing_if = "is_false")]
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C`. Default: keep_unchanged (Envoy).
    #[serde(default, skip_serializing_if = "is_default")]
    pub path_with_escaped_slashes_action: EscapedSlashes,
    /// Paths, by segment, at and below which escaped slashes are kept whatever happens to others. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_escaped_slashes: Vec<PathText>,
    /// What rules on paths are asked about. Default: every_reading (ours; Istio: as_handed_on).
    #[serde(default, skip_serializing_if = "is_default")]
    pub judged_paths: JudgedPaths,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is spoken to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2: requests for the application, or for `routes`.
    #[default]
    Http,
    /// Bare connections, which the application accepts. Access rules, Istio's policies and checks decide about the
    /// connection. With `tls: permissive` a peer in plaintext has to speak first, or it is refused after 10s: until
    /// then nobody knows whether TLS comes (Istio has the same limit; for a server that speaks first, as MySQL's, use
    /// strict or plaintext).
    Tcp,
}

/// When responses carry a load report: `endpoint-load-metrics`, for gRPC the trailer `endpoint-load-metrics-bin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadReports {
    /// On every response.
    Always,
    /// When the request asks by `endpoint-load-metrics-format: TEXT`, `JSON` or `BIN`.
    OnRequest,
    /// Never.
    Off,
}

/// Who may connect (Istio's PeerAuthentication modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerTls {
    /// Only peers that prove a SPIFFE ID.
    Strict,
    /// Those, and plaintext as well.
    Permissive,
    /// Only plaintext.
    Plaintext,
}
