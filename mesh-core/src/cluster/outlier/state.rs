//! What is counted of one endpoint between two sweeps.
//!
//! Decides: which streak a result completes. Never: ejects, or takes a lock.
//! Invariant: a result counts once; where the two origins are told apart, whether an endpoint could be
//! reached and what it answered never mix.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::config::OutlierConfig;
use super::detection::Cause;
use super::statistics::Tally;
use crate::policy::verdict::Verdict;

/// A result of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// What it says.
    pub verdict: Verdict,
    /// Whether there was no answer to judge: no connection, a reset, a timeout [Envoy: local origin].
    pub is_local: bool,
}

/// What is counted of one endpoint. Held by the endpoint, so that a result needs no lookup.
#[derive(Debug, Default)]
pub struct OutlierState {
    key: u64,
    ejected: AtomicBool,
    ejections: AtomicU32,
    streak_5xx: AtomicU32,
    streak_gateway: AtomicU32,
    streak_local: AtomicU32,
    /// Of the running interval.
    external: Results,
    local: Results,
}

/// Which results are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// Answers; and failures to get one, where the two are not told apart.
    External,
    /// Whether there was an answer.
    Local,
}

/// Results of an interval.
#[derive(Debug, Default)]
struct Results {
    successes: AtomicU64,
    total: AtomicU64,
}

/// An answer.
impl From<Verdict> for Observed {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, is_local: false }
    }
}

impl OutlierState {
    pub(super) fn new(key: u64) -> Self {
        Self { key, ..Self::default() }
    }

    /// Whether a picker must leave it out. One load. Only a sweep ends an ejection: the answer does not
    /// change between two sweeps because time passed.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    /// The key it was added with.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// How often it was ejected so far.
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Counts, and names the streak that became complete. A complete streak starts again, so that a
    /// detection that had no consequence is repeated only after as many failures.
    pub(super) fn count(&self, observed: Observed, config: &OutlierConfig) -> Option<Cause> {
        if config.local_origin.split {
            self.local.add(!observed.is_local);
            if observed.is_local {
                let is_full = is_complete(&self.streak_local, config.local_origin.consecutive);
                return is_full.then_some(Cause::ConsecutiveLocalOrigin);
            }
            reset(&self.streak_local);
        }
        self.count_answer(observed.verdict, config)
    }

    fn count_answer(&self, verdict: Verdict, config: &OutlierConfig) -> Option<Cause> {
        self.external.add(matches!(verdict, Verdict::Success | Verdict::Throttled));
        match verdict {
            // Throttling is a 4xx: it ends a streak of failures.
            Verdict::Success | Verdict::Throttled => {
                reset(&self.streak_gateway);
                reset(&self.streak_5xx);
                return None;
            }
            Verdict::ServerError => reset(&self.streak_gateway),
            Verdict::GatewayError if is_complete(&self.streak_gateway, config.consecutive_gateway) => {
                // Counted as a 5xx too; if both streaks end here, the one that is enforced speaks.
                let both = is_complete(&self.streak_5xx, config.consecutive_5xx);
                let by_5xx = both && config.enforcing_consecutive_gateway < config.enforcing_consecutive_5xx;
                return Some(if by_5xx { Cause::Consecutive5xx } else { Cause::ConsecutiveGateway });
            }
            Verdict::GatewayError => {}
        }
        is_complete(&self.streak_5xx, config.consecutive_5xx).then_some(Cause::Consecutive5xx)
    }

    /// The results of the interval that ends; a new one begins.
    pub(super) fn tally(&self, ground: Ground) -> Tally {
        let results = if ground == Ground::Local { &self.local } else { &self.external };
        let successes = results.successes.swap(0, Ordering::Relaxed);
        let total = results.total.swap(0, Ordering::Relaxed);
        // Two counters are not read at one instant.
        Tally { key: self.key, successes: successes.min(total), total }
    }

    pub(super) fn leave(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.ejected.store(true, Ordering::Release);
    }

    pub(super) fn come_back(&self) {
        reset(&self.streak_5xx);
        reset(&self.streak_gateway);
        reset(&self.streak_local);
        self.ejected.store(false, Ordering::Release);
    }
}

impl Results {
    fn add(&self, is_success: bool) {
        if is_success {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes only what is not zero already: most results are successes, and share the cache line.
fn reset(streak: &AtomicU32) {
    if streak.load(Ordering::Relaxed) != 0 {
        streak.store(0, Ordering::Relaxed);
    }
}

/// Adds one failure; true for exactly the caller that completes the streak, which starts again. A limit of 0 never is;
/// one that a reload lowered may be passed already.
fn is_complete(streak: &AtomicU32, limit: u32) -> bool {
    let is_full = |failures: u32| limit != 0 && failures >= limit;
    let add_one = |before: u32| {
        let failures = before.saturating_add(1);
        Some(if is_full(failures) { 0 } else { failures })
    };
    let counted = streak.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add_one);
    counted.is_ok_and(|before| is_full(before.saturating_add(1)))
}
