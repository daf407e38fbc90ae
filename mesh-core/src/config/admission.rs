//! How much work is taken on at once, as it is written.
//!
//! Decides: each setting's default and its origin. Never: admits anything.
//! Invariant: what is absent limits nothing that was not limited before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::Percent;

/// A limit that is found by measuring: a server is kept busy and its queue short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveLimit {
    /// Whether the limit adapts, up to `max_requests`. Default: false.
    pub enabled: bool,
    /// The limit to begin with. Default: 20 (concurrency-limits).
    #[schemars(range(min = 1))]
    pub initial_requests: u32,
    /// The limit never falls below this. Default: 3 (Envoy).
    #[schemars(range(min = 1))]
    pub min_requests: u32,
    /// How much slower than without queueing requests may become. Default: 25 (Envoy).
    pub tolerance_percent: Percent,
    /// The longest time between two measurements at half the limit, while it is in use; at least 1s.
    /// Default: 10s (ours).
    pub probe_interval: TimeSpan,
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self {
            enabled: false,
            initial_requests: 20,
            min_requests: 3,
            tolerance_percent: Percent(25.0),
            probe_interval: TimeSpan::secs(10),
        }
    }
}

/// Up to which share of a limit each class of requests is admitted; `critical_plus` always has all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassShares {
    /// What may fail for a while. Default: 50 (ours).
    pub sheddable: Percent,
    /// What may be partly unavailable. Default: 75 (ours).
    pub sheddable_plus: Percent,
    /// What users see, and everything that says nothing. Default: 100.
    pub critical: Percent,
}

impl Default for ClassShares {
    fn default() -> Self {
        Self { sheddable: Percent(50.0), sheddable_plus: Percent(75.0), critical: Percent(100.0) }
    }
}

/// How much a listener takes on at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerConcurrency {
    /// Requests in flight. Default: 1024 (Envoy).
    #[schemars(range(min = 1))]
    pub max_requests: u32,
    /// Finds the limit by measuring, up to `max_requests`.
    pub adaptive: AdaptiveLimit,
    /// What each class of requests may use of it.
    pub shares: ClassShares,
    /// Where requests wait that there is no place for.
    pub queue: WaitingQueue,
}

impl Default for ListenerConcurrency {
    fn default() -> Self {
        Self {
            max_requests: 1024,
            adaptive: AdaptiveLimit::default(),
            shares: ClassShares::default(),
            queue: WaitingQueue::default(),
        }
    }
}

/// Requests above the limit that wait for a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WaitingQueue {
    /// How many may wait; 0 = none, refuse at once. Default: 128 (ours).
    pub max_requests: u32,
    /// How long one waits at most; its own deadline if that is sooner. Default: 100ms (CoDel's interval).
    pub max_wait: TimeSpan,
}

impl Default for WaitingQueue {
    fn default() -> Self {
        Self { max_requests: 128, max_wait: TimeSpan::millis(100) }
    }
}

/// A class of requests (Google SRE, "Handling Overload"), lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// May fail for a while.
    Sheddable,
    /// May be partly unavailable.
    SheddablePlus,
    /// Users see the failure.
    #[default]
    Critical,
    /// Everything else is shed first.
    CriticalPlus,
}
