//! A cluster: a named group of endpoints and how to speak to them.
//!
//! Decides: what can be said about a cluster and an endpoint. Never: resolves or connects.
//! Invariant: an absent override means the mesh-wide default, never a value of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balancing::Balancing;
use super::connection::{ConnectionPool, Http2};
use super::dns::Dns;
use super::duration::TimeSpan;
use super::hashing::{ConsistentHashing, HashPolicy, Maglev, RingHash, Session};
use super::health::HealthCheck;
use super::policy::{CircuitBreakerOverride, ConcurrencyLimitOverride, OutlierOverride, RetryBudgetOverride};
use super::value::{AddressText, Name, ServerNameText, SpiffeIdText, Weight};

/// A named group of endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The name that backends and checks refer to. Unique.
    pub name: Name,
    /// How the destination is named in telemetry.
    #[serde(default)]
    pub service: ServiceNames,
    /// The endpoints, in this file. Exactly one of `endpoints`, `endpoints_file`, `dns` and `endpoint_source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// A YAML file with the list of endpoints, watched; relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub endpoints_file: Option<PathBuf>,
    /// The endpoints are what DNS answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// The endpoints come from a source that the application registered by this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_source: Option<Name>,
    /// What is spoken to the endpoints. Default: auto (ALPN over TLS, HTTP/1.1 in plaintext).
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether and as whom the endpoints are authenticated.
    #[serde(default)]
    pub tls: ClusterTls,
    /// How an endpoint is picked. Default: `defaults.balancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Balancer>,
    /// Priorities, localities, slow start, subsets, and the balancers' own numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// The ring, for the balancer `ring_hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// The table, for the balancer `maglev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maglev: Option<Maglev>,
    /// How endpoints are known and bounded, for both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hashing: Option<ConsistentHashing>,
    /// What requests hash to whose rule does not say; for both. Default: nothing, the hash is random.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash_policy: Vec<HashPolicy>,
    /// What keeps clients with their endpoint whose rule does not say. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Overrides `defaults.circuit_breaker`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerOverride>,
    /// A breaker of the cluster as a whole, beside those of its endpoints: on top of `defaults.circuit_breaker`,
    /// field by field. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_circuit_breaker: Option<CircuitBreakerOverride>,
    /// How endpoints are probed, besides what requests show. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Overrides `defaults.outlier`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierOverride>,
    /// Overrides `defaults.concurrency_limit`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<ConcurrencyLimitOverride>,
    /// Overrides `defaults.retry_budget`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetOverride>,
    /// Time to open a connection. Default: `defaults.connect_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<TimeSpan>,
    /// Idle connections kept per endpoint. Default: 64 (ours).
    #[serde(default = "default_max_idle")]
    pub max_idle_connections: u32,
    /// How long an idle connection is kept. Default: 60s (ours; below the 75s and more of common servers).
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: TimeSpan,
    /// How many connections to each endpoint there are, and how long they live.
    #[serde(default)]
    pub connection_pool: ConnectionPool,
    /// HTTP/2 connections: requests at once, and how a dead peer is found out.
    #[serde(default)]
    pub http2: Http2,
}

impl Cluster {
    /// What the endpoints' certificates have to name unless the endpoints' own addresses say it: `sni`, else the name
    /// that is resolved to them. Behind a service (SRV) are hosts of any name.
    pub fn server_name(&self) -> Option<&str> {
        let resolved = self.dns.as_ref().filter(|dns| !dns.is_srv()).map(|dns| dns.name.as_str());
        self.tls.sni.as_ref().map(ServerNameText::as_str).or(resolved)
    }
}

/// How the destination is named in telemetry (Istio's destination labels).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceNames {
    /// Service. Default: the cluster's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace. Default: `node.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Fully qualified host. Default: `{name}.{namespace}.svc.cluster.local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// One address of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `ip:port`, `host:port`, `[v6]:port` or `unix:/path`. Unique within the cluster.
    pub address: AddressText,
    /// Further addresses of the same endpoint, by IP: a connection goes to the first that takes it, a slow one gets
    /// company after 250 ms (RFC 8305). Default: none (Envoy's additional_addresses).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<AddressText>,
    /// Share of the traffic relative to the other endpoints; 0 = none. Default: 1.
    #[serde(default)]
    pub weight: Weight,
    /// Its level: 0 is used first, the others as far as the ones before cannot carry the traffic. Default: 0
    /// (Envoy; at most 128).
    #[serde(default)]
    #[schemars(range(max = 128))]
    pub priority: u32,
    /// What consistent hashing knows the endpoint by (Envoy's `hash_key`, gRPC A76). Default: its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub hash_key: Option<String>,
    /// Where the endpoint runs. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// Free labels, for subsets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// TLS of this endpoint alone. Default: the cluster's mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// How the operator declares it: a draining endpoint gets no new request while there is another one.
    /// Default: healthy (Envoy's EDS `health_status`).
    #[serde(default)]
    pub health: Declared,
    /// What runs there: the destination labels of telemetry until the peer tells its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

impl Endpoint {
    /// An endpoint of which nothing is known but where it is.
    pub fn at(address: AddressText) -> Self {
        Self {
            address,
            weight: Weight::default(),
            additional_addresses: Vec::new(),
            priority: 0,
            hash_key: None,
            locality: None,
            labels: BTreeMap::new(),
            tls: None,
            health: Declared::default(),
            workload: None,
        }
    }
}

/// How an endpoint is, as its operator declares it (Envoy's EDS `health_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Declared {
    /// It may be used.
    #[default]
    Healthy,
    /// It may be used when the healthy ones do not suffice.
    Degraded,
    /// It finishes what it has; used only when nothing better is left.
    Draining,
    /// It must not be used.
    Unhealthy,
}

/// Where something runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Locality {
    /// Region. Default: empty.
    pub region: String,
    /// Zone within the region. Default: empty.
    pub zone: String,
}

/// What runs at an endpoint. Absent fields read as `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Workload, for example the deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Canonical revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Mesh cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Whether and as whom endpoints are authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterTls {
    /// Default: mutual with an identity, plaintext without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// The exact SPIFFE IDs an endpoint may present. Required for mutual TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_ids: Vec<SpiffeIdText>,
    /// For `simple`: a PEM file of the roots that may vouch for an endpoint, relative to this file, and read whenever
    /// this file is. Default: the operating system's (Istio's OS CA certificates).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// For `simple`: the name that every endpoint is asked for, and that its certificate has to carry. Default: the
    /// host of the endpoint's address as written, or the name that DNS is asked for (Envoy: none, and nothing verified).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<ServerNameText>,
}

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// No TLS.
    Plaintext,
    /// TLS in which both ends prove their SPIFFE ID.
    Mutual,
    /// TLS in which the server alone proves its host name, by a certificate as the web has them (Istio's SIMPLE): for
    /// servers outside of the mesh.
    Simple,
}

impl TlsMode {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Mutual => "mutual",
            Self::Simple => "simple",
        }
    }
}

/// What is spoken to endpoints: the HTTP version, or no HTTP at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// ALPN over TLS, HTTP/1.1 in plaintext.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge in plaintext.
    Http2,
    /// Bare connections (Istio's port protocol TCP): what the application says over what it dials. Requests are refused.
    Tcp,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// The better of two random endpoints by latency times load (Finagle).
    #[default]
    PeakEwma,
    /// The less loaded of two random endpoints (Envoy).
    LeastRequest,
    /// One after the other, by weight (Envoy).
    RoundRobin,
    /// By chance, by weight (Envoy).
    Random,
    /// One after the other, by the load they report of themselves in `endpoint-load-metrics` (gRPC A58).
    WeightedRoundRobin,
    /// Equal requests to the same endpoint, by a ring of hashes (Envoy, gRPC A42).
    RingHash,
    /// Equal requests to the same endpoint, by a table (Envoy).
    Maglev,
}

fn default_max_idle() -> u32 {
    64
}

fn default_idle_timeout() -> TimeSpan {
    TimeSpan::secs(60)
}
