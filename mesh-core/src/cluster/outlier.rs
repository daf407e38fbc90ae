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
mod detection;
mod state;
mod statistics;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::state::Ground;
use self::statistics::Tally;
use crate::policy::Invalid;

pub use self::config::{FailurePercentage, LocalOrigin, OutlierConfig, SuccessRate};
pub use self::detection::{Cause, Consequence, Counts, Detection, Sweep};
pub use self::state::{Observed, OutlierState};

/// The detection of one cluster. A detector with other rules may share what is known of the endpoints.
#[derive(Debug)]
pub struct OutlierDetector {
    config: OutlierConfig,
    hosts: Arc<Mutex<Hosts>>,
    counts: Arc<Counts>,
}

impl OutlierDetector {
    /// A detector without endpoints.
    pub fn new(config: OutlierConfig) -> Result<Self, Invalid> {
        Ok(Self { config: config.checked()?, hosts: Arc::default(), counts: Arc::default() })
    }

    /// The same endpoints and ejections under other rules: a reload forgets nothing.
    pub fn under(&self, config: OutlierConfig) -> Result<Self, Invalid> {
        let (hosts, counts) = (Arc::clone(&self.hosts), Arc::clone(&self.counts));
        Ok(Self { config: config.checked()?, hosts, counts })
    }

    /// What was detected so far, by rule and consequence.
    pub fn counts(&self) -> &Counts {
        &self.counts
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

    /// Forgets every endpoint that is not one of these.
    pub fn retain(&self, stays: impl Fn(u64) -> bool) {
        let mut hosts = self.lock();
        hosts.by_key.retain(|key, _| stays(*key));
        hosts.ejected = hosts.by_key.values().filter(|host| host.ejected_at.is_some()).count();
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

    /// Share of the endpoints that are ejected, 0 to 1.
    pub fn ejected_share(&self) -> f64 {
        let hosts = self.lock();
        if hosts.by_key.is_empty() { 0.0 } else { hosts.ejected as f64 / hosts.by_key.len() as f64 }
    }

    /// Ends an ejection early: a health check found the endpoint well [Envoy]. True if it was ejected.
    pub fn take_back_early(&self, key: u64) -> bool {
        let mut hosts = self.lock();
        let ejected = hosts.by_key.get_mut(&key).filter(|host| host.ejected_at.is_some());
        let Some(host) = ejected.filter(|_| self.config.uneject_on_check) else { return false };
        host.come_back();
        hosts.ejected -= 1;
        true
    }

    /// Counts a result. Ejects at once when a streak is complete.
    pub fn record(
        &self,
        state: &OutlierState,
        observed: Observed,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Detection> {
        let broken = state.count(observed, &self.config)?;
        let enforcing = match broken {
            Cause::ConsecutiveGateway => self.config.enforcing_consecutive_gateway,
            Cause::ConsecutiveLocalOrigin => self.config.local_origin.enforcing_consecutive,
            _ => self.config.enforcing_consecutive_5xx,
        };
        let mut hosts = self.lock();
        // An answer from before the ejection tells nothing new; an endpoint removed meanwhile is gone.
        let is_in = hosts.by_key.get(&state.key()).is_some_and(|host| host.ejected_at.is_none());
        is_in.then(|| self.detect(&mut hosts, Offence { key: state.key(), cause: broken, enforcing }, now, rng))
    }

    /// Ends an interval: endpoints whose time is up return, the others are compared with each other.
    pub fn sweep(&self, now: Instant, rng: &mut fastrand::Rng) -> Sweep {
        let mut hosts = self.lock();
        let returned = self.take_back(&mut hosts, now);
        let offences = self.offences(&hosts);
        let mut detections = Vec::new();
        for offence in offences {
            if hosts.by_key.get(&offence.key).is_some_and(|host| host.ejected_at.is_none()) {
                detections.push(self.detect(&mut hosts, offence, now, rng));
            }
        }
        Sweep { detections, returned }
    }

    /// Who broke a rule in the interval that ends. What the endpoints answered comes first, then whether
    /// they could be reached.
    fn offences(&self, hosts: &Hosts) -> Vec<Offence> {
        let config = &self.config;
        let mut offences = Vec::new();
        for ground in [Ground::External, Ground::Local] {
            let tallies = hosts.tallies(ground);
            let is_local = ground == Ground::Local;
            if is_local && !config.local_origin.split {
                continue;
            }
            let (rate_cause, share_cause) = match ground {
                Ground::External => (Cause::SuccessRate, Cause::FailurePercentage),
                Ground::Local => (Cause::LocalOriginSuccessRate, Cause::LocalOriginFailurePercentage),
            };
            let [mut by_rate, mut by_share] = [config.success_rate.enforcing, config.failure_percentage.enforcing];
            if is_local {
                by_rate = config.local_origin.enforcing_success_rate;
                by_share = config.local_origin.enforcing_failure_percentage;
            }
            let slow = statistics::below_the_mean(&config.success_rate, &tallies);
            offences.extend(slow.map(|key| Offence { key, cause: rate_cause, enforcing: by_rate }));
            let failing = statistics::above_the_share(&config.failure_percentage, &tallies);
            offences.extend(failing.map(|key| Offence { key, cause: share_cause, enforcing: by_share }));
        }
        offences
    }

    /// Ejects, or says why not.
    fn detect(&self, hosts: &mut Hosts, offence: Offence, now: Instant, rng: &mut fastrand::Rng) -> Detection {
        let Offence { key, cause, enforcing } = offence;
        let consequence = if rng.u8(0..100) >= enforcing {
            Consequence::NotEnforced
        } else if !self.may_eject(hosts) {
            Consequence::CapReached
        } else {
            let jitter = self.config.max_ejection_jitter.mul_f64(rng.f64());
            hosts.eject(key, (now, jitter));
            Consequence::Ejected
        };
        self.counts.add(cause, consequence);
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
                Some(at) => {
                    let lasts = self.config.ejection_time(host.times) + host.jitter;
                    if now.saturating_duration_since(at) >= lasts {
                        host.come_back();
                        returned.push(*key);
                    }
                }
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
    /// Drawn for the present ejection, so that a group ejected together does not return together.
    jitter: Duration,
}

struct Offence {
    key: u64,
    cause: Cause,
    /// Percent of detections that have a consequence.
    enforcing: u8,
}

impl Hosts {
    fn eject(&mut self, key: u64, (now, jitter): (Instant, Duration)) {
        if let Some(host) = self.by_key.get_mut(&key) {
            host.ejected_at = Some(now);
            host.jitter = jitter;
            host.times = host.times.saturating_add(1);
            host.state.leave();
            self.ejected += 1;
        }
    }

    /// The results of the interval that ends, of endpoints that are in; a new interval begins for all.
    fn tallies(&self, ground: Ground) -> Vec<Tally> {
        let all = self.by_key.values().map(|host| (host.ejected_at.is_none(), host.state.tally(ground)));
        all.filter_map(|(is_in, tally)| is_in.then_some(tally)).collect()
    }
}

impl Host {
    fn new(key: u64) -> Self {
        Self { state: Arc::new(OutlierState::new(key)), ejected_at: None, times: 0, jitter: Duration::ZERO }
    }

    fn come_back(&mut self) {
        self.ejected_at = None;
        self.state.come_back();
    }
}

#[cfg(test)]
mod tests;
