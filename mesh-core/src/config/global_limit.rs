//! Global rate limits, as they are written: Envoy's rate limit filter and its actions, in Envoy's words.
//!
//! Decides: what can be said about them, and each default. Never: asks or counts.
//! Invariant: an action of a checked document makes entries of exactly one kind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::policy::{CacheAttribute, FailureMode};
use super::rate_limit::RateLimitHeaders;
use super::route::{HeaderMatch, Matches, QueryMatch};
use super::value::{HeaderName, Name, Percent};

/// A limit that is counted elsewhere, for many processes: by a server of Envoy's rate limit protocol (RLS v3). Asked
/// after the local `rate_limits`. A bare connection is asked about where the limit has no `match`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GlobalRateLimit {
    /// The limit's name in logs and telemetry. Unique.
    pub name: Name,
    /// The cluster of this file that counts.
    pub cluster: Name,
    /// The domain the server knows the limits by.
    #[schemars(length(min = 1))]
    pub domain: String,
    /// The listeners it guards. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// The requests that are asked about. Default: all.
    #[serde(default, rename = "match", skip_serializing_if = "Matches::is_any")]
    pub matches: Matches,
    /// What a request is counted by; each makes one descriptor, or none. No descriptor: the server is not asked.
    #[schemars(length(min = 1))]
    pub descriptors: Vec<DescriptorRule>,
    /// Time for an answer. Default: 20ms (Envoy).
    #[serde(default = "default_timeout")]
    pub timeout: TimeSpan,
    /// What an unanswered question means. Default: open (Envoy's `failure_mode_deny: false`).
    #[serde(default = "default_failure")]
    pub failure: FailureMode,
    /// HTTP status of a request refused because the server did not answer. Default: 500 (Envoy).
    #[serde(default = "default_status_on_error")]
    #[schemars(range(min = 500, max = 599))]
    pub status_on_error: u16,
    /// HTTP status of a request over the limit. Default: 429 (RFC 6585).
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Whether a gRPC caller over the limit gets RESOURCE_EXHAUSTED instead of UNAVAILABLE. Default: false (Envoy).
    #[serde(default)]
    pub rate_limited_as_resource_exhausted: bool,
    /// Whether a refusal carries no `x-envoy-ratelimited: true`. Default: false (Envoy).
    #[serde(default)]
    pub disable_x_envoy_ratelimited_header: bool,
    /// Headers that tell what is left, on what was asked about; a request on a lease has none. Default: off (Envoy).
    #[serde(default)]
    pub headers: RateLimitHeaders,
    /// Headers of a refusal, besides `retry-after`. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<HeaderName, String>,
    /// Share of the refusals that are enforced; the rest is counted and passes. Default: 100.
    #[serde(default = "default_enforced")]
    pub enforce_percent: Percent,
    /// Asks for many requests in advance, so that most are not asked about. Default: absent, each is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

/// How much is asked for in advance, for each set of descriptors: as much as came in the last second, within these.
/// Of a limit that fails open, what was asked for is spent before it is granted and paid by the next grant, so that
/// each process lets at most `max` more through than the server granted. One that fails closed waits for the grant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// Requests at least. Default: 10 (Istio's Mixer).
    #[schemars(range(min = 1))]
    pub min: u32,
    /// Requests at most. Default: 1000 (ours).
    #[schemars(range(min = 1))]
    pub max: u32,
    /// How long a grant lasts at most; one that the server says is reset earlier ends then. Default: 60s (Mixer).
    pub ttl: TimeSpan,
    /// Sets of descriptors that are remembered; above it, idle ones are forgotten first. Default: 10000 (Mixer).
    #[schemars(range(min = 1, max = 10000000))]
    pub max_keys: u32,
}

impl Default for Lease {
    fn default() -> Self {
        Self { min: 10, max: 1000, ttl: TimeSpan::secs(60), max_keys: 10_000 }
    }
}

/// A descriptor: what its actions make, in this order. An action that makes nothing drops the whole descriptor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DescriptorRule {
    /// The actions.
    #[schemars(length(min = 1))]
    pub actions: Vec<Action>,
}

/// Makes an entry of a descriptor: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Action {
    /// `source_cluster`: the name of this node's service (Envoy: its own `--service-cluster`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_cluster: Option<Nothing>,
    /// `destination_cluster`: the service that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_cluster: Option<Nothing>,
    /// `remote_address`: where the request comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<Nothing>,
    /// `masked_remote_address`: the network it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_remote_address: Option<MaskedRemoteAddress>,
    /// The same for every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_key: Option<GenericKey>,
    /// The value of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<RequestHeaders>,
    /// A fixed value, of requests whose headers match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_value_match: Option<HeaderValueMatch>,
    /// A fixed value, of requests whose query parameters match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_parameter_value_match: Option<QueryParameterValueMatch>,
    /// A claim of the end user's token (in Envoy: `metadata` of its JWT filter).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimEntry>,
    /// A fact that policies know, such as the caller's proven principal (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<AttributeEntry>,
}

impl Action {
    /// The fields that say what to make: exactly one in a checked document.
    pub fn kinds(&self) -> usize {
        let kinds = [
            self.source_cluster.is_some(),
            self.destination_cluster.is_some(),
            self.remote_address.is_some(),
            self.masked_remote_address.is_some(),
            self.generic_key.is_some(),
            self.request_headers.is_some(),
            self.header_value_match.is_some(),
            self.query_parameter_value_match.is_some(),
            self.claim.is_some(),
            self.attribute.is_some(),
        ];
        kinds.into_iter().filter(|is_there| *is_there).count()
    }

    /// The key of the entry it makes; `None`: it makes none.
    pub fn key(&self) -> Option<String> {
        let fixed = [
            (self.source_cluster, "source_cluster"),
            (self.destination_cluster, "destination_cluster"),
            (self.remote_address, "remote_address"),
            (self.masked_remote_address.as_ref().map(|_| Nothing {}), "masked_remote_address"),
        ];
        let named = [
            self.generic_key.as_ref().map(|made| (made.descriptor_key.as_deref(), "generic_key")),
            self.request_headers.as_ref().map(|made| (Some(&*made.descriptor_key), "")),
            self.header_value_match.as_ref().map(|made| (made.descriptor_key.as_deref(), "header_match")),
            self.query_parameter_value_match.as_ref().map(|made| (made.descriptor_key.as_deref(), "query_match")),
            self.claim.as_ref().map(|made| (Some(&*made.descriptor_key), "")),
        ];
        let fixed = fixed.into_iter().find_map(|(is_there, key)| is_there.map(|_| key.to_owned()));
        let named =
            || named.into_iter().flatten().next().map(|(written, default)| written.unwrap_or(default).to_owned());
        let fact = self.attribute.as_ref();
        let fact = || fact.map(|made| made.descriptor_key.clone().unwrap_or_else(|| made.name.to_string()));
        fixed.or_else(named).or_else(fact)
    }
}

/// Nothing more to say: `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nothing {}

/// How much of an address is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaskedRemoteAddress {
    /// Bits of an IPv4 address. Default: 32 (Envoy).
    #[schemars(range(max = 32))]
    pub v4_prefix_mask_len: u32,
    /// Bits of an IPv6 address. Default: 128 (Envoy).
    #[schemars(range(max = 128))]
    pub v6_prefix_mask_len: u32,
}

impl Default for MaskedRemoteAddress {
    fn default() -> Self {
        Self { v4_prefix_mask_len: 32, v6_prefix_mask_len: 128 }
    }
}

/// The same entry for every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenericKey {
    /// The entry's value.
    #[schemars(length(min = 1))]
    pub descriptor_value: String,
    /// The entry's key. Default: generic_key (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub descriptor_key: Option<String>,
}

/// The value of a header, several joined with `,`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestHeaders {
    /// The header; `:method`, `:path` (with the query), `:authority` and `:scheme` are known as well.
    #[schemars(length(min = 1))]
    pub header_name: String,
    /// The entry's key.
    #[schemars(length(min = 1))]
    pub descriptor_key: String,
    /// Without the header, only this entry is left out. Default: false, the whole descriptor is (Envoy).
    #[serde(default)]
    pub skip_if_absent: bool,
}

/// A fixed value, of requests whose headers match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderValueMatch {
    /// The entry's value.
    #[schemars(length(min = 1))]
    pub descriptor_value: String,
    /// The entry's key. Default: header_match (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub descriptor_key: Option<String>,
    /// Whether they must match, or must not. Default: true (Envoy).
    #[serde(default = "yes")]
    pub expect_match: bool,
    /// Conditions that all hold.
    #[schemars(length(min = 1))]
    pub headers: Vec<HeaderMatch>,
}

/// A fixed value, of requests whose query parameters match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryParameterValueMatch {
    /// The entry's value.
    #[schemars(length(min = 1))]
    pub descriptor_value: String,
    /// The entry's key. Default: query_match (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub descriptor_key: Option<String>,
    /// Whether they must match, or must not. Default: true (Envoy).
    #[serde(default = "yes")]
    pub expect_match: bool,
    /// Conditions that all hold.
    #[schemars(length(min = 1))]
    pub query_parameters: Vec<QueryMatch>,
}

/// A claim whose value is a text, a number or a boolean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimEntry {
    /// The claim's name, then the names of the fields inside it.
    #[schemars(length(min = 1))]
    pub path: Vec<String>,
    /// The entry's key.
    #[schemars(length(min = 1))]
    pub descriptor_key: String,
    /// The value of requests without the claim. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub default_value: Option<String>,
    /// Without the claim, only this entry is left out. Default: false, the whole descriptor is (Envoy).
    #[serde(default)]
    pub skip_if_absent: bool,
}

/// A fact that policies know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttributeEntry {
    /// Which one.
    pub name: CacheAttribute,
    /// The entry's key. Default: the fact's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub descriptor_key: Option<String>,
    /// Without the fact, only this entry is left out. Default: false, the whole descriptor is.
    #[serde(default)]
    pub skip_if_absent: bool,
}

fn default_timeout() -> TimeSpan {
    TimeSpan::millis(20)
}

fn default_failure() -> FailureMode {
    FailureMode::Open
}

fn default_status_on_error() -> u16 {
    500
}

fn default_status() -> u16 {
    429
}

fn default_enforced() -> Percent {
    Percent(100.0)
}

fn yes() -> bool {
    true
}
