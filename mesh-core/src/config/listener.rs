//! Listeners: the inbound side, as it is written.
//!
//! Decides: what a listener can be. Never: binds. Invariant: a listener without address binds nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::ListenerHealth;
use super::value::{AddressText, Name};

/// One inbound side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The name that rules and checks refer to. Unique.
    pub name: Name,
    /// Where to listen. Absent: the application has its own server and uses only the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressText>,
    /// Who may connect. Default: strict with an identity, plaintext without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Whether requests are routed onward by `routes` (an ingress) instead of served here. Default: false.
    #[serde(default)]
    pub forward: bool,
    /// Which health checks are answered here, before rules and application. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ListenerHealth>,
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
