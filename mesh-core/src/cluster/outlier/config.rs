//! The rules of outlier detection, with Envoy's names and defaults.
//!
//! Decides: nothing at run time; it refuses values that make no sense. Never: holds state.
//! Invariant: in a checked configuration every percentage is at most 100.

use std::time::Duration;

use crate::policy::Invalid;

/// Outlier detection of a cluster. A count of 0 turns its rule off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierConfig {
    /// Time between sweeps.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// The longest ejection, unless `base_ejection` is longer.
    pub max_ejection: Duration,
    /// At most this much is added to an ejection, by chance.
    pub max_ejection_jitter: Duration,
    /// Share of endpoints that may be out, after the ejection in question.
    pub max_ejection_percent: u8,
    /// One endpoint may leave even if it is more than that share.
    pub always_eject_one: bool,
    /// The last endpoint stays, whatever the share says.
    pub keep_last: bool,
    /// 5xx in a row.
    pub consecutive_5xx: u32,
    /// Percent of such detections that eject.
    pub enforcing_consecutive_5xx: u8,
    /// 502, 503, 504 and missing answers in a row.
    pub consecutive_gateway: u32,
    /// Percent of such detections that eject.
    pub enforcing_consecutive_gateway: u8,
    /// Failures to get an answer, where they are told apart from bad answers.
    pub local_origin: LocalOrigin,
    /// A success of the health check ends an ejection.
    pub uneject_on_check: bool,
    /// Comparison with the mean.
    pub success_rate: SuccessRate,
    /// Comparison with a fixed share.
    pub failure_percentage: FailurePercentage,
}

/// Failures to get an answer: no connection, a reset, a timeout. Not split, they count as gateway errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOrigin {
    /// Whether they are told apart; success rate and failure percentage are then judged for each.
    pub split: bool,
    /// In a row.
    pub consecutive: u32,
    /// Percent of such detections that eject.
    pub enforcing_consecutive: u8,
    /// Percent of success-rate detections that eject.
    pub enforcing_success_rate: u8,
    /// Percent of failure-percentage detections that eject.
    pub enforcing_failure_percentage: u8,
}

/// Ejects endpoints whose success rate is below `mean - stdev * factor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// Endpoints with enough requests that are needed to judge any.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u64,
    /// The factor, in thousandths.
    pub stdev_factor: u32,
    /// Percent of such detections that eject.
    pub enforcing: u8,
}

/// Ejects endpoints that failed at least `threshold` percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailurePercentage {
    /// Percent of failures that is too much.
    pub threshold: u8,
    /// Endpoints with enough requests that are needed to judge any.
    pub minimum_hosts: u32,
    /// Requests in an interval that are enough.
    pub request_volume: u64,
    /// Percent of such detections that eject.
    pub enforcing: u8,
}

impl OutlierConfig {
    /// How long an ejection lasts that is the `times`-th not yet forgiven one.
    pub fn ejection_time(&self, times: u32) -> Duration {
        self.base_ejection.saturating_mul(times).min(self.max_ejection.max(self.base_ejection))
    }

    pub(super) fn checked(self) -> Result<Self, Invalid> {
        let percentages = [
            ("outlier.max_ejection_percent", self.max_ejection_percent),
            ("outlier.enforcing_consecutive_5xx", self.enforcing_consecutive_5xx),
            ("outlier.enforcing_consecutive_gateway", self.enforcing_consecutive_gateway),
            ("outlier.enforcing_consecutive_local_origin_failure", self.local_origin.enforcing_consecutive),
            ("outlier.enforcing_local_origin_success_rate", self.local_origin.enforcing_success_rate),
            ("outlier.enforcing_failure_percentage_local_origin", self.local_origin.enforcing_failure_percentage),
            ("outlier.enforcing_success_rate", self.success_rate.enforcing),
            ("outlier.enforcing_failure_percentage", self.failure_percentage.enforcing),
            ("outlier.failure_percentage_threshold", self.failure_percentage.threshold),
        ];
        if let Some((field, _)) = percentages.into_iter().find(|(_, percent)| *percent > 100) {
            return Err(Invalid { field, must: "be at most 100" });
        }
        if self.interval.is_zero() {
            return Err(Invalid { field: "outlier.interval", must: "be above zero" });
        }
        Ok(self)
    }
}

/// Envoy's defaults, and two of our own: one endpoint may always leave, the last one never does. With
/// Envoy's 10 % alone nothing would ever leave a cluster of fewer than ten endpoints.
impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: true,
            keep_last: true,
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway: 5,
            enforcing_consecutive_gateway: 0,
            local_origin: LocalOrigin::default(),
            uneject_on_check: true,
            success_rate: SuccessRate::default(),
            failure_percentage: FailurePercentage::default(),
        }
    }
}

/// Envoy's defaults: not told apart.
impl Default for LocalOrigin {
    fn default() -> Self {
        Self {
            split: false,
            consecutive: 5,
            enforcing_consecutive: 100,
            enforcing_success_rate: 100,
            enforcing_failure_percentage: 0,
        }
    }
}

/// Envoy's defaults.
impl Default for SuccessRate {
    fn default() -> Self {
        Self { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900, enforcing: 100 }
    }
}

/// Envoy's defaults: detection only.
impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, minimum_hosts: 5, request_volume: 50, enforcing: 0 }
    }
}
