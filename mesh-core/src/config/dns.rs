//! Endpoints that are the answer of a name server.
//!
//! Decides: what can be said about a cluster that is found by DNS. Never: resolves anything.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{AddressText, HostText};

/// Endpoints found by DNS. Asked again when an answer's time to live ends, whether or not there is
/// traffic; an error keeps the last good answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The name to ask for. One that does not end with a dot may be completed by the search list of the
    /// system's configuration.
    pub name: HostText,
    /// The port of A and AAAA endpoints. SRV records carry their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Which records. Default: auto (SRV if the name starts with `_`, else A and AAAA).
    #[serde(default, rename = "type")]
    pub records: DnsRecords,
    /// Whether each address is an endpoint. Default: strict (Envoy's STRICT_DNS).
    #[serde(default)]
    pub mode: DnsMode,
    /// Which addresses. Default: both (Envoy's ALL).
    #[serde(default)]
    pub family: DnsFamily,
    /// Asked again this often. Default: when the answer's time to live ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<TimeSpan>,
    /// Never asked again sooner than this, nor after an error. Default: 1s (Envoy's dns_min_refresh_rate is 5s).
    #[serde(default = "default_min_refresh")]
    pub min_refresh: TimeSpan,
    /// How long an answer is used beyond its time to live while it cannot be renewed; then the endpoints
    /// are gone. Default: 24h (RFC 8767: one to three days).
    #[serde(default = "default_max_stale")]
    pub max_stale: TimeSpan,
    /// What an answer without addresses means: the name does not exist, or has no such records.
    /// Default: keep (ours: a zone by mistake empty must not be an outage; Envoy removes).
    #[serde(default)]
    pub on_empty: OnEmpty,
    /// Name servers, by IP address and port. Default: those of the system's configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<AddressText>,
    /// Time for one question, all servers included. Default: 5s (resolv.conf).
    #[serde(default = "default_timeout")]
    pub timeout: TimeSpan,
}

/// Which records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsRecords {
    /// SRV if the name starts with `_`, else A and AAAA.
    #[default]
    Auto,
    /// Addresses.
    #[serde(rename = "a_aaaa")]
    Addresses,
    /// Services: names with ports, priorities and weights.
    Srv,
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsMode {
    /// Each address is an endpoint.
    #[default]
    Strict,
    /// One address at a time is the endpoint, for names that stand for a load balancer: the same one for as
    /// long as it is answered and takes connections, then the next (Envoy's LOGICAL_DNS takes the first).
    Logical,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsFamily {
    /// Both.
    #[default]
    Both,
    /// IPv4, by A records.
    V4,
    /// IPv6, by AAAA records.
    V6,
}

/// What an answer without addresses means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnEmpty {
    /// The last addresses stay, for as long as an error would let them.
    #[default]
    Keep,
    /// The cluster has no endpoint.
    Remove,
}

impl Dns {
    /// Whether services are asked for, `auto` resolved.
    pub fn is_srv(&self) -> bool {
        match self.records {
            DnsRecords::Auto => self.name.as_str().starts_with('_'),
            DnsRecords::Addresses => false,
            DnsRecords::Srv => true,
        }
    }
}

fn default_min_refresh() -> TimeSpan {
    TimeSpan::secs(1)
}

fn default_max_stale() -> TimeSpan {
    TimeSpan::secs(24 * 60 * 60)
}

fn default_timeout() -> TimeSpan {
    TimeSpan::secs(5)
}
