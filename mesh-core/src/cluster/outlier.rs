//! Outlier detection: takes endpoints out of the balancer that do worse than the others.
//!
//! Decides: which endpoints of one cluster are ejected, why, and when they return [Envoy; gRFC A50].
//! Never: probes an endpoint, closes a connection, or picks; a picker reads [`OutlierState::is_ejected`].
//! Invariant: the share of ejected endpoints after an ejection is at most `max_ejection_percent`,
//! except that one is always allowed, and (unless told otherwise) the last endpoint never leaves.
//!
//! Results of attempts only touch counters of their endpoint. The cluster's lock is taken when a streak
//! is complete and once an interval, by [`OutlierDetector::sweep`].

mod config;
mod statistics;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::statistics::Tally;
use crate::policy::Invalid;
use crate::policy::verdict::Verdict;

pub use self::config::{FailurePercentage, OutlierConfig, SuccessRate};

/// The detection of one cluster.
#[derive(Debug)]
pub struct OutlierDetector {
    config: OutlierConfig,
    hosts: Mutex<Hosts>,
}

/// What is counted of one endpoint. Held by the endpoint, so that a result needs no lookup.
#[derive(Debug, Default)]
pub struct OutlierState {
    key: u64,
    ejected: AtomicBool,
    streak_5xx: AtomicU32,
    streak_gateway: AtomicU32,
    /// Of the running interval.
    successes: AtomicU64,
    total: AtomicU64,
}

/// Which rule an endpoint broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A streak of 5xx.
    Consecutive5xx,
    /// A streak of gateway errors.
    ConsecutiveGateway,
    /// Much worse than the mean.
    SuccessRate,
    /// Too large a share of failures.
    FailurePercentage,
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

impl OutlierDetector {
    /// A detector without endpoints.
    pub fn new(config: OutlierConfig) -> Result<Self, Invalid> {
        Ok(Self { config: config.checked()?, hosts: Mutex::default() })
    }

    /// Adds an endpoint, or finds it: a reload keeps what is known about an endpoint that stays.
    pub fn add(&self, key: u64) -> Arc<OutlierState> {
        let mut hosts = self.lock();
        let host = hosts.by_key.entry(key).or_insert_with(|| Host::new(key));
        Arc::clone(&host.state)
    }

    /// Forgets an endpoint that left the cluster, and its place among the ejected.
    pub fn remove(&self, key: u64) {
        let mut hosts = self.lock();
        if hosts.by_key.remove(&key).is_some_and(|host| host.ejected_at.is_some()) {
            hosts.ejected -= 1;
        }
    }

    /// How often [`sweep`](Self::sweep) wants to be called.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Endpoints it judges.
    pub fn endpoints(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Endpoints ejected now.
    pub fn ejected(&self) -> usize {
        self.lock().ejected
    }

    /// Whether an endpoint is ejected. A picker asks its [`OutlierState`] instead.
    pub fn is_ejected(&self, key: u64) -> bool {
        self.lock().by_key.get(&key).is_some_and(|host| host.state.is_ejected())
    }

    /// Counts a result. Ejects at once when a streak is complete.
    pub fn record(
        &self,
        state: &OutlierState,
        verdict: Verdict,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Detection> {
        let broken = state.count(verdict, &self.config)?;
        let enforcing = match broken {
            Cause::ConsecutiveGateway => self.config.enforcing_consecutive_gateway,
            _ => self.config.enforcing_consecutive_5xx,
        };
        let mut hosts = self.lock();
        // An answer from before the ejection tells nothing new; an endpoint removed meanwhile is gone.
        let is_in = hosts.by_key.get(&state.key).is_some_and(|host| host.ejected_at.is_none());
        is_in.then(|| self.detect(&mut hosts, Offence { key: state.key, cause: broken, enforcing }, now, rng))
    }

    /// Ends an interval: endpoints whose time is up return, the others are compared with each other.
    pub fn sweep(&self, now: Instant, rng: &mut fastrand::Rng) -> Sweep {
        let mut hosts = self.lock();
        let returned = self.take_back(&mut hosts, now);
        let tallies = hosts.tallies();
        let rate = &self.config.success_rate;
        let share = &self.config.failure_percentage;
        let slow = statistics::below_the_mean(rate, &tallies).map(|key| (key, Cause::SuccessRate, rate.enforcing));
        let failing = statistics::above_the_share(share, &tallies);
        let failing = failing.map(|key| (key, Cause::FailurePercentage, share.enforcing));
        let mut detections = Vec::new();
        for (key, cause, enforcing) in slow.chain(failing) {
            if hosts.by_key.get(&key).is_some_and(|host| host.ejected_at.is_none()) {
                detections.push(self.detect(&mut hosts, Offence { key, cause, enforcing }, now, rng));
            }
        }
        Sweep { detections, returned }
    }

    /// Ejects, or says why not.
    fn detect(&self, hosts: &mut Hosts, offence: Offence, now: Instant, rng: &mut fastrand::Rng) -> Detection {
        let Offence { key, cause, enforcing } = offence;
        let consequence = if rng.u8(0..100) >= enforcing {
            Consequence::NotEnforced
        } else if !self.may_eject(hosts) {
            Consequence::CapReached
        } else {
            hosts.eject(key, now);
            Consequence::Ejected
        };
        Detection { key, cause, consequence }
    }

    fn may_eject(&self, hosts: &Hosts) -> bool {
        let (all, after) = (hosts.by_key.len(), hosts.ejected + 1);
        if self.config.keep_last && after >= all {
            return false;
        }
        let is_first = self.config.always_eject_one && hosts.ejected == 0;
        is_first || 100 * after <= usize::from(self.config.max_ejection_percent) * all
    }

    fn take_back(&self, hosts: &mut Hosts, now: Instant) -> Vec<u64> {
        let mut returned = Vec::new();
        for (key, host) in &mut hosts.by_key {
            match host.ejected_at {
                Some(at) if now.saturating_duration_since(at) >= self.config.ejection_time(host.times) => {
                    host.ejected_at = None;
                    host.state.come_back();
                    returned.push(*key);
                }
                Some(_) => {}
                // A clean interval forgives one ejection.
                None => host.times = host.times.saturating_sub(1),
            }
        }
        hosts.ejected -= returned.len();
        returned
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutlierState {
    /// Whether a picker must leave it out. One load. Only a sweep ends an ejection: the answer does not
    /// change between two sweeps because time passed.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    /// The key it was added with.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Counts, and names the streak that became complete. A complete streak starts again, so that a
    /// detection that had no consequence is repeated only after as many failures.
    fn count(&self, verdict: Verdict, config: &OutlierConfig) -> Option<Cause> {
        self.total.fetch_add(1, Ordering::Relaxed);
        match verdict {
            // Throttling is a 4xx: it ends a streak of failures.
            Verdict::Success | Verdict::Throttled => {
                self.successes.fetch_add(1, Ordering::Relaxed);
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

    fn come_back(&self) {
        reset(&self.streak_5xx);
        reset(&self.streak_gateway);
        self.ejected.store(false, Ordering::Release);
    }
}

impl Cause {
    /// The stable name, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
        }
    }
}

/// In key order, so that the same input ejects the same endpoints.
#[derive(Debug, Default)]
struct Hosts {
    by_key: BTreeMap<u64, Host>,
    ejected: usize,
}

#[derive(Debug)]
struct Host {
    state: Arc<OutlierState>,
    ejected_at: Option<Instant>,
    /// Ejections not yet forgiven: the multiplier of the next one's length.
    times: u32,
}

struct Offence {
    key: u64,
    cause: Cause,
    /// Percent of detections that have a consequence.
    enforcing: u8,
}

impl Hosts {
    fn eject(&mut self, key: u64, now: Instant) {
        if let Some(host) = self.by_key.get_mut(&key) {
            host.ejected_at = Some(now);
            host.times = host.times.saturating_add(1);
            host.state.ejected.store(true, Ordering::Release);
            self.ejected += 1;
        }
    }

    /// The results of the interval that ends, of endpoints that are in; a new interval begins for all.
    fn tallies(&self) -> Vec<Tally> {
        let read = |host: &Host| {
            let successes = host.state.successes.swap(0, Ordering::Relaxed);
            let total = host.state.total.swap(0, Ordering::Relaxed);
            // Two counters are not read at one instant.
            Tally { key: host.state.key, successes: successes.min(total), total }
        };
        let all = self.by_key.values().map(|host| (host.ejected_at.is_none(), read(host)));
        all.filter_map(|(is_in, tally)| is_in.then_some(tally)).collect()
    }
}

impl Host {
    fn new(key: u64) -> Self {
        let state = Arc::new(OutlierState { key, ..OutlierState::default() });
        Self { state, ejected_at: None, times: 0 }
    }
}

/// Writes only what is not zero already: most results are successes, and share the cache line.
fn reset(streak: &AtomicU32) {
    if streak.load(Ordering::Relaxed) != 0 {
        streak.store(0, Ordering::Relaxed);
    }
}

/// Adds one failure; true for exactly the caller that completes the streak. A limit of 0 never is.
fn is_complete(streak: &AtomicU32, limit: u32) -> bool {
    let complete = streak.fetch_add(1, Ordering::Relaxed).saturating_add(1) == limit;
    if complete {
        streak.store(0, Ordering::Relaxed);
    }
    complete
}

#[cfg(test)]
mod tests;
