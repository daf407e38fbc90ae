//! A member of a cluster: an address and what we have learned of it.
//!
//! Decides: nothing. An [`Endpoint`] is what a document says of an address; [`Live`] is what we have
//! learned of it, which outlives the document.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::cluster::health::{Health, HealthState};
use crate::cluster::load_weight::{LoadWeight, ReportRule};
use crate::cluster::locality::{Locality, Proximity};
use crate::cluster::outlier::OutlierState;
use crate::cluster::picker::Candidate;
use crate::cluster::slow_start::Warmth;
use crate::config::cluster::{Endpoint as Written, TlsMode};
use crate::endpoint::address::Address;
use crate::endpoint::load::Load;
use crate::endpoint::pool::Pool;
use crate::policy::circuit_breaker::{BreakerConfig, CircuitBreaker};
use crate::telemetry::Peer;

/// An endpoint of one cluster.
pub struct Endpoint {
    /// How logs and metrics call it: the address as written.
    pub name: Arc<str>,
    /// Where it is.
    pub address: Address,
    /// What a hash knows it by, if not by its address.
    pub hash_key: Option<Arc<str>>,
    /// Its share among its peers.
    pub weight: u32,
    /// How near it is to us.
    pub proximity: Proximity,
    /// Where it is, for weights of localities.
    pub locality: Locality,
    /// How it is reached.
    pub tls: TlsMode,
    /// What it has to prove to be, as a server of the web; `None` there: it has no name, and is not reached.
    pub server_name: Option<Arc<ServerName<'static>>>,
    /// How it is, as its operator declares.
    pub declared: Health,
    /// Whether its cluster has a health check.
    pub is_checked: bool,
    /// The workload behind it, as far as the document says.
    pub workload: Arc<Peer>,
    /// All a document, or another source, says of it.
    pub written: Arc<Written>,
    /// What we have learned of it.
    pub live: Arc<Live>,
}

/// Live state of an address, carried over from document to document.
pub struct Live {
    /// Requests in flight, response times.
    pub load: Arc<Load>,
    /// Its error breaker.
    pub breaker: Arc<CircuitBreaker>,
    /// Its standing with outlier detection.
    pub outlier: Arc<OutlierState>,
    /// What was said of it: by a health check, and by itself.
    pub health: Arc<HealthState>,
    /// Its connections.
    pub pool: Arc<Pool>,
    /// Since when it is in use.
    pub warmth: Arc<Warmth>,
    /// What it reports of its own load.
    pub weight: Arc<LoadWeight>,
    /// Where it stands in the list now.
    pub place: ListPlace,
}

/// Where a member stood in the list that was built last. A hint: whoever uses it looks.
#[derive(Debug, Default)]
pub struct ListPlace(AtomicUsize);

impl ListPlace {
    pub(super) fn set(&self, index: usize) {
        self.0.store(index, Ordering::Relaxed);
    }

    pub(super) fn hint(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Live {
    /// The same endpoint with a breaker of other rules.
    pub(super) fn under(&self, config: BreakerConfig, now: Instant) -> Self {
        Self {
            load: Arc::clone(&self.load),
            breaker: self.breaker.under(config, now),
            outlier: Arc::clone(&self.outlier),
            health: Arc::clone(&self.health),
            pool: Arc::clone(&self.pool),
            warmth: Arc::clone(&self.warmth),
            weight: Arc::clone(&self.weight),
            place: ListPlace::default(),
        }
    }
}

impl Endpoint {
    /// How it is: the worst of what its operator, the health check and the endpoint itself say. Ejections
    /// and breakers are not part of it.
    pub fn health(&self, now: Instant) -> Health {
        self.declared.max(self.live.health.health(self.is_checked, now))
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

    fn is_degraded(&self, now: Instant) -> bool {
        self.health(now) == Health::Degraded
    }

    fn is_fit(&self, now: Instant) -> bool {
        self.health(now) == Health::Healthy && !self.live.outlier.is_ejected() && !self.live.breaker.is_open(now)
    }

    fn is_leaving(&self, now: Instant) -> bool {
        self.health(now) == Health::Draining && !self.live.breaker.is_open(now)
    }

    fn priority(&self) -> u32 {
        self.written.priority
    }

    fn locality(&self) -> Option<&Locality> {
        Some(&self.locality)
    }

    fn age(&self, now: Instant) -> Duration {
        self.live.warmth.age(now)
    }

    fn reported_weight(&self, rule: &ReportRule, now: Instant) -> Option<f64> {
        self.live.weight.weight(rule, now)
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
