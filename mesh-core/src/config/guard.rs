//! A guard: the resilience of a plain function, by name.
//!
//! Decides: what can be said about a guarded operation. Never: what its errors mean; the code that asks for the
//! guard says that. Invariant: an absent override means the mesh-wide default, never a value of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::policy::{CircuitBreakerOverride, ConcurrencyLimitOverride, Retry, RetryBudgetOverride, RetryOverride};
use super::value::Name;

/// What a plain function that code calls through `guard(name)` is allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The name that code asks for. Unique.
    pub name: Name,
    /// Total time of a call, all attempts and waits included; 0s = none. Default: `defaults.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Time of one attempt; 0s = none. Default: `defaults.attempt_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<TimeSpan>,
    /// Overrides `defaults.retry`, as far as it applies to functions.
    #[serde(default)]
    pub retry: GuardRetry,
    /// Overrides `defaults.retry_budget`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetOverride>,
    /// Overrides `defaults.circuit_breaker`, field by field. The guard has one breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerOverride>,
    /// Overrides `defaults.concurrency_limit`, field by field. Counts calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<ConcurrencyLimitOverride>,
    /// Whether doing it twice does no more than doing it once. Without it only a failure that is known not to
    /// have acted is repeated; code may say so for itself. Default: false (ours).
    #[serde(default)]
    pub idempotent: bool,
}

/// How often and after which wait a guarded function is repeated. What is worth it, its code says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GuardRetry {
    /// Retries beyond the first attempt; 0 = off. Default: `defaults.retry.attempts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// Upper bound of the first random wait, doubled each time. Default: `defaults.retry.base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<TimeSpan>,
    /// Upper bound of every wait. Default: `defaults.retry.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<TimeSpan>,
}

impl GuardRetry {
    /// The setting that results on top of `base`.
    pub fn over(&self, base: &Retry) -> Retry {
        let own = RetryOverride { attempts: self.attempts, base: self.base, max: self.max, ..RetryOverride::default() };
        own.over(base)
    }
}
