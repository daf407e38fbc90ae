//! What the metrics page asks of breakers, ejections and health when it is read.

use std::sync::Arc;
use std::time::Instant;

use super::Core;
use crate::cluster::group::Cluster;
use crate::cluster::health::Health;
use crate::cluster::outlier::{Cause, Consequence};
use crate::policy::circuit_breaker::{State, Transitions};
use crate::telemetry::metrics::Labels;
use crate::telemetry::names::{Metric, label, metric};

impl Core {
    /// Registers how the endpoints of a cluster stand.
    pub(super) fn register_standing(&self, cluster: &Arc<Cluster>) {
        let name = &*cluster.name;
        for health in [Health::Healthy, Health::Degraded, Health::Draining, Health::Unhealthy] {
            let labels = [(label::CLUSTER, name), (label::STATE, health.as_str())];
            self.gauge(cluster, (&metric::ENDPOINTS_HEALTH, &labels), move |cluster, now| {
                count(cluster, |endpoint| endpoint.health(now) == health)
            });
        }
        for state in State::ALL {
            let labels = |scope| [(label::CLUSTER, name), (label::SCOPE, scope), (label::STATE, state.as_str())];
            self.gauge(cluster, (&metric::BREAKER_STATE, &labels("endpoint")), move |cluster, now| {
                count(cluster, |endpoint| endpoint.live.breaker.state(now) == state)
            });
            let of_endpoints = Arc::clone(&cluster.transitions);
            self.transitions(cluster, &labels("endpoint"), (of_endpoints, state));
            let Some(breaker) = &cluster.breaker else { continue };
            self.gauge(cluster, (&metric::BREAKER_STATE, &labels("cluster")), move |cluster, now| {
                usize::from(cluster.breaker.as_ref().is_some_and(|breaker| breaker.state(now) == state))
            });
            self.transitions(cluster, &labels("cluster"), (Arc::clone(breaker.transitions()), state));
        }
        self.register_ejections(cluster);
    }

    fn register_ejections(&self, cluster: &Arc<Cluster>) {
        for (cause, consequence) in Cause::ALL.into_iter().flat_map(|cause| Consequence::ALL.map(|what| (cause, what)))
        {
            let labels = [(label::CLUSTER, &*cluster.name), (label::REASON, cause.as_str())];
            let spared = [labels[0], labels[1], (label::UNENFORCED_REASON, consequence.as_str())];
            let (metric, labels): (_, Labels<'_>) = match consequence {
                Consequence::Ejected => (&metric::EJECTIONS, &labels),
                Consequence::NotEnforced | Consequence::CapReached => (&metric::EJECTIONS_UNENFORCED, &spared),
            };
            let cluster = Arc::downgrade(cluster);
            let read = move || cluster.upgrade().map(|cluster| cluster.outlier.counts().read(cause, consequence));
            self.telemetry.registry.counter_fn(metric, labels, read);
        }
    }

    fn gauge(
        &self,
        cluster: &Arc<Cluster>,
        (metric, labels): (&Metric, Labels<'_>),
        ask: impl Fn(&Cluster, Instant) -> usize + Send + Sync + 'static,
    ) {
        let (cluster, clock) = (Arc::downgrade(cluster), Arc::clone(&self.clock));
        let read = move || cluster.upgrade().map(|cluster| ask(&cluster, clock.now()) as f64);
        self.telemetry.registry.gauge_fn(metric, labels, read);
    }

    fn transitions(&self, cluster: &Arc<Cluster>, labels: Labels<'_>, (counts, state): (Arc<Transitions>, State)) {
        let cluster = Arc::downgrade(cluster);
        let read = move || cluster.upgrade().map(|_| counts.read(state));
        self.telemetry.registry.counter_fn(&metric::BREAKER_TRANSITIONS, labels, read);
    }
}

fn count(cluster: &Cluster, is_one: impl Fn(&crate::cluster::member::Endpoint) -> bool) -> usize {
    let mut count = 0;
    cluster.each_endpoint(|endpoint| count += usize::from(is_one(endpoint)));
    count
}
