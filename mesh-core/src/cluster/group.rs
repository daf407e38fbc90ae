//! A cluster: a named group of endpoints with one policy.
//!
//! Decides: which endpoints exist now and what is kept of them from one document to the next. Never:
//! touches the request path when endpoints change; it builds a new picker and swaps it.
//! Invariant: an address that stays keeps its load, breaker, standing and connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::cluster::health::{Health, HealthCheck, HealthState};
use crate::cluster::locality::Proximity;
use crate::cluster::member::{Endpoint, Live};
use crate::cluster::outlier::{Observed, OutlierConfig, OutlierDetector};
use crate::cluster::picker::{Asked, BalancerKind, Candidate, NoEndpoint, Picker};
use crate::cluster::taken::Taken;
use crate::config::cluster::{Declared, Endpoint as Written, Locality, TlsMode};
use crate::endpoint::connect::{Moment, Transport};
use crate::endpoint::load::Load;
use crate::endpoint::pool::PoolLimits;
use crate::error::{Error, ErrorKind, Place};
use crate::policy::Invalid;
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::circuit_breaker::{BreakerConfig, CircuitBreaker, Refused, Transitions};
use crate::policy::concurrency::ConcurrencyLimit;
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
    /// Of the cluster as a whole.
    pub breaker: Option<Arc<CircuitBreaker>>,
    /// Transitions of all its endpoints' breakers.
    pub transitions: Arc<Transitions>,
    /// Whether a request ever asked for an endpoint: decides how often an idle cluster is probed.
    is_used: Arc<AtomicBool>,
    picker: ArcSwap<Picker<Endpoint>>,
    members: Mutex<Members>,
    resolved: tokio::sync::Notify,
}

/// What a document says of a cluster, defaults filled in. Equal settings are the same cluster.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// What metrics call it.
    pub service: Arc<DestinationService>,
    /// Where its endpoints come from.
    pub source: Source,
    /// Whether an endpoint speaks mutual TLS unless it says otherwise.
    pub is_mutual: bool,
    /// How mutual TLS endpoints are reached; `None` without an identity of our own.
    pub mutual: Option<Transport>,
    /// How plaintext endpoints are reached.
    pub plain: Transport,
    /// How plaintext endpoints are reached by gRPC.
    pub plain_grpc: Transport,
    /// Limits of each endpoint's pool.
    pub pool: PoolLimits,
    /// How an endpoint is chosen.
    pub balancer: BalancerKind,
    /// Of each endpoint.
    pub breaker: BreakerConfig,
    /// Of the cluster as a whole, if it has one.
    pub cluster_breaker: Option<BreakerConfig>,
    /// Of the group.
    pub outlier: OutlierConfig,
    /// How endpoints are probed, if they are.
    pub health_check: Option<HealthCheck>,
    /// Requests in flight at most.
    pub max_requests: u32,
    /// Retries at most.
    pub budget: BudgetConfig,
    /// Where we are.
    pub locality: Option<Locality>,
}

/// Where endpoints come from.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// The document.
    Inline(Vec<Written>),
    /// A file of their own, watched.
    File(PathBuf),
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
}

#[derive(Default)]
struct Members {
    written: Vec<Written>,
    /// Addresses of host names, as last resolved.
    names: HashMap<String, Vec<SocketAddr>>,
    live: HashMap<String, Arc<Live>>,
    generation: u64,
}

impl Cluster {
    /// A cluster without endpoints yet; what fits is carried over from `previous`.
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
            .map_or_else(|| ConcurrencyLimit::new(settings.max_requests), |previous| Arc::clone(&previous.limit));
        limit.resize(settings.max_requests);
        let keeps_live = same(|a, b| (&a.plain, &a.mutual) == (&b.plain, &b.mutual));
        let members = previous.map(|previous| {
            let members = previous.members();
            let live = if keeps_live.is_some() { members.live.clone() } else { HashMap::new() };
            Members { written: Vec::new(), names: members.names.clone(), live, generation: 0 }
        });
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
            is_used: previous.map(|previous| Arc::clone(&previous.is_used)).unwrap_or_default(),
            picker: ArcSwap::from_pointee(Picker::new(settings.balancer, Vec::new(), 0)),
            settings,
            budget,
            limit,
            outlier,
            members: Mutex::new(members.unwrap_or_default()),
            resolved: tokio::sync::Notify::new(),
        })
    }

    /// The endpoints a document, or an endpoints file, names now.
    pub fn set_endpoints(&self, written: Vec<Written>, now: Instant) {
        let mut members = self.members();
        if members.written != written || members.generation == 0 {
            members.written = written;
            self.rebuild(&mut members, now);
        }
    }

    /// What the host names among the endpoints resolve to now.
    pub fn set_addresses(&self, host: &str, addresses: Vec<SocketAddr>, now: Instant) {
        let mut members = self.members();
        if members.names.get(host) != Some(&addresses) {
            members.names.insert(host.to_owned(), addresses);
            self.rebuild(&mut members, now);
        }
        self.resolved.notify_waiters();
    }

    /// The endpoints as written.
    pub fn written(&self) -> Vec<Written> {
        self.members().written.clone()
    }

    /// Endpoints in force.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.picker.load().endpoints().to_vec()
    }

    /// Looks at every endpoint in force, without a copy of the list.
    pub fn each_endpoint(&self, look: impl FnMut(&Arc<Endpoint>)) {
        self.picker.load().endpoints().iter().for_each(look);
    }

    /// Open connections to all endpoints.
    pub fn connections(&self) -> usize {
        self.picker.load().endpoints().iter().map(|endpoint| endpoint.live.pool.size()).sum()
    }

    /// Whether so few endpoints are available that the balancer ignores it: fewer than half.
    pub fn is_panicking(&self, now: Instant) -> bool {
        let picker = self.picker.load();
        let endpoints = picker.endpoints();
        // Who is draining is neither missing nor there.
        let staying = || endpoints.iter().filter(|endpoint| endpoint.health(now) != Health::Draining);
        staying().filter(|endpoint| endpoint.is_available(now)).count() * 2 < staying().count()
    }

    /// Whether a host name has yet to be resolved for the first time.
    pub fn is_resolving(&self) -> bool {
        let members = self.members();
        members.written.iter().any(|endpoint| {
            endpoint.address.socket_addr().is_none() && !members.names.contains_key(endpoint.address.as_str())
        })
    }

    /// Completes when a name has been resolved.
    pub async fn resolved(&self) {
        self.resolved.notified().await;
    }

    /// How this endpoint is reached. gRPC needs HTTP/2, also where a plaintext cluster left it open.
    pub fn transport(&self, endpoint: &Endpoint, is_grpc: bool) -> &Transport {
        let plain = if is_grpc { &self.settings.plain_grpc } else { &self.settings.plain };
        self.settings.mutual.as_ref().filter(|_| endpoint.is_mutual).unwrap_or(plain)
    }

    /// An endpoint for one attempt, other than those already tried if there is one.
    pub fn pick(self: &Arc<Self>, wanted: Wanted<'_>, rng: &mut fastrand::Rng) -> Result<Taken, Error> {
        let Wanted { now, tried, hash } = wanted;
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        let leave = self.breaker.as_ref().map(|breaker| breaker.admit(now)).transpose();
        let mut leave = leave.map_err(|refused| self.broken(refused))?;
        let picker = self.picker.load();
        let mut skip: Vec<usize> = Vec::new();
        for endpoint in tried {
            skip.extend(picker.endpoints().iter().position(|other| Arc::ptr_eq(&other.live, &endpoint.live)));
        }
        let (mut soonest, mut reserve) = (None, None);
        // A breaker may close its door between the look and the knock: then knock elsewhere.
        for _ in 0..=picker.endpoints().len() {
            let picked =
                picker.pick(Asked { now, tried: &skip, hash }, rng).map_err(|reason| self.no_endpoint(reason))?;
            let was_skipped = skip.contains(&picked.index);
            // A picker that finds nothing available asks anybody; who is leaving comes last, before the broken.
            if !was_skipped && picked.endpoint.health(now) == Health::Draining {
                skip.push(picked.index);
                reserve.get_or_insert(picked.endpoint);
                continue;
            }
            if reserve.is_some() && !picked.endpoint.is_available(now) {
                break;
            }
            match picked.endpoint.live.breaker.admit(now) {
                Ok(permit) => return Ok(Taken::new(self, picked.endpoint, (permit, leave.take()), now)),
                Err(refused) => soonest = soonest.into_iter().chain(refused.retry_after).min(),
            }
            if was_skipped {
                break;
            }
            skip.push(picked.index);
        }
        if let Some(reserve) = reserve
            && let Ok(permit) = reserve.live.breaker.admit(now)
        {
            return Ok(Taken::new(self, reserve, (permit, leave), now));
        }
        let place = Place { cluster: Some(self.name.to_string()), retry_after: soonest, ..Place::default() };
        Err(Error::new(ErrorKind::CircuitOpen, "every endpoint's circuit breaker is open").with_place(place))
    }

    /// Refuses what the breaker of the cluster would refuse: before anything is waited for, at the cost of two
    /// loads. The permit itself is taken with the endpoint.
    pub fn refuse_if_broken(&self, now: Instant) -> Result<(), Error> {
        let refusal = self.breaker.as_ref().and_then(|breaker| breaker.refusal(now));
        refusal.map_or(Ok(()), |refused| Err(self.broken(refused)))
    }

    fn broken(&self, refused: Refused) -> Error {
        let retry_after = refused.retry_after;
        let place = Place { cluster: Some(self.name.to_string()), retry_after, ..Place::default() };
        Error::new(ErrorKind::CircuitOpen, "the cluster's circuit breaker is open").with_place(place)
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
        if !sweep.returned.is_empty() || !sweep.detections.is_empty() {
            tracing::info!(cluster = %self.name, returned = sweep.returned.len(), detected = sweep.detections.len(), "outlier sweep");
        }
    }

    /// Closes connections that are idle for too long, retired or closed by the peer.
    pub fn close_idle(&self, moment: Moment) {
        for endpoint in self.endpoints() {
            endpoint.live.pool.sweep(moment, self.settings.pool);
        }
    }

    fn no_endpoint(&self, reason: NoEndpoint) -> Error {
        let message = match reason {
            NoEndpoint::Empty => "the cluster has no endpoint",
            NoEndpoint::AllUnavailable => "no endpoint is available",
        };
        let place = Place { cluster: Some(self.name.to_string()), ..Place::default() };
        Error::new(ErrorKind::NoEndpoint, message).with_place(place)
    }

    /// For the admin endpoint.
    pub fn status(&self, now: Instant) -> Value {
        let endpoints = self.endpoints().iter().map(|endpoint| endpoint_status(endpoint, now)).collect::<Vec<_>>();
        json!({
            "service": &*self.settings.service.host,
            "breaker": self.breaker.as_ref().map(|breaker| breaker.state(now).as_str()),
            "ejected_share": self.outlier.ejected_share(),
            "in_flight": self.limit.in_flight(),
            "max_requests": self.limit.max(),
            "retry_budget": self.budget.balance(now),
            "endpoints": endpoints,
        })
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn rebuild(&self, members: &mut Members, now: Instant) {
        let mut endpoints = Vec::new();
        for written in &members.written {
            let name = written.address.as_str();
            let addresses = match written.address.socket_addr() {
                Some(address) => vec![address],
                None => members.names.get(name).cloned().unwrap_or_default(),
            };
            endpoints.extend(addresses.into_iter().map(|address| (written.clone(), address)));
        }
        let mut live = HashMap::new();
        let endpoints = endpoints.into_iter().map(|(written, address)| {
            let is_mutual = written.tls.map_or(self.settings.is_mutual, |mode| mode == TlsMode::Mutual);
            let key = format!("{address} {is_mutual}");
            let is_late = !members.live.is_empty();
            let kept = match members.live.get(&key) {
                Some(live) if *live.breaker.config() == self.settings.breaker => Arc::clone(live),
                Some(live) => Arc::new(live.under(self.settings.breaker, now)),
                None => Arc::new(self.fresh(&key, (is_late, now))),
            };
            live.insert(key, Arc::clone(&kept));
            Arc::new(endpoint(&written, address, (&self.settings, is_mutual, kept)))
        });
        let endpoints: Vec<_> = endpoints.collect();
        members.generation += 1;
        for gone in members.live.keys().filter(|key| !live.contains_key(*key)) {
            self.outlier.remove(outlier_key(gone));
        }
        self.picker.store(Arc::new(Picker::new(self.settings.balancer, endpoints, members.generation)));
        members.live = live;
    }

    fn fresh(&self, key: &str, (is_late, now): (bool, Instant)) -> Live {
        Live {
            health: Arc::new(HealthState::new(is_late, now)),
            load: Arc::new(Load::new(now)),
            breaker: CircuitBreaker::counted(self.settings.breaker, Arc::clone(&self.transitions), now),
            outlier: self.outlier.add(outlier_key(key)),
            pool: Arc::default(),
        }
    }
}

impl Candidate for Endpoint {
    fn load(&self) -> &Load {
        &self.live.load
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn is_available(&self, now: Instant) -> bool {
        self.health(now) <= Health::Degraded && !self.live.outlier.is_ejected() && !self.live.breaker.is_open(now)
    }

    fn is_local(&self) -> bool {
        self.proximity == Proximity::Zone
    }

    fn proximity(&self) -> Proximity {
        self.proximity
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

/// The detector knows endpoints by number.
fn outlier_key(key: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(key, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}

fn endpoint(written: &Written, address: SocketAddr, of: (&Settings, bool, Arc<Live>)) -> Endpoint {
    let (settings, is_mutual, live) = of;
    let name = written.address.as_str();
    let name = if written.address.socket_addr().is_some() { name.into() } else { address.to_string().into() };
    Endpoint {
        name,
        address,
        weight: written.weight.0,
        proximity: proximity(settings.locality.as_ref(), written.locality.as_ref()),
        is_mutual,
        declared: written.health.into(),
        is_checked: settings.health_check.is_some(),
        workload: Arc::new(workload(written, settings)),
        live,
    }
}

fn proximity(ours: Option<&Locality>, theirs: Option<&Locality>) -> Proximity {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == theirs => Proximity::Zone,
        (Some(ours), Some(theirs)) if ours.region == theirs.region => Proximity::Region,
        _ => Proximity::Elsewhere,
    }
}

/// What metrics call the workload behind an endpoint until it tells us itself.
fn workload(written: &Written, settings: &Settings) -> Peer {
    let mut peer = Peer {
        canonical_service: Arc::clone(&settings.service.name),
        namespace: Arc::clone(&settings.service.namespace),
        ..Peer::default()
    };
    let Some(said) = &written.workload else { return peer };
    let set = |field: &mut Arc<str>, value: &Option<String>| {
        if let Some(value) = value {
            *field = value.as_str().into();
        }
    };
    set(&mut peer.workload, &said.name);
    set(&mut peer.namespace, &said.namespace);
    set(&mut peer.app, &said.app);
    set(&mut peer.canonical_service, &said.app);
    set(&mut peer.version, &said.version);
    set(&mut peer.canonical_revision, &said.version);
    set(&mut peer.cluster, &said.cluster);
    peer
}

fn endpoint_status(endpoint: &Endpoint, now: Instant) -> Value {
    let live = &endpoint.live;
    json!({
        "address": &*endpoint.name,
        "weight": endpoint.weight,
        "tls": if endpoint.is_mutual { "mutual" } else { "plaintext" },
        "locality": format!("{:?}", endpoint.proximity).to_lowercase(),
        "in_flight": live.load.in_flight(),
        "breaker": live.breaker.state(now).as_str(),
        "ejections": live.outlier.ejections(),
        "health": endpoint.health(now).as_str(),
        "ejected": live.outlier.is_ejected(),
        "connections": live.pool.size(),
    })
}
