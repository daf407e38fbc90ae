//! Rate limits, as they are written.
//!
//! Decides: each setting's default and its origin. Never: counts.
//! Invariant: every limit that matches a request applies to it; none stands for another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::policy::CacheAttribute;
use super::route::Matches;
use super::value::{HeaderName, Name, Percent};

/// How many requests may come in, in a span of time. Counted in this process, after access rules. A request
/// has to find a token in every limit that matches it. A bare connection counts where the limit has no `match`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The limit's name in logs and telemetry. Unique.
    pub name: Name,
    /// The listeners it guards. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// The requests it counts. Default: all.
    #[serde(default, rename = "match", skip_serializing_if = "Matches::is_any")]
    pub matches: Matches,
    /// Each value of these has tokens of its own; requests without one share theirs. All spellings of a path that may be
    /// read alike are one value, unless the listener says `judged_paths: as_handed_on`; so is a host with any port. Default: all requests together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<CacheAttribute>,
    /// Requests that may come at once (Envoy's `max_tokens`).
    #[schemars(range(min = 1))]
    pub max_tokens: u32,
    /// Tokens that come back with each interval. Default: `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens_per_fill: Option<u32>,
    /// The interval, at least 50ms (Envoy). Default: 1s.
    #[serde(default = "default_interval")]
    pub fill_interval: TimeSpan,
    /// Values that are remembered at most; above it, the least active ones start anew. Default: 10000.
    #[serde(default = "default_max_keys")]
    #[schemars(range(min = 1, max = 10000000))]
    pub max_keys: u32,
    /// A file in which the processes of this host count together, relative to this file; made with the first request,
    /// with room for `max_keys`. It belongs on a local file system, best in memory. Intervals begin with the clock's.
    /// While it cannot be used, each process counts for itself. Default: absent, each process always does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<PathBuf>,
    /// HTTP status of a refusal; a gRPC caller gets RESOURCE_EXHAUSTED. Default: 429 (RFC 6585).
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Headers of a refusal that tell when there is a token again. Default: off (Envoy).
    #[serde(default)]
    pub headers: RateLimitHeaders,
    /// Headers of a refusal, besides `retry-after`. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<HeaderName, String>,
    /// Share of the refusals that are enforced; the rest is counted and passes. Default: 100.
    #[serde(default = "default_enforced")]
    pub enforce_percent: Percent,
}

/// Headers that tell what is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitHeaders {
    /// None.
    #[default]
    Off,
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    RateLimit,
    /// `x-ratelimit-limit`, `-remaining` and `-reset` (the draft's version 03, as Envoy).
    XRateLimit,
}

fn default_interval() -> TimeSpan {
    TimeSpan::secs(1)
}

fn default_max_keys() -> u32 {
    10_000
}

fn default_status() -> u16 {
    429
}

fn default_enforced() -> Percent {
    Percent(100.0)
}
