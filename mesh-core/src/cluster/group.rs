//! A cluster: a named group of endpoints with one policy.
//!
//! Decides: what is kept of a cluster from one document to the next. Never: touches the request path
//! when endpoints change; it builds a new picker and swaps it.
//! Invariant: what a changed cluster has learned goes on to the next, as far as it still holds.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::cluster::locality::Proximity;
use crate::cluster::member::Endpoint;
use crate::cluster::membership::{Ground, Members, Resolved};
use crate::cluster::outlier::{OutlierConfig, OutlierDetector};
use crate::cluster::picker::{Asked, BalancerKind, Candidate, NoEndpoint, Picker};
use crate::cluster::session::ByAddress;
use crate::cluster::taken::Taken;
use crate::config::cluster::{Endpoint as Written, Locality};
use crate::config::dns::Dns;
use crate::endpoint::connect::{Moment, Transport};
use crate::endpoint::load::Load;
use crate::endpoint::pool::PoolLimits;
use crate::error::{Error, ErrorKind, Place};
use crate::policy::Invalid;
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::circuit_breaker::BreakerConfig;
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
    /// Requests at all endpoints, those that left the cluster included; for balancers that ask.
    in_flight: Arc<AtomicU32>,
    /// A source spoke.
    heard: tokio::sync::Notify,
    doubted: AtomicBool,
}

/// What a document says of a cluster, defaults filled in. Equal settings are the same cluster.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// What metrics call it.
    pub service: Arc<DestinationService>,
    /// What metrics call the workload behind an endpoint that says nothing of itself.
    pub workload: Arc<Peer>,
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
    Inline(Vec<Arc<Written>>),
    /// A file of their own, watched.
    File(PathBuf),
    /// Name servers.
    Dns(Arc<Dns>),
    /// A source that the application registered by this name.
    Registered(Arc<str>),
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
        let members = previous.map(|previous| previous.members().carried(keeps_live.is_some()));
        let members = members.unwrap_or_default().awaiting(settings.source.speaks_later());
        Ok(Self {
            name: Arc::clone(&settings.name),
            picker: ArcSwap::from_pointee(Picker::new(settings.balancer, Vec::new(), 0)),
            by_address: ArcSwap::default(),
            in_flight: previous.map(|previous| Arc::clone(&previous.in_flight)).unwrap_or_default(),
            settings,
            budget,
            limit,
            outlier,
            members: Mutex::new(members),
            heard: tokio::sync::Notify::new(),
            doubted: AtomicBool::new(false),
        })
    }

    /// The endpoints a document, or another source, names now. Only a change has an effect.
    pub fn set_endpoints(&self, written: Vec<Arc<Written>>, now: Instant) {
        let mut members = self.members();
        if members.replace(written) {
            self.rebuild(&mut members, now);
        }
        drop(members);
        self.heard.notify_waiters();
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
        drop(members);
        self.heard.notify_waiters();
    }

    /// The source has nothing that can be used: requests need not wait for it. What is in force stays.
    pub fn source_failed(&self, reason: &Arc<str>) {
        self.members().source_failed(reason);
        self.heard.notify_waiters();
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
        match successor {
            Some(successor) if Arc::ptr_eq(self, successor) => {}
            Some(successor) => self.members().leave_to(&successor.members()),
            None => self.members().leave_to(&Members::default()),
        }
    }

    /// The endpoints as written.
    pub fn written(&self) -> Vec<Arc<Written>> {
        self.members().written().to_vec()
    }

    /// Those of the endpoints that are host names.
    pub fn hosts(&self) -> Vec<Arc<Written>> {
        self.members().hosts().to_vec()
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

    /// Whether there is no endpoint because a source has yet to speak, or a name to be resolved, for the
    /// first time.
    pub fn is_resolving(&self) -> bool {
        self.members().is_resolving()
    }

    /// Completes when a name has been resolved, or a source has spoken.
    pub async fn resolved(&self) {
        let heard = self.heard.notified();
        // Said between the look and the wait: then there is nothing to wait for.
        if self.is_resolving() {
            heard.await;
        }
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
        for endpoint in self.picker.load_full().endpoints() {
            endpoint.live.pool.sweep(moment, self.settings.pool);
        }
    }

    fn no_endpoint(&self, reason: NoEndpoint) -> Error {
        let trouble = self.members().trouble();
        let message = match (reason, trouble) {
            (NoEndpoint::Empty, Some(trouble)) => format!("the cluster has no endpoint: {trouble}"),
            (NoEndpoint::Empty, None) => "the cluster has no endpoint".to_owned(),
            (NoEndpoint::AllUnavailable, _) => "no endpoint is available".to_owned(),
            (NoEndpoint::Panicking, _) => "too few endpoints are available, and the cluster fails on panic".to_owned(),
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
        let endpoints = members.build(Ground { settings: &self.settings, outlier: &self.outlier, now });
        if self.settings.balancer.counts_group() {
            endpoints.iter().for_each(|endpoint| endpoint.live.load.join(&self.in_flight));
        }
        self.picker.store(Arc::new(Picker::new(self.settings.balancer, endpoints, members.generation())));
        self.by_address.store(Arc::default());
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

    fn hash_key(&self) -> Option<Cow<'_, str>> {
        let own = self.hash_key.as_deref().map(Cow::Borrowed);
        Some(own.unwrap_or_else(|| self.address.to_string().into()))
    }

    fn is_local(&self) -> bool {
        self.proximity == Proximity::Zone
    }

    fn proximity(&self) -> Proximity {
        self.proximity
    }
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
