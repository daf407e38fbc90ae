//! A cluster: a named group of endpoints with one policy.
//!
//! Decides: which endpoints exist now and what is kept of them from one document to the next. Never:
//! touches the request path when endpoints change; it builds a new picker and swaps it.
//! Invariant: an address that stays keeps its load, breaker, standing and connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::cluster::locality::Proximity;
use crate::cluster::member::{Endpoint, Live};
use crate::cluster::outlier::{OutlierConfig, OutlierDetector};
use crate::cluster::picker::{Asked, BalancerKind, Candidate, NoEndpoint, Picker};
use crate::cluster::session::ByAddress;
use crate::cluster::taken::Taken;
use crate::config::cluster::{Endpoint as Written, Locality, TlsMode};
use crate::endpoint::connect::{Moment, Transport};
use crate::endpoint::load::Load;
use crate::endpoint::pool::{Pool, PoolLimits};
use crate::error::{Error, ErrorKind, Place};
use crate::policy::Invalid;
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::circuit_breaker::{BreakerConfig, CircuitBreaker};
use crate::policy::concurrency::ConcurrencyLimit;
use crate::policy::verdict::Verdict;
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
    picker: ArcSwap<Picker<Endpoint>>,
    pub(super) by_address: ArcSwap<ByAddress>,
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
    /// What endpoints are known by to a hash: their host instead of their address.
    pub hashes_by_host: bool,
    /// What binds requests to endpoints where their rule does not say.
    pub affinity: Affinity,
    /// Of each endpoint.
    pub breaker: BreakerConfig,
    /// Of the group.
    pub outlier: OutlierConfig,
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
    pub fn new(settings: Settings, previous: Option<&Self>) -> Result<Self, Invalid> {
        let same =
            |same: fn(&Settings, &Settings) -> bool| previous.filter(|previous| same(&previous.settings, &settings));
        let budget = same(|a, b| a.budget == b.budget)
            .map_or_else(|| Arc::new(Budget::new(settings.budget)), |previous| Arc::clone(&previous.budget));
        let outlier = same(|a, b| a.outlier == b.outlier).map_or_else(
            || OutlierDetector::new(settings.outlier).map(Arc::new),
            |previous| Ok(Arc::clone(&previous.outlier)),
        )?;
        let limit = previous
            .map_or_else(|| ConcurrencyLimit::new(settings.max_requests), |previous| Arc::clone(&previous.limit));
        limit.resize(settings.max_requests);
        let keeps_live =
            same(|a, b| (a.breaker, a.outlier, &a.plain, &a.mutual) == (b.breaker, b.outlier, &b.plain, &b.mutual));
        let members = previous.map(|previous| {
            let members = previous.members();
            let live = if keeps_live.is_some() { members.live.clone() } else { HashMap::new() };
            Members { written: Vec::new(), names: members.names.clone(), live, generation: 0 }
        });
        Ok(Self {
            name: Arc::clone(&settings.name),
            picker: ArcSwap::from_pointee(Picker::new(settings.balancer, Vec::new(), 0)),
            by_address: ArcSwap::default(),
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

    /// Open connections to all endpoints.
    pub fn connections(&self) -> usize {
        self.picker.load().endpoints().iter().map(|endpoint| endpoint.live.pool.size()).sum()
    }

    /// Whether so few endpoints are available that the balancer ignores it: fewer than half.
    pub fn is_panicking(&self, now: Instant) -> bool {
        let picker = self.picker.load();
        let endpoints = picker.endpoints();
        endpoints.iter().filter(|endpoint| endpoint.is_available(now)).count() * 2 < endpoints.len()
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
        let picker = self.picker.load();
        let mut skip: Vec<usize> = Vec::new();
        for endpoint in tried {
            skip.extend(picker.endpoints().iter().position(|other| Arc::ptr_eq(&other.live, &endpoint.live)));
        }
        let mut soonest = None;
        // A breaker may close its door between the look and the knock: then knock elsewhere.
        for _ in 0..=picker.endpoints().len() {
            let picked =
                picker.pick(Asked { now, tried: &skip, hash }, rng).map_err(|reason| self.no_endpoint(reason))?;
            match picked.endpoint.live.breaker.admit(now) {
                Ok(permit) => return Ok(Taken::new(self, picked.endpoint, permit, now)),
                Err(refused) => soonest = soonest.into_iter().chain(refused.retry_after).min(),
            }
            if skip.contains(&picked.index) {
                break;
            }
            skip.push(picked.index);
        }
        let place = Place { cluster: Some(self.name.to_string()), retry_after: soonest, ..Place::default() };
        Err(Error::new(ErrorKind::CircuitOpen, "every endpoint's circuit breaker is open").with_place(place))
    }

    /// Tells outlier detection what an attempt ended in.
    pub(super) fn judge(&self, endpoint: &Endpoint, verdict: Verdict, now: Instant, rng: &mut fastrand::Rng) {
        if let Some(detection) = self.outlier.record(&endpoint.live.outlier, verdict, now, rng) {
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
            let kept = members.live.get(&key).cloned().unwrap_or_else(|| Arc::new(self.fresh(&key, now)));
            live.insert(key, Arc::clone(&kept));
            Arc::new(endpoint(&written, address, (&self.settings, is_mutual, kept)))
        });
        let endpoints: Vec<_> = endpoints.collect();
        members.generation += 1;
        for gone in members.live.keys().filter(|key| !live.contains_key(*key)) {
            self.outlier.remove(outlier_key(gone));
        }
        self.picker.store(Arc::new(Picker::new(self.settings.balancer, endpoints, members.generation)));
        self.by_address.store(Arc::default());
        members.live = live;
    }

    fn fresh(&self, key: &str, now: Instant) -> Live {
        Live {
            load: Arc::new(Load::new(now)),
            breaker: CircuitBreaker::new(self.settings.breaker, now),
            outlier: self.outlier.add(outlier_key(key)),
            pool: Pool::default(),
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
        !self.live.outlier.is_ejected() && !self.live.breaker.is_open(now)
    }

    fn is_local(&self) -> bool {
        self.proximity == Proximity::Zone
    }

    fn proximity(&self) -> Proximity {
        self.proximity
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
        hash_key: hash_key(written, address, settings.hashes_by_host),
        name,
        address,
        weight: written.weight.0,
        proximity: proximity(settings.locality.as_ref(), written.locality.as_ref()),
        is_mutual,
        workload: Arc::new(workload(written, settings)),
        live,
    }
}

fn hash_key(written: &Written, address: SocketAddr, by_host: bool) -> Arc<str> {
    match &written.hash_key {
        Some(key) => key.as_str().into(),
        None if by_host => written.address.host().into(),
        None => address.to_string().into(),
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
        "breaker": format!("{:?}", live.breaker.state(now)).to_lowercase(),
        "ejected": live.outlier.is_ejected(),
        "connections": live.pool.size(),
    })
}
