//! What all parts of one mesh share.
//!
//! Decides: when the mesh starts (on first use) and whether it may still be used. Never: policy.
//! Invariant: after the start a call reads it with two atomic loads and no lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::cluster::group::Cluster;
use crate::config;
use crate::discovery::feeds::Registered;
use crate::discovery::publish::{ConfigError, Publisher};
use crate::discovery::resolver::Resolver;
use crate::drain::Drain;
use crate::endpoint::connect::{Connector, Dialer};
use crate::error::{Error, ErrorKind};
use crate::identity::source::IdentitySource;
use crate::own_load::OwnLoad;
use crate::runtime::{MeshRuntime, RuntimeOptions};
use crate::snapshot::Snapshot;
use crate::telemetry::reporting::Telemetry;
use crate::time::{Clock, Randomness};

mod gauges;
mod quotas;
mod standing;

/// The shared state of a mesh.
pub struct Core {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Randomness,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) identity: Option<IdentitySource>,
    pub(crate) drain: Drain,
    /// Endpoint sources that the application registered.
    pub(crate) sources: Arc<Registered>,
    /// Told when a document or endpoints came into force.
    pub(crate) changed: Arc<Notify>,
    /// Held while a document or endpoints are put in force: a cluster of the next document starts from what
    /// the last one has, and must not miss what is put in force meanwhile.
    membership: Mutex<()>,
    pub(crate) load: OwnLoad,
    publisher: Mutex<Publisher>,
    connector: Arc<dyn Connector>,
    options: RuntimeOptions,
    /// Starts the background work; given by the mesh, which knows all of it.
    starter: Starter,
    /// Set once, read on every call.
    started: OnceLock<Started>,
    /// Held while starting and closing.
    runtime: Mutex<Option<MeshRuntime>>,
    is_closed: AtomicBool,
}

/// Starts the background work of a mesh.
pub(crate) type Starter = fn(&Arc<Core>, &Handle) -> Result<(), Error>;

/// What a core is made of.
pub(crate) struct Parts {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) randomness: Randomness,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) identity: Option<IdentitySource>,
    pub(crate) sources: Arc<Registered>,
    pub(crate) options: RuntimeOptions,
    pub(crate) starter: Starter,
}

struct Started {
    handle: Handle,
    dialer: Arc<Dialer>,
    generation: u64,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let core = Arc::new(Self {
            snapshot: ArcSwap::from(parts.snapshot),
            clock: parts.clock,
            randomness: parts.randomness,
            resolver: parts.resolver,
            telemetry: parts.telemetry,
            identity: parts.identity,
            drain: Drain::new(),
            sources: parts.sources,
            changed: Arc::default(),
            membership: Mutex::default(),
            load: OwnLoad::default(),
            publisher: Mutex::new(parts.publisher),
            connector: parts.connector,
            options: parts.options,
            starter: parts.starter,
            started: OnceLock::new(),
            runtime: Mutex::new(None),
            is_closed: AtomicBool::new(false),
        });
        core.register_gauges();
        core
    }

    /// Starts on first use; then costs two atomic loads.
    fn started(self: &Arc<Self>) -> Result<&Started, Error> {
        let started = match self.started.get() {
            Some(started) => started,
            None => self.start()?,
        };
        if started.generation != crate::runtime::fork_generation() {
            return Err(Error::new(
                ErrorKind::Forked,
                "this mesh was started before fork(); open a new one in the child",
            ));
        }
        self.check_open()?;
        Ok(started)
    }

    /// Refuses what needs no thread, once the mesh was closed.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Closed, "this mesh was closed"));
        }
        Ok(())
    }

    fn start(self: &Arc<Self>) -> Result<&Started, Error> {
        let mut slot = lock(&self.runtime);
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        self.check_open()?;
        let runtime = MeshRuntime::start(&self.options)?;
        let handle = runtime.handle()?.clone();
        let dialer = Arc::new(Dialer {
            connector: Arc::clone(&self.connector),
            clock: Arc::clone(&self.clock),
            runtime: handle.clone(),
            identity: self.identity.clone(),
            randomness: Randomness::seeded(self.randomness.generator().u64(..)),
        });
        (self.starter)(self, &handle)?;
        *slot = Some(runtime);
        let generation = crate::runtime::fork_generation();
        Ok(self.started.get_or_init(|| Started { handle, dialer, generation }))
    }

    pub(crate) fn runtime(self: &Arc<Self>) -> Result<Handle, Error> {
        Ok(self.started()?.handle.clone())
    }

    pub(crate) fn dialer(self: &Arc<Self>) -> Result<&Arc<Dialer>, Error> {
        Ok(&self.started()?.dialer)
    }

    pub(crate) fn publisher(&self) -> std::sync::MutexGuard<'_, Publisher> {
        lock(&self.publisher)
    }

    /// Puts a further document in force, or says everything that is wrong with it.
    pub(crate) fn publish(&self, text: &str, origin: &str) -> Result<u64, ConfigError> {
        // Before anything is held: reading a long document takes a good part of a second.
        let parsed = config::parse(text, origin).map_err(|found| self.publisher().refuse(found))?;
        let _membership = lock(&self.membership);
        let previous = self.snapshot.load_full();
        let is_followed = self.started.get().is_some();
        let snapshot = self.publisher().accept(parsed, (&previous, is_followed))?;
        let revision = snapshot.revision;
        self.snapshot.store(Arc::clone(&snapshot));
        for (name, cluster) in &previous.clusters {
            cluster.leave_to(snapshot.clusters.get(name));
        }
        self.changed.notify_one();
        Ok(revision)
    }

    /// Lets endpoints be put in force at the cluster of this name.
    pub(crate) fn with_cluster(&self, name: &str, apply: &mut dyn FnMut(&Arc<Cluster>)) {
        let _membership = lock(&self.membership);
        if let Some(cluster) = self.snapshot.load().clusters.get(name) {
            apply(cluster);
        }
        self.changed.notify_one();
    }

    /// Whether this process can serve: started, with a valid identity if one is configured, not draining.
    pub(crate) fn is_ready(&self) -> bool {
        let has_identity = self.identity.as_ref().is_none_or(|identity| identity.current().is_some());
        self.started.get().is_some() && has_identity && self.drain.is_serving()
    }

    /// What a support engineer asks for.
    pub(crate) fn status(&self) -> Value {
        let snapshot = self.snapshot.load();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": snapshot.revision,
            "ready": self.is_ready(),
            "phase": self.drain.phase().as_str(),
            "serving": self.drain.is_serving(),
            "requests_in_flight": self.drain.requests(),
            "config": self.publisher().status(),
            "identity": self.identity.as_ref().map(identity_status),
            "clusters": snapshot.status(self.clock.now()),
            "load": self.load.report(self.drain.requests(), self.clock.now()),
            "guards": snapshot.guard_status(self.clock.now()),
            "checks": snapshot.check_status(),
            "end_users": snapshot.end_user_status(),
            "listeners": snapshot.listeners.keys().collect::<Vec<_>>(),
        })
    }

    /// The document in force.
    pub(crate) fn config(&self) -> Value {
        serde_json::to_value(&*self.snapshot.load().document).unwrap_or(Value::Null)
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn metrics_text(self: &Arc<Self>) -> String {
        self.register_named_gauges();
        self.telemetry.registry.render()
    }

    /// Ends everything; blocks up to `timeout` for the threads unless called from inside a runtime.
    pub(crate) fn close(&self, timeout: Duration) {
        self.is_closed.store(true, Ordering::SeqCst);
        let Some(runtime) = lock(&self.runtime).take() else { return };
        if let Ok(handle) = runtime.handle() {
            let drain = self.drain.clone();
            let ending = handle.spawn(async move { drain.end().await });
            if Handle::try_current().is_err() {
                let _ = handle.block_on(async { tokio::time::timeout(timeout, ending).await });
                self.telemetry.access_log.flush(timeout);
            }
        }
        runtime.shut_down(timeout);
    }
}

fn identity_status(identity: &IdentitySource) -> Value {
    let current = identity.current();
    json!({
        "spiffe_id": current.as_ref().map(|current| current.svid.id().to_string()),
        "serial": current.as_ref().map(|current| current.svid.serial().to_owned()),
        "not_after_unix": current.as_ref().and_then(|current| unix_seconds(current.svid.not_after())),
        "trust_domains": current.iter().flat_map(|current| current.bundles.iter()).map(|bundle| bundle.trust_domain().as_str().to_owned()).collect::<Vec<_>>(),
        "rotations": identity.rotations(),
        "failures": identity.failures(),
        "last_error": identity.last_error().map(|error| error.to_string()),
        "recent_serials": identity.recent_serials(),
    })
}

fn unix_seconds(at: SystemTime) -> Option<u64> {
    at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::Mesh;

    #[test]
    fn a_document_is_read_while_endpoints_are_put_in_force() {
        let text = "version: 1\nclusters: [{ name: a, endpoints: [{ address: \"10.0.0.1:80\" }] }]\n";
        let mesh = Mesh::from_yaml(text, "mesh.yaml").unwrap();
        let mut was_read = false;
        mesh.core().with_cluster("a", &mut |_| {
            let (told, refused) = mpsc::channel();
            let mesh = mesh.clone();
            std::thread::spawn(move || told.send(mesh.reload("version: none", "mesh.yaml").is_err()));
            was_read = refused.recv_timeout(Duration::from_secs(30)).unwrap_or(false);
        });
        assert!(was_read, "a document that cannot be read waits for nothing");
        assert_eq!(mesh.status()["config"]["refused"], 1);
    }
}
