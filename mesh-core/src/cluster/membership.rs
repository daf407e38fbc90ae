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
use crate::endpoint::address::Address;
use crate::endpoint::load::Load;
use crate::endpoint::pool::Pool;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::telemetry::Peer;

/// The members of a cluster.
#[derive(Default)]
pub(super) struct Members {
    written: Vec<Arc<Written>>,
    /// Addresses of host names, as last resolved.
    names: HashMap<String, Vec<SocketAddr>>,
    known: HashMap<Key, Known>,
    generation: u64,
}

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
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    address: Address,
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
        let known = known
            .map(|(key, known)| (key.clone(), Known { live: Arc::clone(&known.live), endpoint: None, generation: 0 }));
        Self { written: Vec::new(), names: self.names.clone(), known: known.collect(), generation: 0 }
    }

    /// The list now; `false` if it was that before.
    pub(super) fn replace(&mut self, written: Vec<Arc<Written>>) -> bool {
        // Arcs first: a source that keeps its own list hands out most of it again.
        let is_same = |(a, b): (&Arc<Written>, &Arc<Written>)| Arc::ptr_eq(a, b) || a == b;
        if self.generation > 0 && self.written.len() == written.len() && self.written.iter().zip(&written).all(is_same)
        {
            return false;
        }
        self.written = written;
        true
    }

    /// What a host name among the endpoints resolves to now; `false` if it was that before.
    pub(super) fn name(&mut self, host: &str, addresses: Vec<SocketAddr>) -> bool {
        if self.names.get(host) == Some(&addresses) {
            return false;
        }
        self.names.insert(host.to_owned(), addresses);
        true
    }

    /// The endpoints as written.
    pub(super) fn written(&self) -> &[Arc<Written>] {
        &self.written
    }

    /// Host names among the endpoints, with their port, whether resolved or not.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<Written>> {
        self.written.iter().filter(|written| written.address.is_host_name())
    }

    /// Whether a host name has yet to be resolved for the first time.
    pub(super) fn is_resolving(&self) -> bool {
        self.hosts().any(|written| !self.names.contains_key(written.address.as_str()))
    }

    /// How often the list was built.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The members now. Those that are no longer named leave, and their connections end once idle.
    pub(super) fn build(&mut self, ground: Ground<'_>) -> Vec<Arc<Endpoint>> {
        self.generation += 1;
        let mut endpoints = Vec::with_capacity(self.written.len());
        let Self { written, names, known, generation } = self;
        for written in written.iter() {
            let mut add = |address| endpoints.push(member(known, (written, address), *generation, ground));
            match (written.address.unix_path(), written.address.socket_addr()) {
                (Some(path), _) => add(Address::Unix(path.into())),
                (None, Some(address)) => add(with_others(address, written)),
                (None, None) => {
                    let known = names.get(written.address.as_str()).into_iter().flatten();
                    known.for_each(|address| add(Address::from(*address)));
                }
            }
        }
        known.retain(|key, known| {
            let stays = known.generation == *generation;
            if !stays {
                ground.outlier.remove(key.number());
            }
            stays
        });
        endpoints
    }
}

impl Key {
    /// Outlier detection knows endpoints by number.
    fn number(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(self, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}

fn member(
    known: &mut HashMap<Key, Known>,
    (written, address): (&Arc<Written>, Address),
    generation: u64,
    ground: Ground<'_>,
) -> Arc<Endpoint> {
    let is_mutual = written.tls.map_or(ground.settings.is_mutual, |mode| mode == TlsMode::Mutual);
    let key = Key { address: address.clone(), is_mutual };
    let number = key.number();
    let kept =
        known.entry(key).or_insert_with(|| Known { live: Arc::new(fresh(number, ground)), endpoint: None, generation });
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

/// All ways to an endpoint whose first one is an IP address.
fn with_others(address: SocketAddr, written: &Written) -> Address {
    let others = written.additional_addresses.iter().filter_map(|other| other.socket_addr());
    let all: Vec<_> = std::iter::once(address).chain(others).collect();
    Address::any_of(&all).unwrap_or(Address::Socket(address))
}

fn fresh(number: u64, ground: Ground<'_>) -> Live {
    Live {
        load: Arc::new(Load::new(ground.now)),
        breaker: CircuitBreaker::new(ground.settings.breaker, ground.now),
        outlier: ground.outlier.add(number),
        pool: Pool::default(),
    }
}

fn endpoint(written: &Arc<Written>, address: Address, of: (&Settings, bool, Arc<Live>)) -> Endpoint {
    let (settings, is_mutual, live) = of;
    let name = written.address.as_str();
    let name = if written.address.is_host_name() { address.to_string().into() } else { name.into() };
    Endpoint {
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
