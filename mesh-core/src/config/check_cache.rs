//! How the answers of a check are kept, as it is written.
//!
//! Decides: each setting's default and its origin. Never: keeps anything.
//! Invariant: what an answer says about its own life counts before what is written here, up to the caps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::policy::CacheAttribute;
use super::value::Percent;

/// How the answers of a check are kept. An answer may say itself what it depends on and how long it holds, in the
/// dynamic metadata `libmesh.check_cache`; the rest is for answers that do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckCache {
    /// The attributes that an answer depends on if it does not say so itself. The principal, the listener and the
    /// `authorization` header are always part of the key. Default: such answers are not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub key: Option<Vec<CacheAttribute>>,
    /// How long an "allow" is kept. Default: 60s (Mixer).
    #[serde(default = "default_ttl")]
    pub ttl: TimeSpan,
    /// How long a "deny" is kept. Default: 5s (Mixer's denier).
    #[serde(default = "default_negative_ttl")]
    pub negative_ttl: TimeSpan,
    /// How long an "allow" is kept at most, whatever the answer says. Default: 300s (ours), or `ttl` if that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<TimeSpan>,
    /// How long a "deny" is kept at most; 0s: never. Default: 60s (ours), or `negative_ttl` if that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_negative_ttl: Option<TimeSpan>,
    /// Share of an answer's life after which the next request that uses it has it asked for again in the background,
    /// so that who comes later need not wait. It costs calls: at 80 up to a quarter more. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub refresh_ahead: Option<Percent>,
    /// How long after its end an answer stands in while the server fails (RFC 5861's stale-if-error), at most `max_ttl`.
    /// An answer may name its own. Default: 0s, never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub grace: TimeSpan,
    /// Whether an answer that does not say what it depends on is kept although it may be for one request: an "allow" that
    /// changes headers or the query, a "deny" with headers other than cache-control, content-language, content-type, date,
    /// server and vary. What it says has to be the same for all requests of one key. Default: false.
    #[serde(default)]
    pub header_changes: bool,
    /// Answers kept at most; what was not asked for again goes first. Default: 10000 (Mixer).
    #[serde(default = "default_max_entries")]
    #[schemars(range(min = 1, max = 10000000))]
    pub max_entries: u32,
    /// Bytes that keys and answers take at most. Default: 16777216 (ours).
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 65536))]
    pub max_bytes: u32,
}

fn is_zero(span: &TimeSpan) -> bool {
    span.0.is_zero()
}

fn default_ttl() -> TimeSpan {
    TimeSpan::secs(60)
}

fn default_negative_ttl() -> TimeSpan {
    TimeSpan::secs(5)
}

fn default_max_entries() -> u32 {
    10_000
}

fn default_max_bytes() -> u32 {
    16 << 20
}
