//! A cluster: a named group of endpoints with one policy.
//!
//! Decides: what is kept of a cluster from one document to the next. Never: touches the request path
//! when endpoints change; it builds a new picker and swaps it.
//! Invariant: what a changed cluster has learned goes on to the next, as far as it still holds.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::sync::futures::Notified;

use crate::cluster::health::{Health, HealthCheck};
use crate::cluster::member::Endpoint;
use crate::cluster::membership::{Ground, Heard, Members, Resolved};
use crate::cluster::news::News;
use crate::cluster::outlier::{Observed, OutlierConfig, OutlierDetector};
use crate::cluster::picker::Balancing;
use crate::cluster::pickers::Pickers;
use crate::cluster::session::ByAddress;
use crate::cluster::subset::Subsets;
use crate::cluster::subsetting::Subsetting;
use crate::config::cluster::{Declared, Endpoint as Written, Locality, TlsMode};
use crate::config::dns::Dns;
use crate::endpoint::connect::{Moment, Transport};
use crate::endpoint::pool::PoolLimits;
use crate::policy::Invalid;
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::circuit_breaker::{BreakerConfig, CircuitBreaker, Transitions};
use crate::policy::concurrency::{ConcurrencyLimit, Terms};
use crate::policy::mirror::Places;
use crate::route::affinity::Affinity;
use crate::telemetry::{DestinationService, Peer};

/// A named group of endpoints.
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// What the document says of it.
    pub settings: Settings,
    /// Bounds retries and hedges to this service.
    pub budget: Arc<Budget>,
    /// Bounds requests in flight.
    pub limit: Arc<ConcurrencyLimit>,
    /// Judges endpoints by their peers.
    pub outlier: Arc<OutlierDetector>,
    /// Bounds the copies it gets of requests to others.
    pub copies: Arc<Places>,
    /// The same one for all clusters, each in place of the one before it, that one source has fed without a gap.
    pub fed: Arc<Fed>,
    /// Of the cluster as a whole.
    pub breaker: Option<Arc<CircuitBreaker>>,
    /// Transitions of all its endpoints' breakers.
    pub transitions: Arc<Transitions>,
    /// Whether a request ever asked for an endpoint: decides how often an idle cluster is probed.
    is_used: Arc<AtomicBool>,
    pub(super) pickers: ArcSwap<Pickers>,
    retired: Mutex<Option<Arc<Pickers>>>,
    pub(super) by_address: ArcSwap<ByAddress>,
    members: Mutex<Members>,
    hosts: ArcSwap<Vec<Arc<Written>>>,
    /// Requests at all endpoints, those that left the cluster included; for balancers that ask.
    in_flight: Arc<AtomicU32>,
    pub(super) news: News,
    /// Who has its place, once it has left.
    successor: OnceLock<Weak<Self>>,
    doubted: AtomicBool,
}

/// What is fed: a source that has spoken need not speak again to who takes the place of the fed.
#[derive(Default)]
pub struct Fed;

/// What a document says of a cluster, defaults filled in. Equal settings are the same cluster.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// What metrics call it.
    pub service: Arc<DestinationService>,
    /// Whether requests may be sent to it; else it is dialled only.
    pub speaks_http: bool,
    /// What metrics call the workload behind an endpoint that says nothing of itself.
    pub workload: Arc<Peer>,
    /// Where its endpoints come from.
    pub source: Source,
    /// How an endpoint is reached unless it says otherwise.
    pub tls: TlsMode,
    /// How mutual TLS endpoints are reached; `None` without an identity of our own.
    pub mutual: Option<Transport>,
    /// How servers of the web are reached, their names aside; `None` where the document names none here.
    pub simple: Option<Transport>,
    /// What those have to prove to be; `None`: each the host of its own address.
    pub server_name: Option<Arc<ServerName<'static>>>,
    /// How plaintext endpoints are reached.
    pub plain: Transport,
    /// How plaintext endpoints are reached by gRPC.
    pub plain_grpc: Transport,
    /// Limits of each endpoint's pool.
    pub pool: PoolLimits,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// Which subsets rules name.
    pub subsets: Subsets,
    /// Which of the endpoints are used; `None`: all.
    pub subsetting: Option<Subsetting>,
    /// What endpoints are known by to a hash: their host instead of their address.
    pub hashes_by_host: bool,
    /// What binds requests to endpoints where their rule does not say.
    pub affinity: Affinity,
    /// Of each endpoint.
    pub breaker: BreakerConfig,
    /// Of the cluster as a whole, if it has one.
    pub cluster_breaker: Option<BreakerConfig>,
    /// Of the group.
    pub outlier: OutlierConfig,
    /// How endpoints are probed, if they are.
    pub health_check: Option<HealthCheck>,
    /// Requests in flight at most.
    pub concurrency: Terms,
    /// Retries at most.
    pub budget: BudgetConfig,
    /// Where we are.
    pub locality: Option<Locality>,
}

/// Where endpoints come from.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// The document.
    Inline(Vec<Arc<Written>>),
    /// A file of their own, watched.
    File(PathBuf),
    /// Name servers.
    Dns(Arc<Dns>),
    /// A source that the application registered by this name.
    Registered(Arc<str>),
}

impl Settings {
    /// All that says how endpoints are reached: where it differs, nothing learned of them still holds.
    fn ways(&self) -> [Option<&Transport>; 4] {
        [Some(&self.plain), Some(&self.plain_grpc), self.mutual.as_ref(), self.simple.as_ref()]
    }
}

impl Source {
    /// Whether the endpoints are told later, by a source in the background.
    pub fn speaks_later(&self) -> bool {
        matches!(self, Self::Dns(_) | Self::Registered(_))
    }
}

/// What an attempt wants of a cluster.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The time.
    pub now: Instant,
    /// Endpoints of earlier attempts.
    pub tried: &'a [Arc<Endpoint>],
    /// What the request hashes to, for balancers that send equal requests to the same endpoint.
    pub hash: Option<u64>,
    /// Only endpoints of this subset, by its number in [`Settings::subsets`].
    pub subset: Option<usize>,
    /// Where every breaker is open, how long after it opened one is asked again at the latest; `None`: as its own first
    /// wait says.
    pub last_wait: Option<Duration>,
}

impl Cluster {
    /// A cluster without endpoints yet; what fits is carried over from `previous`, which is not changed by it.
    pub fn new(settings: Settings, previous: Option<&Self>, now: Instant) -> Result<Self, Invalid> {
        let same =
            |same: fn(&Settings, &Settings) -> bool| previous.filter(|previous| same(&previous.settings, &settings));
        let budget = same(|a, b| a.budget == b.budget)
            .map_or_else(|| Arc::new(Budget::new(settings.budget)), |previous| Arc::clone(&previous.budget));
        let outlier = match previous {
            Some(previous) => previous.outlier.under(settings.outlier)?,
            None => OutlierDetector::new(settings.outlier)?,
        };
        let outlier = Arc::new(outlier);
        let limit = previous
            .map_or_else(|| ConcurrencyLimit::with(settings.concurrency), |previous| Arc::clone(&previous.limit));
        let keeps_live = same(|a, b| a.ways() == b.ways());
        let members = previous.map(|previous| previous.members().carried(keeps_live.is_some()));
        let heard = same(|a, b| a.source == b.source).map(|previous| previous.members().heard());
        let fed = same(|a, b| a.source == b.source).map(|previous| Arc::clone(&previous.fed));
        let heard = heard.unwrap_or_else(|| Heard::nothing(settings.source.speaks_later()));
        let members = members.unwrap_or_default().having(heard);
        let breaker =
            settings.cluster_breaker.map(|config| match previous.and_then(|previous| previous.breaker.as_ref()) {
                Some(breaker) if *breaker.config() == config => Arc::clone(breaker),
                Some(breaker) => breaker.under(config, now),
                None => CircuitBreaker::new(config, now),
            });
        Ok(Self {
            name: Arc::clone(&settings.name),
            breaker,
            transitions: previous.map(|previous| Arc::clone(&previous.transitions)).unwrap_or_default(),
            copies: previous.map(|previous| Arc::clone(&previous.copies)).unwrap_or_default(),
            fed: fed.unwrap_or_default(),
            is_used: previous.map(|previous| Arc::clone(&previous.is_used)).unwrap_or_default(),
            pickers: ArcSwap::from_pointee(Pickers::new(&settings, Vec::new(), 0)),
            by_address: ArcSwap::default(),
            in_flight: previous.map(|previous| Arc::clone(&previous.in_flight)).unwrap_or_default(),
            settings,
            budget,
            limit,
            outlier,
            news: News::of(&members),
            members: Mutex::new(members),
            retired: Mutex::default(),
            hosts: ArcSwap::default(),
            successor: OnceLock::new(),
            doubted: AtomicBool::new(false),
        })
    }

    /// Puts its settings in force where it shares live state with the cluster before it.
    pub fn take_over(&self) {
        self.limit.retune(self.settings.concurrency);
    }

    /// The endpoints a document, or another source, names now. Only a change has an effect.
    pub fn set_endpoints(&self, written: Vec<Arc<Written>>, now: Instant) {
        let mut members = self.members();
        if members.replace(written) {
            self.hosts.store(Arc::new(members.hosts().to_vec()));
            self.rebuild(&mut members, now);
        }
        self.news.tell(&members);
    }

    /// What host names among the endpoints (as written, with their port) resolve to now; `Err`: why one does not.
    pub fn set_addresses(&self, found: Vec<(Arc<str>, Resolved)>, now: Instant) {
        let mut members = self.members();
        let mut is_new = false;
        for (host, addresses) in found {
            is_new |= members.name(&host, addresses);
        }
        if is_new {
            self.rebuild(&mut members, now);
        }
        self.news.tell(&members);
    }

    /// The source has nothing that can be used: requests need not wait for it. What is in force stays.
    pub fn source_failed(&self, reason: &Arc<str>) {
        let mut members = self.members();
        members.source_failed(reason);
        self.news.tell(&members);
    }

    /// A connection to an endpoint failed: what a name stands for may have changed.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Whether connections failed since this was last asked.
    pub fn take_doubt(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) && self.doubted.swap(false, Ordering::Relaxed)
    }

    /// Another cluster, or none, has taken this one's place: connections that it did not take over end once
    /// they are idle, also while a call still holds this one.
    pub fn leave_to(self: &Arc<Self>, successor: Option<&Arc<Self>>) {
        let mut members = self.members();
        match successor {
            Some(successor) if Arc::ptr_eq(self, successor) => return,
            Some(successor) => members.leave_to(&successor.members()),
            None => members.leave_to(&Members::default()),
        }
        let _ = self.successor.set(successor.map(Arc::downgrade).unwrap_or_default());
        // What it waits for is told to its successor: who waits here would wait in vain.
        self.news.tell(&members);
    }

    /// The endpoints as written.
    pub fn written(&self) -> Vec<Arc<Written>> {
        self.members().written().to_vec()
    }

    /// Those of the endpoints that are host names. Does not wait for a list that is being put in force.
    pub fn hosts(&self) -> Arc<Vec<Arc<Written>>> {
        self.hosts.load_full()
    }

    /// Endpoints in force.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.pickers.load().endpoints().to_vec()
    }

    /// Looks at every endpoint in force, without a copy of the list.
    pub fn each_endpoint(&self, look: impl FnMut(&Arc<Endpoint>)) {
        self.pickers.load().endpoints().iter().for_each(look);
    }

    /// Open connections to all endpoints.
    pub fn connections(&self) -> usize {
        self.pickers.load().endpoints().iter().map(|endpoint| endpoint.live.pool.open()).sum()
    }

    /// Whether a priority level has so few available endpoints that the balancer ignores it.
    pub fn is_panicking(&self, now: Instant) -> bool {
        self.pickers.load().of(None).is_panicking(now)
    }

    /// Whether there is no endpoint because a source has yet to speak, or a name to be resolved, for the
    /// first time. A cluster that has left is told nothing any more.
    pub fn is_resolving(&self) -> bool {
        self.news.is_resolving()
    }

    /// Completes when, from now on, a name has been resolved, a source has spoken, or the cluster has left.
    pub fn next_word(&self) -> Notified<'_> {
        self.news.next()
    }

    /// Whether another cluster, or none, has this one's place.
    pub fn has_left(&self) -> bool {
        self.successor.get().is_some()
    }

    /// The cluster that has this one's place, if a request that was meant for this one may go there: it is reached in
    /// the same way, and its subsets have the same numbers.
    pub fn successor(&self) -> Option<Arc<Self>> {
        let successor = self.successor.get()?.upgrade()?;
        let (theirs, ours) = (&successor.settings, &self.settings);
        let is_alike =
            (theirs.speaks_http, theirs.ways(), &theirs.subsets) == (ours.speaks_http, ours.ways(), &ours.subsets);
        is_alike.then_some(successor)
    }

    /// How this endpoint is reached. gRPC needs HTTP/2, also where a plaintext cluster left it open. What cannot be
    /// verified is not reached at all, and never in plaintext.
    pub fn transport(&self, endpoint: &Endpoint, is_grpc: bool) -> Cow<'_, Transport> {
        let settings = &self.settings;
        let plain = if is_grpc { &settings.plain_grpc } else { &settings.plain };
        let known = match endpoint.tls {
            TlsMode::Plaintext => return Cow::Borrowed(plain),
            TlsMode::Mutual => settings.mutual.as_ref().map(Cow::Borrowed),
            TlsMode::Simple => {
                settings.simple.as_ref().map(|way| Cow::Owned(way.towards(endpoint.server_name.clone())))
            }
        };
        known.unwrap_or_else(|| Cow::Owned(plain.without_proof(endpoint.tls)))
    }

    /// Whether an endpoint is one of those that a rule's labels mean.
    pub(super) fn is_within(&self, subset: Option<usize>, endpoint: &Endpoint) -> bool {
        self.pickers.load().is_within(subset, endpoint)
    }

    /// A request asks for an endpoint. Writes only once: the line is shared by all of them.
    pub(super) fn note_use(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it ever had a request.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// Tells outlier detection what an attempt ended in.
    pub(super) fn judge(&self, endpoint: &Endpoint, observed: Observed, now: Instant, rng: &mut fastrand::Rng) {
        if let Some(detection) = self.outlier.record(&endpoint.live.outlier, observed, now, rng) {
            tracing::warn!(cluster = %self.name, endpoint = %endpoint.name, cause = ?detection.cause, consequence = ?detection.consequence, "outlier");
        }
    }

    /// Lets ejected endpoints come back and judges the interval. Called each `outlier.interval`.
    pub fn sweep(&self, now: Instant, rng: &mut fastrand::Rng) {
        let sweep = self.outlier.sweep(now, rng);
        if !sweep.returned.is_empty() {
            self.members().warm_up(&sweep.returned, now);
        }
        if !sweep.returned.is_empty() || !sweep.detections.is_empty() {
            tracing::info!(cluster = %self.name, returned = sweep.returned.len(), detected = sweep.detections.len(), "outlier sweep");
        }
    }

    /// Closes connections that are idle for too long, retired or closed by the peer.
    pub fn close_idle(&self, moment: Moment) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).take();
        for endpoint in self.pickers.load_full().endpoints() {
            endpoint.live.pool.sweep(moment, &self.settings.pool);
        }
    }

    /// For the admin endpoint.
    pub fn status(&self, now: Instant) -> Value {
        let endpoints = self.endpoints().iter().map(|endpoint| endpoint_status(endpoint, now)).collect::<Vec<_>>();
        json!({
            "service": &*self.settings.service.host,
            "breaker": self.breaker.as_ref().map(|breaker| breaker.state(now).as_str()),
            "ejected_share": self.outlier.ejected_share(),
            "in_flight": self.limit.in_flight(),
            "max_requests": self.limit.limit(),
            "retry_budget": self.budget.balance(now),
            "endpoints": endpoints,
        })
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rebuild(&self, members: &mut Members, now: Instant) {
        let ground = Ground { settings: &self.settings, outlier: &self.outlier, transitions: &self.transitions, now };
        let endpoints = members.build(ground);
        if self.settings.balancing.kind.counts_group() {
            endpoints.iter().for_each(|endpoint| endpoint.live.load.join(&self.in_flight));
        }
        let pickers = Pickers::new(&self.settings, endpoints, members.generation());
        // Kept for a moment: else the last request that looks at it would take a long list apart.
        *self.retired.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.pickers.swap(Arc::new(pickers)));
        self.by_address.store(Arc::default());
    }
}

impl From<Declared> for Health {
    fn from(declared: Declared) -> Self {
        match declared {
            Declared::Healthy => Self::Healthy,
            Declared::Degraded => Self::Degraded,
            Declared::Draining => Self::Draining,
            Declared::Unhealthy => Self::Unhealthy,
        }
    }
}

fn endpoint_status(endpoint: &Endpoint, now: Instant) -> Value {
    let live = &endpoint.live;
    json!({
        "address": &*endpoint.name,
        "weight": endpoint.weight,
        "priority": endpoint.written.priority,
        "tls": endpoint.tls.as_str(),
        "locality": format!("{:?}", endpoint.proximity).to_lowercase(),
        "in_flight": live.load.in_flight(),
        "breaker": live.breaker.state(now).as_str(),
        "ejections": live.outlier.ejections(),
        "health": endpoint.health(now).as_str(),
        "ejected": live.outlier.is_ejected(),
        "connections": live.pool.size(),
        "open_connections": live.pool.open(),
        "waiting_for_connection": live.pool.waiting(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_request_that_finds_no_endpoint_does_not_wait_for_a_list_that_is_being_put_in_force() {
        let mesh =
            crate::Mesh::from_yaml("version: 1\nclusters: [{ name: a, dns: { name: a.example, port: 80 } }]", "a.yaml");
        let cluster = Arc::clone(&mesh.unwrap().core().snapshot.load().clusters["a"]);
        cluster.source_failed(&"SERVFAIL".into());
        let (told, refused) = mpsc::channel();
        let asked = Arc::clone(&cluster);
        let held = cluster.members();
        std::thread::spawn(move || {
            let wanted = Wanted { now: Instant::now(), tried: &[], hash: None, subset: None, last_wait: None };
            let error = asked.pick(wanted, &mut fastrand::Rng::new()).err();
            told.send((asked.is_resolving(), error.map(|error| error.to_string())))
        });
        let (is_resolving, error) =
            refused.recv_timeout(std::time::Duration::from_secs(30)).expect("it waited for the list");
        drop(held);
        assert!(!is_resolving && error.is_some_and(|error| error.contains("SERVFAIL")));
    }
}
