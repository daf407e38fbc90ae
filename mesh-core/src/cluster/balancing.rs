//! How a cluster's endpoints are chosen between: everything a picker is built with.
//!
//! Decides: nothing; it is the sum of the settings. Invariant: [`Balancing::default`] is what a cluster
//! without a word about balancing gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hashing::HashConfig;
use super::load_weight::ReportRule;
use super::locality::Locality;
use super::priority::Rule;
use super::slow_start::SlowStart;

/// How one of several available endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum BalancerKind {
    /// The cheaper of two by expected response time.
    #[default]
    PeakEwma,
    /// The one of several with fewer requests in flight.
    LeastRequest,
    /// Turns, exactly by weight.
    RoundRobin,
    /// By chance, in proportion to weight.
    Random,
    /// Turns, by what the endpoints say of their own load.
    WeightedRoundRobin,
    /// By what the request hashes to.
    Hash(HashConfig),
}

impl BalancerKind {
    /// Whether it asks how many requests all endpoints together have.
    pub(super) fn counts_group(self) -> bool {
        matches!(self, Self::Hash(HashConfig { bound: Some(_), .. }))
    }

    /// Whether the request's hash, and not chance, decides; then also between priority levels.
    pub(super) fn follows_hash(self) -> bool {
        matches!(self, Self::Hash(_))
    }
}

/// Settings of a picker.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Balancing {
    /// How one of several is chosen.
    pub kind: BalancerKind,
    /// Of [`BalancerKind::LeastRequest`].
    pub least_request: LeastRequest,
    /// Of [`BalancerKind::WeightedRoundRobin`].
    pub reports: ReportRule,
    /// When traffic moves to the next priority level, and when health is ignored.
    pub rule: Rule,
    /// In panic: fail instead of using every endpoint.
    pub fails_on_panic: bool,
    /// How a new endpoint gets its share.
    pub slow_start: Option<SlowStart>,
    /// The share of each locality; `None`: near ones first.
    pub localities: Option<Arc<BTreeMap<Locality, u32>>>,
}

/// Settings of least request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastRequest {
    /// How many endpoints are drawn; the one with the fewest requests gets the request.
    pub choices: u8,
    /// How much requests in flight count: 0 not at all, 1 in proportion.
    pub bias: f64,
}

impl Default for LeastRequest {
    /// Envoy's.
    fn default() -> Self {
        Self { choices: 2, bias: 1.0 }
    }
}

impl From<BalancerKind> for Balancing {
    fn from(kind: BalancerKind) -> Self {
        Self { kind, ..Self::default() }
    }
}

impl Balancing {
    /// How many endpoints compete for a request, the first one drawn included.
    #[inline]
    pub(super) fn choices(&self) -> u8 {
        match self.kind {
            BalancerKind::PeakEwma => 2,
            BalancerKind::LeastRequest => self.least_request.choices,
            BalancerKind::RoundRobin | BalancerKind::Random => 1,
            BalancerKind::WeightedRoundRobin | BalancerKind::Hash(_) => 1,
        }
    }
}
