//! What the metrics page asks of the mesh when it is read.
//!
//! Nothing here is counted on the request path: a scrape looks at live state.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Core;
use crate::access::cache::{CacheStats, Fate};
use crate::access::check::RemoteCheck;
use crate::access::global_limit::{GlobalLimit, Purpose, REASONS};
use crate::access::limit::LocalLimit;
use crate::access::verdict::FailureReason;
use crate::cluster::group::Cluster;
use crate::policy::circuit_breaker::State;
use crate::policy::guard::{Counts, End, Guarded, RETRY_REFUSALS};
use crate::telemetry::names::{Metric, label, metric};

impl Core {
    /// Registers what lasts as long as the process.
    pub(super) fn register_gauges(self: &Arc<Self>) {
        let registry = &self.telemetry.registry;
        let of = |ask: fn(&Core) -> Option<f64>| {
            let core = Arc::downgrade(self);
            move || core.upgrade().and_then(|core| ask(&core))
        };
        let count = |ask: fn(&Core) -> Option<u64>| {
            let core = Arc::downgrade(self);
            move || core.upgrade().and_then(|core| ask(&core))
        };
        registry.gauge_fn(&metric::CONFIG_REVISION, &[], of(|core| Some(core.snapshot.load().revision as f64)));
        registry.counter_fn(&metric::CONFIG_UPDATES, &[], count(|core| Some(core.publisher().counts().0)));
        registry.counter_fn(&metric::CONFIG_REJECTS, &[], count(|core| Some(core.publisher().counts().1)));
        registry.gauge_fn(
            &metric::IN_FLIGHT,
            &[(label::SIDE, "inbound")],
            of(|core| Some(core.drain.requests() as f64)),
        );
        registry.counter_fn(&metric::ACCESS_LOG_DROPPED, &[], count(|core| Some(core.telemetry.access_log.dropped())));
        if self.identity.is_some() {
            registry.counter_fn(
                &metric::SVID_ROTATIONS,
                &[],
                count(|core| core.identity.as_ref().map(|source| source.rotations())),
            );
            registry.counter_fn(
                &metric::SVID_FAILURES,
                &[],
                count(|core| core.identity.as_ref().map(|source| source.failures())),
            );
            registry.gauge_fn(&metric::CERTIFICATE_EXPIRY, &[], of(Core::certificate_seconds));
        }
    }

    fn certificate_seconds(&self) -> Option<f64> {
        let end = self.identity.as_ref()?.current()?.svid.not_after();
        let wall = self.clock.wall();
        Some(match end.duration_since(wall) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -past.duration().as_secs_f64(),
        })
    }

    /// Registers what the present configuration names; series of what it no longer names end by themselves.
    pub(super) fn register_named_gauges(self: &Arc<Self>) {
        let snapshot = self.snapshot.load();
        for cluster in snapshot.clusters.values() {
            self.register_cluster(cluster);
        }
        for name in snapshot.guards.keys() {
            self.register_guard(name);
        }
        for policy in snapshot.listeners.values().flat_map(|listener| &listener.checks) {
            self.register_check(&policy.check);
        }
        for policy in snapshot.listeners.values().flat_map(|listener| &listener.global_limits) {
            self.register_limit(&policy.limit);
        }
        for limit in snapshot.listeners.values().flat_map(|listener| &listener.quota_limits) {
            self.register_quota(&limit.quota);
        }
        for limit in snapshot.listeners.values().flat_map(|listener| &listener.limits) {
            self.register_shared(limit);
        }
    }

    fn register_cluster(&self, cluster: &Arc<Cluster>) {
        let registry = &self.telemetry.registry;
        let labels = [(label::CLUSTER, &*cluster.name)];
        let of = |ask: fn(&Cluster, Instant) -> usize| {
            let (cluster, clock): (Weak<Cluster>, _) = (Arc::downgrade(cluster), Arc::clone(&self.clock));
            move || cluster.upgrade().map(|cluster| ask(&cluster, clock.now()) as f64)
        };
        registry.gauge_fn(&metric::ENDPOINTS, &labels, of(|cluster, _| cluster.endpoints().len()));
        registry.gauge_fn(&metric::EJECTED, &labels, of(|cluster, _| cluster.outlier.ejected()));
        let share = {
            let cluster = Arc::downgrade(cluster);
            move || cluster.upgrade().map(|cluster| cluster.outlier.ejected_share())
        };
        registry.gauge_fn(&metric::EJECTED_SHARE, &labels, share);
        self.register_standing(cluster);
        registry.gauge_fn(
            &metric::RETRY_BUDGET_BALANCE,
            &labels,
            of(|cluster, now| cluster.budget.balance(now) as usize),
        );
        registry.gauge_fn(&metric::POOL_CONNECTIONS, &labels, of(|cluster, _| cluster.connections()));
        registry.gauge_fn(&metric::PANIC, &labels, of(|cluster, now| usize::from(cluster.is_panicking(now))));
        registry.gauge_fn(&metric::LIMIT, &labels, of(|cluster, _| cluster.limit.limit() as usize));
        let outbound = [(label::CLUSTER, &*cluster.name), (label::SIDE, "outbound")];
        registry.gauge_fn(&metric::IN_FLIGHT, &outbound, of(|cluster, _| cluster.limit.in_flight() as usize));
    }

    /// By name: a guard that changed is another value with the same counts.
    fn register_guard(self: &Arc<Self>, name: &Arc<str>) {
        let registry = &self.telemetry.registry;
        let labels = [(label::GUARD, &**name)];
        let of = |ask: fn(&Guarded, Instant) -> f64| {
            let (core, name) = (Arc::downgrade(self), Arc::clone(name));
            move || core.upgrade().and_then(|core| Some(ask(core.snapshot.load().guards.get(&name)?, core.clock.now())))
        };
        let count = |ask: Box<dyn Fn(&Counts) -> u64 + Send + Sync>| {
            let (core, name) = (Arc::downgrade(self), Arc::clone(name));
            move || core.upgrade().and_then(|core| Some(ask(core.snapshot.load().guards.get(&name)?.counts())))
        };
        registry.gauge_fn(&metric::GUARD_IN_FLIGHT, &labels, of(|guard, _| f64::from(guard.in_flight())));
        registry.gauge_fn(&metric::GUARD_BUDGET, &labels, of(|guard, now| guard.budget_balance(now) as f64));
        registry.gauge_fn(&metric::GUARD_BREAKER, &labels, of(|guard, now| breaker_number(guard.breaker_state(now))));
        registry.counter_fn(&metric::GUARD_ATTEMPTS, &labels, count(Box::new(Counts::attempts)));
        registry.counter_fn(&metric::GUARD_RETRIES, &labels, count(Box::new(Counts::retries)));
        for end in End::ALL {
            let labels = [(label::GUARD, &**name), (label::OUTCOME, end.as_str())];
            registry.counter_fn(&metric::GUARD_CALLS, &labels, count(Box::new(move |counts| counts.calls(end))));
        }
        for reason in RETRY_REFUSALS {
            let labels = [(label::GUARD, &**name), (label::REASON, reason)];
            let ask = move |counts: &Counts| counts.refused().find(|(known, _)| *known == reason).map_or(0, |(_, n)| n);
            registry.counter_fn(&metric::GUARD_RETRIES_REFUSED, &labels, count(Box::new(ask)));
        }
    }

    fn register_limit(&self, limit: &Arc<GlobalLimit>) {
        let registry = &self.telemetry.registry;
        let name = [(label::LIMIT, &*limit.config().name)];
        let of = |ask: Box<dyn Fn(&GlobalLimit) -> u64 + Send + Sync>| {
            let limit = Arc::downgrade(limit);
            move || limit.upgrade().map(|limit| ask(&limit))
        };
        for purpose in [Purpose::Request, Purpose::Lease] {
            let labels = [name[0], (label::PURPOSE, purpose.as_str())];
            let ask = move |limit: &GlobalLimit| limit.counts().calls(purpose);
            registry.counter_fn(&metric::RATE_LIMIT_CALLS, &labels, of(Box::new(ask)));
        }
        for (reason, (outcome, passed)) in
            REASONS.into_iter().flat_map(|reason| [("passed", true), ("refused", false)].map(|ended| (reason, ended)))
        {
            let labels = [name[0], (label::OUTCOME, outcome), (label::REASON, reason)];
            let ask = move |limit: &GlobalLimit| limit.counts().failures(reason, passed);
            registry.counter_fn(&metric::RATE_LIMIT_FAILURES, &labels, of(Box::new(ask)));
        }
        registry.counter_fn(&metric::RATE_LIMIT_LEASED, &name, of(Box::new(|limit| limit.counts().leased_total())));
        if limit.config().lease.is_none() {
            return;
        }
        registry.counter_fn(&metric::RATE_LIMIT_LEASES_EVICTED, &name, of(Box::new(|limit| limit.leases().1)));
        let keys = Arc::downgrade(limit);
        let keys = move || keys.upgrade().map(|limit| limit.leases().0 as f64);
        registry.gauge_fn(&metric::RATE_LIMIT_LEASES, &name, keys);
    }

    fn register_shared(&self, limit: &LocalLimit) {
        let Some(shared) = limit.shared.as_ref().map(Arc::downgrade) else { return };
        let labels = [(label::LIMIT, &*limit.name), (label::OUTCOME, "counted_alone"), (label::REASON, "shared_file")];
        let count = move || shared.upgrade().map(|shared| shared.failures());
        self.telemetry.registry.counter_fn(&metric::RATE_LIMIT_FAILURES, &labels, count);
    }

    fn register_check(&self, check: &Arc<RemoteCheck>) {
        let registry = &self.telemetry.registry;
        let name = check.config().name.as_str();
        let of = |ask: fn(&CacheStats) -> u64| {
            let check = Arc::downgrade(check);
            move || check.upgrade().map(|check| ask(&check.stats()))
        };
        for (metric, ask) in CHECK_COUNTERS {
            registry.counter_fn(metric, &[(label::CHECK, name)], of(*ask));
        }
        for (metric, ask) in CHECK_GAUGES {
            let value = of(*ask);
            registry.gauge_fn(metric, &[(label::CHECK, name)], move || value().map(|value| value as f64));
        }
        for (fate, reason) in Fate::ALL.into_iter().flat_map(|fate| FailureReason::NAMES.map(|reason| (fate, reason))) {
            let labels = [(label::CHECK, name), (label::OUTCOME, fate.as_str()), (label::REASON, reason)];
            let check = Arc::downgrade(check);
            let count = move || check.upgrade().map(|check| check.failures(fate, reason));
            registry.counter_fn(&metric::CHECK_FAILURES, &labels, count);
        }
    }
}

type Ask = fn(&CacheStats) -> u64;

const CHECK_COUNTERS: &[(&Metric, Ask)] = &[
    (&metric::CHECK_CACHE_HITS, |stats| stats.hits),
    (&metric::CHECK_CACHE_MISSES, |stats| stats.misses),
    (&metric::CHECK_CACHE_NEGATIVE_HITS, |stats| stats.negative_hits),
    (&metric::CHECK_CACHE_EXPIRED, |stats| stats.expired),
    (&metric::CHECK_CACHE_EVICTED, |stats| stats.evicted),
    (&metric::CHECK_CACHE_COALESCED, |stats| stats.coalesced),
    (&metric::CHECK_CACHE_REFRESHES, |stats| stats.refreshes),
    (&metric::CHECK_CACHE_STALE, |stats| stats.stale_served),
    (&metric::CHECK_CACHE_UNCACHEABLE, |stats| stats.uncacheable),
    (&metric::CHECK_CACHE_MALFORMED_HINTS, |stats| stats.malformed_hints),
    (&metric::CHECK_CACHE_VOIDED, |stats| stats.voided),
    (&metric::CHECK_CALLS, |stats| stats.calls),
];

const CHECK_GAUGES: &[(&Metric, Ask)] = &[
    (&metric::CHECK_CACHE_ENTRIES, |stats| stats.entries),
    (&metric::CHECK_CACHE_BYTES, |stats| stats.bytes),
    (&metric::CHECK_CACHE_REFERENCE_SETS, |stats| stats.reference_sets),
];

/// As the metric's help says.
const fn breaker_number(state: State) -> f64 {
    match state {
        State::Closed => 0.0,
        State::HalfOpen => 1.0,
        State::Open => 2.0,
    }
}
