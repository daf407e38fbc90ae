//! What detection finds, by rule and by consequence.
//!
//! Decides: names. Never: whether a rule was broken. Invariant: every detection is counted exactly once.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which rule an endpoint broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A streak of 5xx.
    Consecutive5xx,
    /// A streak of gateway errors.
    ConsecutiveGateway,
    /// A streak of failures to reach it: no connection, no answer, a reset.
    ConsecutiveLocalOrigin,
    /// Much worse than the mean.
    SuccessRate,
    /// Much harder to reach than the mean.
    LocalOriginSuccessRate,
    /// Too large a share of failures.
    FailurePercentage,
    /// Too large a share of failures to reach it.
    LocalOriginFailurePercentage,
}

/// What followed from a detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consequence {
    /// The endpoint left the balancer.
    Ejected,
    /// `enforcing` spared it; only counted.
    NotEnforced,
    /// Too many are out already.
    CapReached,
}

/// An endpoint broke a rule. For metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// The endpoint.
    pub key: u64,
    /// The rule.
    pub cause: Cause,
    /// What followed.
    pub consequence: Consequence,
}

/// What a sweep changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Endpoints that broke a rule in the interval.
    pub detections: Vec<Detection>,
    /// Endpoints that came back.
    pub returned: Vec<u64>,
}

/// Detections since the cluster exists.
#[derive(Debug, Default)]
pub struct Counts([[AtomicU64; Consequence::ALL.len()]; Cause::ALL.len()]);

impl Counts {
    /// So many detections of this rule had this consequence.
    pub fn read(&self, cause: Cause, consequence: Consequence) -> u64 {
        self.0[cause as usize][consequence as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, cause: Cause, consequence: Consequence) {
        self.0[cause as usize][consequence as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Cause {
    /// Every rule, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::ConsecutiveLocalOrigin,
        Self::SuccessRate,
        Self::LocalOriginSuccessRate,
        Self::FailurePercentage,
        Self::LocalOriginFailurePercentage,
    ];

    /// The stable name, for metrics and logs: Envoy's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOrigin => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalOriginFailurePercentage => "local_origin_failure_percentage",
        }
    }
}

impl Consequence {
    /// Every consequence, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Ejected, Self::NotEnforced, Self::CapReached];

    /// The stable name: of the unenforced ones, those of gRFC A91.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ejected => "ejected",
            Self::NotEnforced => "enforcement_percentage",
            Self::CapReached => "max_ejection_overflow",
        }
    }
}
