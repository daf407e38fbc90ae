//! Keeps endpoints current: runs sources, resolves names, puts in force what they say.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;

use crate::cluster::group::{Cluster, Source};
use crate::core::Core;
use crate::discovery::dns::DataAge;
use crate::discovery::feeds::{Feeds, Target};
use crate::discovery::file::POLL_INTERVAL;
use crate::discovery::inquiry::{Means, Meter};
use crate::discovery::names::Names;
use crate::telemetry::metrics::Registry;
use crate::telemetry::names::{label, metric};
use crate::telemetry::reporting::Telemetry;
use crate::time::{Clock, Randomness};

/// Runs as long as the mesh.
pub(super) async fn discover(weak: Weak<Core>, runtime: Handle) {
    let Some(core) = weak.upgrade() else { return };
    let means = Means {
        resolver: Arc::clone(&core.resolver),
        clock: Arc::clone(&core.clock),
        randomness: Arc::new(Randomness::seeded(core.randomness.generator().u64(..))),
        meter: Arc::new(Counts(Arc::clone(&core.telemetry))),
    };
    let target = Arc::new(InForce { core: Weak::clone(&weak) });
    let mut feeds = Feeds::new(means.clone(), Arc::clone(&core.sources), target, runtime);
    let mut names = Names::new(means);
    let changed = Arc::clone(&core.changed);
    // The first look is not waited for.
    changed.notify_one();
    drop(core);
    loop {
        let has_changed = tokio::select! {
            () = changed.notified() => true,
            () = names.step() => false,
            () = tokio::time::sleep(POLL_INTERVAL) => false,
        };
        let Some(core) = weak.upgrade() else { return };
        let snapshot = core.snapshot.load_full();
        if has_changed {
            feeds.reconcile(&snapshot.clusters);
            names.reconcile(&snapshot.clusters);
        }
        for (name, _) in snapshot.clusters.iter().filter(|(_, cluster)| cluster.take_doubt()) {
            feeds.doubt(name);
            names.doubt(name);
        }
        for (name, news) in names.news() {
            let mut news = Some(news);
            core.with_cluster(&name, &mut |cluster| {
                cluster.set_addresses(news.take().unwrap_or_default(), core.clock.now());
            });
        }
    }
}

/// The clusters in force.
struct InForce {
    core: Weak<Core>,
}

impl Target for InForce {
    fn feed(&self, cluster: &str, source: &Source, apply: &mut dyn FnMut(&Arc<Cluster>, Instant)) {
        let Some(core) = self.core.upgrade() else { return };
        core.with_cluster(cluster, &mut |cluster| {
            if cluster.settings.source == *source {
                apply(cluster, core.clock.now());
            }
        });
    }

    fn refused(&self, cluster: &str, reason: &str) {
        tracing::warn!(cluster, reason, "endpoints refused; the last good ones stay");
        if let Some(core) = self.core.upgrade() {
            core.publisher().note_endpoints_refused(cluster, reason);
        }
    }

    fn watch_age(&self, cluster: &str, age: &Arc<DataAge>) {
        let Some(core) = self.core.upgrade() else { return };
        watch_age(&core.telemetry.registry, &core.clock, (cluster, age));
    }
}

fn watch_age(registry: &Registry, clock: &Arc<dyn Clock>, (cluster, age): (&str, &Arc<DataAge>)) {
    let (age, clock) = (Arc::downgrade(age), Arc::clone(clock));
    registry.gauge_fn(&metric::DNS_AGE, &[(label::CLUSTER, cluster)], move || {
        let confirmed = age.upgrade()?.confirmed();
        // A cluster without data shows no age; the series comes back with the first answer.
        Some(confirmed.map_or(f64::NAN, |confirmed| clock.now().saturating_duration_since(confirmed).as_secs_f64()))
    });
}

/// Counts answers in the mesh's metrics.
struct Counts(Arc<Telemetry>);

impl Meter for Counts {
    fn resolved(&self, cluster: &str, outcome: &'static str) {
        let labels = [(label::CLUSTER, cluster), (label::OUTCOME, outcome)];
        self.0.registry.counter(&metric::DNS_RESOLUTIONS, &labels).inc();
    }
}
