//! What binds requests to endpoints: hash tables, hash policies, sticky sessions.
//!
//! Decides: what can be said about them, and each default. Never: hashes anything.
//! Invariant: a policy of a checked document reads exactly one part of the request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::HeaderName;

/// The ring of the balancer `ring_hash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RingHash {
    /// Points of all endpoints together, at least. Default: 1024 (Envoy, gRPC A42).
    #[schemars(range(min = 1, max = 8388608))]
    pub minimum_ring_size: u32,
    /// Points of all endpoints together, at most. Default: 8388608 (Envoy; gRPC's cap is 4096).
    #[schemars(range(min = 1, max = 8388608))]
    pub maximum_ring_size: u32,
    /// What the points are hashed with. Default: xx_hash (Envoy).
    pub hash_function: HashFunction,
}

impl Default for RingHash {
    fn default() -> Self {
        Self { minimum_ring_size: 1024, maximum_ring_size: 8_388_608, hash_function: HashFunction::XxHash }
    }
}

/// What the points of a ring are hashed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashFunction {
    /// XXH64 with seed 0.
    #[default]
    XxHash,
    /// MurmurHash2 as in libstdc++.
    #[serde(rename = "murmur_hash_2")]
    MurmurHash2,
}

/// The table of the balancer `maglev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Maglev {
    /// Places, a prime number; a hundred times the number of endpoints or more. Default: 65537 (Envoy).
    #[schemars(range(min = 2, max = 5000011))]
    pub table_size: u32,
}

impl Default for Maglev {
    fn default() -> Self {
        Self { table_size: 65_537 }
    }
}

/// Whether a number is a prime.
pub fn is_prime(number: u32) -> bool {
    let mut divisors = (2_u32..).take_while(|divisor| divisor.saturating_mul(*divisor) <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

/// What `ring_hash` and `maglev` have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistentHashing {
    /// An endpoint is known by its host, as written and without the port, instead of by `ip:port`.
    /// Default: false (Envoy).
    pub use_hostname_for_hashing: bool,
    /// Requests in flight an endpoint may have, in percent of the average, before others take its
    /// requests. Default: absent, no bound (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub hash_balance_factor: Option<u32>,
}

/// A part of the request that its hash is made of: exactly one of the fields besides `terminal`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HashPolicy {
    /// All values of this header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    /// The value of this cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// The first value of this query parameter, as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub query_parameter: Option<String>,
    /// Where the request comes from that is being served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<HashSource>,
    /// Whether the policies below are left out once there is a hash. Default: false (Envoy).
    pub terminal: bool,
}

impl HashPolicy {
    /// The fields that say what to read: exactly one in a checked document.
    pub fn parts(&self) -> usize {
        let parts =
            [self.header.is_some(), self.cookie.is_some(), self.query_parameter.is_some(), self.source.is_some()];
        parts.into_iter().filter(|is_there| *is_there).count()
    }
}

/// A cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// How long it lasts when the response sets it; 0s = as long as the client runs.
    /// Default: in a hash policy absent, the cookie is never set (Envoy); in a session 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeSpan>,
    /// The paths it is set for. Default: empty, the path of the request (Envoy).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// Who or what a request being served comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashSource {
    /// The caller's SPIFFE ID.
    Principal,
    /// The caller's IP address.
    Address,
}

/// A client stays with the endpoint that answered it first: exactly one of `cookie` and `header`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// A cookie that names the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// A header of request and response that names the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderName>,
    /// Whether a request fails when its endpoint is gone, instead of moving. Default: false (Envoy).
    pub strict: bool,
}
