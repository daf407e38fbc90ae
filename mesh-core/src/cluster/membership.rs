//! Who belongs to a cluster now, and what is kept of a member when the list changes.
//!
//! Decides: which endpoints a list of addresses, some of them host names, amounts to, and which of
//! them are new, the same, or gone. Never: resolves a name, picks, or waits.
//! Invariant: an address that stays keeps its load, breaker, standing and connections; a member that
//! did not change at all stays the same value, so that a change of one in 100 000 builds one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::cluster::group::Settings;
use crate::cluster::locality::Proximity;
use crate::cluster::member::{Endpoint, Live};
use crate::cluster::outlier::OutlierDetector;
use crate::config::cluster::{Endpoint as Written, Locality, TlsMode};
use crate::endpoint::load::Load;
use crate::endpoint::pool::Pool;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::telemetry::Peer;

/// The members of a cluster.
#[derive(Default)]
pub(super) struct Members {
    written: Vec<Arc<Written>>,
    /// Those of them that are host names.
    hosts: Vec<Arc<Written>>,
    /// Addresses of host names, as last resolved.
    names: HashMap<Arc<str>, Vec<SocketAddr>>,
    known: HashMap<Key, Known>,
    generation: u64,
    /// Whether the source has yet to speak for the first time.
    is_awaited: bool,
    /// Why there are no endpoints, or fewer than there could be.
    trouble: Option<Arc<str>>,
}

/// What a host name resolves to, or why it does not.
pub type Resolved = Result<Vec<SocketAddr>, Arc<str>>;

/// What a member is made with.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    /// Of the cluster.
    pub settings: &'a Settings,
    /// Where members are judged.
    pub outlier: &'a OutlierDetector,
    /// The time.
    pub now: Instant,
}

/// Two ways to one address are two members: their connections must not be mixed up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    is_mutual: bool,
}

/// What is kept of an address.
struct Known {
    live: Arc<Live>,
    /// The member as last built; `None` until it was, under the settings of this cluster.
    endpoint: Option<Arc<Endpoint>>,
    /// The last list that named it.
    generation: u64,
}

impl Members {
    /// The members a changed cluster starts from. Without `keeps_live`, nothing learned still holds.
    pub(super) fn carried(&self, keeps_live: bool) -> Self {
        let known = self.known.iter().filter(|_| keeps_live);
        let known =
            known.map(|(key, known)| (*key, Known { live: Arc::clone(&known.live), endpoint: None, generation: 0 }));
        Self { names: self.names.clone(), known: known.collect(), ..Self::default() }
    }

    /// The same, waiting for a source to speak.
    pub(super) fn awaiting(mut self, is_awaited: bool) -> Self {
        self.is_awaited = is_awaited;
        self
    }

    /// The list now; `false` if it was that before.
    pub(super) fn replace(&mut self, written: Vec<Arc<Written>>) -> bool {
        // Arcs first: a source that keeps its own list hands out most of it again.
        let is_same = |(a, b): (&Arc<Written>, &Arc<Written>)| Arc::ptr_eq(a, b) || a == b;
        (self.is_awaited, self.trouble) = (false, None);
        if self.generation > 0 && self.written.len() == written.len() && self.written.iter().zip(&written).all(is_same)
        {
            return false;
        }
        self.hosts = written.iter().filter(|written| written.address.socket_addr().is_none()).cloned().collect();
        self.written = written;
        true
    }

    /// What a host name among the endpoints resolves to now; `false` if that changes nothing.
    pub(super) fn name(&mut self, host: &Arc<str>, found: Resolved) -> bool {
        match found {
            Ok(addresses) if self.names.get(host) != Some(&addresses) => {
                self.names.insert(Arc::clone(host), addresses);
                true
            }
            Ok(_) => false,
            Err(reason) => {
                self.trouble = Some(reason);
                self.names.entry(Arc::clone(host)).or_default();
                false
            }
        }
    }

    /// The source has nothing that can be used.
    pub(super) fn source_failed(&mut self, reason: &Arc<str>) {
        self.is_awaited = false;
        self.trouble = Some(Arc::clone(reason));
    }

    /// Why there are no endpoints, if there are none.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.clone()
    }

    /// Closes what those that come after did not take over.
    pub(super) fn leave_to(&self, others: &Self) {
        for (key, known) in &self.known {
            let is_shared = others.known.get(key).is_some_and(|other| Arc::ptr_eq(&other.live, &known.live));
            if !is_shared {
                known.live.pool.close();
            }
        }
    }

    /// The endpoints as written.
    pub(super) fn written(&self) -> &[Arc<Written>] {
        &self.written
    }

    /// Those that are host names, resolved or not.
    pub(super) fn hosts(&self) -> &[Arc<Written>] {
        &self.hosts
    }

    /// Whether the source has yet to speak, or a host name to be resolved, for the first time.
    pub(super) fn is_resolving(&self) -> bool {
        self.is_awaited || self.hosts.iter().any(|host| !self.names.contains_key(host.address.as_str()))
    }

    /// How often the list was built.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The members now. Those that are no longer named leave, and their connections end once idle.
    pub(super) fn build(&mut self, ground: Ground<'_>) -> Vec<Arc<Endpoint>> {
        self.generation += 1;
        let mut endpoints = Vec::with_capacity(self.written.len());
        let Self { written, names, known, generation, .. } = self;
        for written in written.iter() {
            let mut add = |address| endpoints.push(member(known, (written, address), *generation, ground));
            match written.address.socket_addr() {
                Some(address) => add(address),
                None => names.get(written.address.as_str()).into_iter().flatten().copied().for_each(add),
            }
        }
        known.retain(|key, known| {
            let stays = known.generation == *generation;
            if !stays {
                ground.outlier.remove(key.number());
                known.live.pool.close();
            }
            stays
        });
        endpoints
    }
}

impl Key {
    /// Outlier detection knows endpoints by number.
    fn number(self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}

fn member(
    known: &mut HashMap<Key, Known>,
    (written, address): (&Arc<Written>, SocketAddr),
    generation: u64,
    ground: Ground<'_>,
) -> Arc<Endpoint> {
    let is_mutual = written.tls.map_or(ground.settings.is_mutual, |mode| mode == TlsMode::Mutual);
    let key = Key { address, is_mutual };
    let kept =
        known.entry(key).or_insert_with(|| Known { live: Arc::new(fresh(key, ground)), endpoint: None, generation });
    kept.generation = generation;
    if let Some(same) =
        kept.endpoint.as_ref().filter(|same| Arc::ptr_eq(&same.written, written) || same.written == *written)
    {
        return Arc::clone(same);
    }
    let made = Arc::new(endpoint(written, address, (ground.settings, is_mutual, Arc::clone(&kept.live))));
    kept.endpoint = Some(Arc::clone(&made));
    made
}

fn fresh(key: Key, ground: Ground<'_>) -> Live {
    Live {
        load: Arc::new(Load::new(ground.now)),
        breaker: CircuitBreaker::new(ground.settings.breaker, ground.now),
        outlier: ground.outlier.add(key.number()),
        pool: Pool::default(),
    }
}

fn endpoint(written: &Arc<Written>, address: SocketAddr, of: (&Settings, bool, Arc<Live>)) -> Endpoint {
    let (settings, is_mutual, live) = of;
    let name = written.address.as_str();
    let name = if written.address.socket_addr().is_some() { name.into() } else { address.to_string().into() };
    Endpoint {
        hash_key: hash_key(written, settings),
        name,
        address,
        weight: written.weight.0,
        proximity: proximity(settings.locality.as_ref(), written.locality.as_ref()),
        is_mutual,
        workload: workload(written, settings),
        written: Arc::clone(written),
        live,
    }
}

fn hash_key(written: &Written, settings: &Settings) -> Option<Arc<str>> {
    let own = written.hash_key.as_deref();
    own.or_else(|| settings.hashes_by_host.then(|| written.address.host())).map(Arc::from)
}

fn proximity(ours: Option<&Locality>, theirs: Option<&Locality>) -> Proximity {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == theirs => Proximity::Zone,
        (Some(ours), Some(theirs)) if ours.region == theirs.region => Proximity::Region,
        _ => Proximity::Elsewhere,
    }
}

/// What metrics call the workload behind an endpoint until it tells us itself. One that says nothing
/// of itself shares its cluster's.
fn workload(written: &Written, settings: &Settings) -> Arc<Peer> {
    let Some(said) = &written.workload else { return Arc::clone(&settings.workload) };
    let mut peer = Peer::clone(&settings.workload);
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
    Arc::new(peer)
}
