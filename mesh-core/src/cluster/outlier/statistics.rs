//! How the endpoints of a cluster compare with each other after an interval.
//!
//! Decides: which endpoints broke a rule. Never: ejects; how many may leave is not known here.
//! Invariant: an endpoint below the request volume is neither judged nor part of the mean, and nobody
//! is judged among fewer than the minimum of hosts. The worst come first, should not all be let go.

use super::config::{FailurePercentage, SuccessRate};

/// The results of one endpoint in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) key: u64,
    pub(super) successes: u64,
    pub(super) total: u64,
}

impl Tally {
    /// Percent of successes. Not weighted by volume: each endpoint is one voice [Envoy].
    pub(super) fn success_rate(&self) -> f64 {
        self.successes as f64 * 100.0 / self.total as f64
    }
}

/// The bar that the success rates of an interval set for themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bar {
    pub(super) mean: f64,
    /// Of the population, not of a sample.
    pub(super) stdev: f64,
    pub(super) threshold: f64,
}

/// Keys of endpoints whose success rate is below the bar, worst first.
pub(super) fn below_the_mean(rule: &SuccessRate, tallies: &[Tally]) -> impl Iterator<Item = u64> + use<> {
    let judged = qualifying(tallies, rule.request_volume, rule.minimum_hosts);
    let threshold = bar(&judged, rule.stdev_factor).map_or(f64::NEG_INFINITY, |bar| bar.threshold);
    judged.into_iter().filter(move |tally| tally.success_rate() < threshold).map(|tally| tally.key)
}

/// Keys of endpoints that failed at least the threshold, worst first.
pub(super) fn above_the_share(rule: &FailurePercentage, tallies: &[Tally]) -> impl Iterator<Item = u64> + use<> {
    let judged = qualifying(tallies, rule.request_volume, rule.minimum_hosts);
    let threshold = f64::from(rule.threshold);
    judged.into_iter().filter(move |tally| 100.0 - tally.success_rate() >= threshold).map(|tally| tally.key)
}

/// Mean minus so many thousandths of the standard deviation; `None` without endpoints.
pub(super) fn bar(judged: &[Tally], stdev_factor: u32) -> Option<Bar> {
    if judged.is_empty() {
        return None;
    }
    let count = judged.len() as f64;
    let mean = judged.iter().map(Tally::success_rate).sum::<f64>() / count;
    let variance = judged.iter().map(|tally| (tally.success_rate() - mean).powi(2)).sum::<f64>() / count;
    let stdev = variance.sqrt();
    Some(Bar { mean, stdev, threshold: mean - stdev * f64::from(stdev_factor) / 1000.0 })
}

/// Endpoints with enough requests, worst first; none at all if they are too few.
pub(super) fn qualifying(tallies: &[Tally], volume: u64, minimum_hosts: u32) -> Vec<Tally> {
    let enough = |tally: &&Tally| tally.total >= volume.max(1);
    let mut judged: Vec<Tally> = tallies.iter().filter(enough).copied().collect();
    if judged.len() < minimum_hosts as usize {
        return Vec::new();
    }
    judged.sort_by(|a, b| a.success_rate().total_cmp(&b.success_rate()).then(a.key.cmp(&b.key)));
    judged
}
