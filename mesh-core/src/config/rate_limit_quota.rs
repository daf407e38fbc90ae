//! Rate limits that a server assigns, as they are written: Envoy's rate limit quota filter, in Envoy's words.
//!
//! Decides: what can be said about them, and each default. Never: counts.
//! Invariant: a strategy of a checked document is of exactly one kind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::global_limit::{DescriptorRule, Nothing};
use super::rate_limit::RateLimitHeaders;
use super::route::Matches;
use super::value::{HeaderName, Name, Percent};

/// A limit that a server assigns, by Envoy's rate limit quota protocol (RLQS). Requests are put into buckets; what was
/// counted of each is reported, and the server says how many requests of a bucket this process lets pass from then on.
/// No request waits for the server. Applied after the local `rate_limits`. A bare connection counts where the limit
/// has no `match`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitQuota {
    /// The limit's name in logs and telemetry. Unique among all rate limits.
    pub name: Name,
    /// The cluster of this file that assigns. One stream to it is opened with the first bucket, and stays open.
    pub cluster: Name,
    /// The domain the server knows the buckets by.
    #[schemars(length(min = 1))]
    pub domain: String,
    /// The listeners it guards. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// The requests it is about. Default: all.
    #[serde(default, rename = "match", skip_serializing_if = "Matches::is_any")]
    pub matches: Matches,
    /// What makes a request's bucket: the entries of the first of these that makes some are its id. A request that
    /// none describes passes, and is not reported (Envoy).
    #[schemars(length(min = 1))]
    pub buckets: Vec<DescriptorRule>,
    /// How often each bucket is reported, above 100ms (Envoy, which has no default). A new bucket is reported at once.
    /// Default: 5s (ours).
    #[serde(default = "default_interval")]
    pub reporting_interval: TimeSpan,
    /// What holds for a bucket until its first assignment, and for buckets beyond `max_buckets`. Default: all requests
    /// pass (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_assignment_behavior: Option<NoAssignment>,
    /// What holds for a bucket whose assignment has expired. Default: it is a new one at once (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_assignment_behavior: Option<ExpiredAssignment>,
    /// Buckets that are remembered; one that was not used for 10 minutes is forgotten. Default: 10000 (as of a lease).
    #[serde(default = "default_max_buckets")]
    #[schemars(range(min = 1, max = 10000000))]
    pub max_buckets: u32,
    /// HTTP status of a refusal. Default: 429 (Envoy).
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Whether a gRPC caller over the limit gets RESOURCE_EXHAUSTED instead of UNAVAILABLE. Default: false (Envoy).
    #[serde(default)]
    pub rate_limited_as_resource_exhausted: bool,
    /// Headers of a refusal that tell when there is a token again. Default: off (Envoy).
    #[serde(default)]
    pub headers: RateLimitHeaders,
    /// Headers of a refusal, besides `retry-after`. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<HeaderName, String>,
    /// Share of the refusals that are enforced; the rest is reported as denied, counted and passes. Default: 100.
    #[serde(default = "default_enforced")]
    pub enforce_percent: Percent,
}

/// What holds until the first assignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoAssignment {
    /// How many requests pass.
    pub fallback_rate_limit: RateLimitStrategy,
}

/// What holds after an assignment has expired: exactly one of the first two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpiredAssignment {
    /// So many requests pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_rate_limit: Option<RateLimitStrategy>,
    /// The last assignment goes on: `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_last_assignment: Option<Nothing>,
    /// For so long, unless the server assigns again; then the bucket is a new one.
    pub expired_assignment_behavior_timeout: TimeSpan,
}

/// How many requests pass: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitStrategy {
    /// All, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blanket_rule: Option<BlanketRule>,
    /// So many in each unit of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_time_unit: Option<RequestsPerTimeUnit>,
    /// Who finds a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_bucket: Option<QuotaBucket>,
}

impl RateLimitStrategy {
    /// The fields that say how many: exactly one in a checked document.
    pub fn kinds(&self) -> usize {
        let kinds = [self.blanket_rule.is_some(), self.requests_per_time_unit.is_some(), self.token_bucket.is_some()];
        kinds.into_iter().filter(|is_there| *is_there).count()
    }
}

/// All requests, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlanketRule {
    /// All pass.
    AllowAll,
    /// None passes.
    DenyAll,
}

/// So many requests in each unit of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestsPerTimeUnit {
    /// Requests; 0 denies all.
    pub requests_per_time_unit: u32,
    /// The unit.
    pub time_unit: TimeUnit,
}

/// Envoy's units of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// 1s.
    Second,
    /// 60s.
    Minute,
    /// 60min.
    Hour,
    /// 24h.
    Day,
    /// 30 days.
    Month,
    /// 365 days.
    Year,
}

/// Tokens that requests take and time gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaBucket {
    /// Requests that may come at once.
    #[schemars(range(min = 1))]
    pub max_tokens: u32,
    /// Tokens that come back with each interval. Default: 1 (Envoy).
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: TimeSpan,
}

fn default_interval() -> TimeSpan {
    TimeSpan::secs(5)
}

fn default_max_buckets() -> u32 {
    10_000
}

fn default_status() -> u16 {
    429
}

fn default_enforced() -> Percent {
    Percent(100.0)
}

fn one() -> u32 {
    1
}
