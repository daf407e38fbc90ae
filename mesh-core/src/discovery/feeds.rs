//! Sources at work: one for each cluster whose endpoints come from elsewhere.
//!
//! Decides: which sources run, and how often what they say is put in force. Never: runs on the request path.
//! Invariant: a source runs exactly as long as a cluster in force names it; a change of anything else in the
//! document does not restart it, and a cluster that was away and came back has one of its own. Putting endpoints in force takes at most a tenth of one core, however
//! often a source speaks: what it said in between is skipped, the last word never.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::dns::{DataAge, DnsSource};
use super::file::FileSource;
use super::inquiry::Means;
use super::source::{EndpointSet, EndpointSource, Said, Sink};
use crate::cluster::group::{Cluster, Fed, Source};
use crate::time::{Clock, after};

/// Sources that the application registered, by name.
pub type Registered = HashMap<Arc<str>, Arc<dyn EndpointSource>>;

/// Where what sources say goes.
pub trait Target: Send + Sync + 'static {
    /// Lets `apply` at the cluster of this name, if it is still fed by `source`; no document is put in force
    /// meanwhile.
    fn feed(&self, cluster: &str, source: &Source, apply: &mut dyn FnMut(&Arc<Cluster>, Instant));
    /// A source has nothing that can be used.
    fn refused(&self, cluster: &str, reason: &str);
    /// DNS data of this age is in use now.
    fn watch_age(&self, cluster: &str, age: &Arc<DataAge>);
}

/// What feeds are made with.
pub struct Feeds {
    /// How names are resolved.
    pub means: Means,
    /// Sources of the application.
    pub registered: Arc<Registered>,
    /// Where it goes.
    pub target: Arc<dyn Target>,
    /// Carries the sources.
    pub runtime: Handle,
    running: HashMap<Arc<str>, Feed>,
}

/// One source at work. Dropped, it ends.
struct Feed {
    fed: Arc<Fed>,
    sink: Sink,
    tasks: [AbortHandle; 2],
}

impl Feeds {
    /// None runs yet.
    pub fn new(means: Means, registered: Arc<Registered>, target: Arc<dyn Target>, runtime: Handle) -> Self {
        Self { means, registered, target, runtime, running: HashMap::new() }
    }

    /// Starts what these clusters need and do not have, ends what they do not need.
    pub fn reconcile(&mut self, clusters: &BTreeMap<Arc<str>, Arc<Cluster>>) {
        self.running
            .retain(|name, feed| clusters.get(name).is_some_and(|cluster| Arc::ptr_eq(&cluster.fed, &feed.fed)));
        for (name, cluster) in clusters {
            if !self.running.contains_key(name)
                && let Some(feed) = self.start(name, cluster)
            {
                self.running.insert(Arc::clone(name), feed);
            }
        }
    }

    /// Connections to endpoints of this cluster fail: its source may look again.
    pub fn doubt(&self, cluster: &str) {
        if let Some(feed) = self.running.get(cluster) {
            feed.sink.doubt();
        }
    }

    fn start(&self, name: &Arc<str>, cluster: &Cluster) -> Option<Feed> {
        let source = &cluster.settings.source;
        let implementation: Arc<dyn EndpointSource> = match source {
            Source::Inline(_) => return None,
            Source::File(path) => Arc::new(FileSource::new(path)),
            Source::Dns(dns) => {
                let age = Arc::new(DataAge::default());
                self.target.watch_age(name, &age);
                Arc::new(DnsSource { dns: Arc::clone(dns), means: self.means.clone(), age })
            }
            Source::Registered(registered) => Arc::clone(self.registered.get(registered)?),
        };
        let sink = Sink::new();
        let following = implementation.follow(name, sink.clone());
        let place = Place { cluster: Arc::clone(name), source: source.clone(), target: Arc::clone(&self.target) };
        let applying = put_in_force(place, sink.clone(), Arc::clone(&self.means.clock));
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| self.runtime.spawn(task).abort_handle();
        let tasks = [spawn(following), spawn(Box::pin(applying))];
        Some(Feed { fed: Arc::clone(&cluster.fed), sink, tasks })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Where one source's word goes.
struct Place {
    cluster: Arc<str>,
    source: Source,
    target: Arc<dyn Target>,
}

impl Place {
    fn apply(&self, set: EndpointSet) {
        let mut endpoints = Some(set.endpoints);
        self.target.feed(&self.cluster, &self.source, &mut |cluster, now| {
            cluster.set_endpoints(endpoints.take().unwrap_or_default(), now);
        });
    }

    fn refuse(&self, reason: &Arc<str>) {
        self.target.feed(&self.cluster, &self.source, &mut |cluster, _| cluster.source_failed(reason));
        self.target.refused(&self.cluster, reason);
    }
}

/// Takes the latest word again and again.
async fn put_in_force(place: Place, sink: Sink, clock: Arc<dyn Clock>) {
    let place = Arc::new(place);
    let mut ends: Option<Instant> = None;
    loop {
        let expiry = async {
            match ends {
                Some(ends) => clock.sleep_until(ends).await,
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            // What was said before the time was up counts, also if both are noticed at once.
            biased;
            said = sink.take() => said,
            () = expiry => {
                tracing::warn!(cluster = %place.cluster, "the source has not renewed its endpoints: they are gone");
                Said::Set(EndpointSet::default())
            }
        };
        let set = match said {
            Said::Set(set) => set,
            Said::Refused(reason) => {
                place.refuse(&reason);
                continue;
            }
        };
        ends = set.valid_for.map(|span| after(clock.now(), span));
        // Real time, whatever clock the mesh has: this bounds work, it is no policy.
        let started = Instant::now();
        if set.endpoints.len() < LARGE {
            place.apply(set);
        } else {
            let place = Arc::clone(&place);
            // A worker that is busy for milliseconds would delay the requests it carries.
            let _ = tokio::task::spawn_blocking(move || place.apply(set)).await;
        }
        tokio::time::sleep((started.elapsed() * REST).max(SHORTEST_REST)).await;
    }
}

/// A set this large is put in force on a thread that carries no requests: about 0.1 ms of work.
const LARGE: usize = 500;
/// Rest after putting endpoints in force, in multiples of the time that took: a tenth of one core at most.
const REST: u32 = 9;
/// Shortest such rest: 100 updates a second become at most 50.
const SHORTEST_REST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::time::ManualClock;

    /// One cluster, and how many endpoints it had after each word.
    struct Watched {
        cluster: Arc<Cluster>,
        counts: std::sync::Mutex<Vec<usize>>,
    }

    impl Target for Watched {
        fn feed(&self, _: &str, _: &Source, apply: &mut dyn FnMut(&Arc<Cluster>, Instant)) {
            apply(&self.cluster, Instant::now());
            self.counts.lock().unwrap().push(self.cluster.endpoints().len());
        }

        fn refused(&self, _: &str, _: &str) {}

        fn watch_age(&self, _: &str, _: &Arc<DataAge>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_renewed_in_time_stays_though_it_is_looked_at_later() {
        let mesh = crate::Mesh::from_yaml("version: 1\nclusters: [{ name: a, endpoints: [] }]", "a.yaml").unwrap();
        let cluster = Arc::clone(&mesh.core().snapshot.load().clusters["a"]);
        let source = cluster.settings.source.clone();
        let target = Arc::new(Watched { cluster, counts: std::sync::Mutex::default() });
        let (sink, clock) = (Sink::new(), ManualClock::new());
        let place = Place { cluster: "a".into(), source, target: Arc::clone(&target) as Arc<dyn Target> };
        let applying = tokio::spawn(put_in_force(place, sink.clone(), Arc::new(clock.clone())));
        const MINUTE: Duration = Duration::from_secs(60);
        for round in 1..20 {
            let endpoint = Endpoint::at(format!("10.0.0.{round}:80").parse().unwrap());
            sink.publish(EndpointSet { endpoints: vec![Arc::new(endpoint)], valid_for: Some(MINUTE) });
            // It is put in force, or rests from the last time.
            clock.advance(MINUTE);
            while target.counts.lock().unwrap().len() < round {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        applying.abort();
        assert_eq!(*target.counts.lock().unwrap(), [1; 19]);
    }
}
