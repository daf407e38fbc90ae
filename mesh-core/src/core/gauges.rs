//! What the metrics page asks of the mesh when it is read.
//!
//! Nothing here is counted on the request path: a scrape looks at live state.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Core;
use crate::access::check::RemoteCheck;
use crate::cluster::group::Cluster;
use crate::telemetry::names::{label, metric};

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
    pub(super) fn register_named_gauges(&self) {
        let snapshot = self.snapshot.load();
        for cluster in snapshot.clusters.values() {
            self.register_cluster(cluster);
        }
        for policy in snapshot.listeners.values().flat_map(|listener| &listener.checks) {
            self.register_check(&policy.check);
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
        let outbound = [(label::CLUSTER, &*cluster.name), (label::SIDE, "outbound")];
        registry.gauge_fn(&metric::IN_FLIGHT, &outbound, of(|cluster, _| cluster.limit.in_flight() as usize));
    }

    fn register_check(&self, check: &Arc<RemoteCheck>) {
        let registry = &self.telemetry.registry;
        let labels = [(label::CHECK, check.config().name.as_str())];
        let of = |ask: fn(&RemoteCheck) -> u64| {
            let check = Arc::downgrade(check);
            move || check.upgrade().map(|check| ask(&check))
        };
        registry.counter_fn(&metric::CHECK_CACHE_HITS, &labels, of(|check| check.stats().hits));
        registry.counter_fn(&metric::CHECK_CACHE_MISSES, &labels, of(|check| check.stats().misses));
        registry.counter_fn(&metric::CHECK_CALLS, &labels, of(|check| check.stats().calls));
    }
}
