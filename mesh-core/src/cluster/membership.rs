//! Who belongs to a cluster now, and what is kept of a member when the list changes.
//!
//! Decides: which endpoints a list of addresses, some of them host names, amounts to, and which of
//! them are new, the same, or gone. Never: resolves a name, picks, or waits.
//! Invariant: an address that stays keeps its load, breaker, standing and connections; a member that
//! did not change at all stays the same value, so that a change of one in 100 000 builds one.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;

use crate::cluster::group::Settings;
use crate::cluster::health::HealthState;
use crate::cluster::locality::{self, Proximity};
use crate::cluster::member::{Endpoint, ListPlace, Live};
use crate::cluster::outlier::OutlierDetector;
use crate::cluster::slow_start::Warmth;
use crate::config::cluster::{Endpoint as Written, Locality, TlsMode};
use crate::endpoint::address::Address;
use crate::endpoint::load::Load;
use crate::policy::circuit_breaker::{CircuitBreaker, Transitions};
use crate::telemetry::Peer;

/// The members of a cluster.
#[derive(Default)]
pub(super) struct Members {
    written: Vec<Arc<Written>>,
    /// Those of them that are host names.
    hosts: Vec<Arc<Written>>,
    /// The members as last built, in order.
    built: Vec<Arc<Endpoint>>,
    /// Addresses of host names, as last resolved.
    names: HashMap<Arc<str>, Vec<SocketAddr>>,
    known: HashMap<Key, Known, foldhash::fast::RandomState>,
    generation: u64,
    heard: Heard,
    /// Another cluster has its place: nobody tells it anything any more.
    has_left: bool,
}

/// What the source has said so far, besides endpoints.
#[derive(Clone, Default)]
pub(super) struct Heard {
    /// It has yet to speak for the first time.
    is_awaited: bool,
    /// Why there are no endpoints, or fewer than there could be.
    trouble: Option<Arc<str>>,
}

impl Heard {
    /// Nothing yet.
    pub(super) fn nothing(is_awaited: bool) -> Self {
        Self { is_awaited, trouble: None }
    }
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
    /// Where transitions of breakers are counted.
    pub transitions: &'a Arc<Transitions>,
    /// The time.
    pub now: Instant,
}

/// Two ways to one address are two members: their connections must not be mixed up.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    address: Address,
    tls: TlsMode,
    /// Of a server of the web: what has proven one name has not proven another.
    server_name: Option<Arc<ServerName<'static>>>,
}

/// What is kept of an address.
struct Known {
    live: Arc<Live>,
    /// The member as last built under the settings of this cluster.
    endpoint: Option<Arc<Endpoint>>,
    /// How often the list names it; two host names may have one address.
    uses: u32,
}

impl Members {
    /// The members a changed cluster starts from. Without `keeps_live`, nothing learned still holds.
    pub(super) fn carried(&self, keeps_live: bool) -> Self {
        let known = self.known.iter().filter(|_| keeps_live);
        let known =
            known.map(|(key, known)| (key.clone(), Known { live: Arc::clone(&known.live), endpoint: None, uses: 0 }));
        Self { names: self.names.clone(), known: known.collect(), ..Self::default() }
    }

    /// The same, whose source has said this.
    pub(super) fn having(self, heard: Heard) -> Self {
        Self { heard, ..self }
    }

    /// What the source has said; a cluster that it feeds next need not wait for it again.
    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// The list now; `false` if it was that before.
    pub(super) fn replace(&mut self, written: Vec<Arc<Written>>) -> bool {
        // Arcs first: a source that keeps its own list hands out most of it again.
        let is_same = |(a, b): (&Arc<Written>, &Arc<Written>)| Arc::ptr_eq(a, b) || a == b;
        self.heard.is_awaited = false;
        // The first list is what the last document's cluster had, and so is what was in its way.
        if self.generation > 0 {
            self.heard.trouble = None;
        }
        if self.generation > 0 && self.written.len() == written.len() && self.written.iter().zip(&written).all(is_same)
        {
            return false;
        }
        self.hosts = written.iter().filter(|written| written.address.is_host_name()).cloned().collect();
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
                self.heard.trouble = Some(reason);
                self.names.entry(Arc::clone(host)).or_default();
                false
            }
        }
    }

    /// The source has nothing that can be used.
    pub(super) fn source_failed(&mut self, reason: &Arc<str>) {
        self.heard = Heard { is_awaited: false, trouble: Some(Arc::clone(reason)) };
    }

    /// Why there are no endpoints, if there are none.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.heard.trouble.clone()
    }

    /// Closes what those that come after did not take over.
    pub(super) fn leave_to(&mut self, others: &Self) {
        self.has_left = true;
        for (key, known) in &self.known {
            let is_shared = others.known.get(key).is_some_and(|other| Arc::ptr_eq(&other.live.pool, &known.live.pool));
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
        let is_unnamed = |host: &Arc<Written>| !self.names.contains_key(host.address.as_str());
        !self.has_left && (self.heard.is_awaited || self.hosts.iter().any(is_unnamed))
    }

    /// Those that came back from an ejection start slowly again.
    pub(super) fn warm_up(&self, returned: &[u64], now: Instant) {
        for (_, known) in self.known.iter().filter(|(key, _)| returned.contains(&key.number())) {
            known.live.warmth.restart(now);
        }
    }

    /// How often the list was built.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The members now. Those that are no longer named leave, and their connections end once idle.
    ///
    /// A stretch that stays as it was costs a comparison of pointers for each member.
    pub(super) fn build(&mut self, ground: Ground<'_>) -> Vec<Arc<Endpoint>> {
        self.generation += 1;
        let before = std::mem::take(&mut self.built);
        let mut walk = Walk { before: &before, place: 0, leaving: Vec::new() };
        let mut endpoints = Vec::with_capacity(self.written.len());
        // Who joins others that are known waits for the health check, if there is one.
        let is_late = !self.known.is_empty();
        let Self { written, names, known, .. } = self;
        for written in written.iter() {
            if !written.address.is_host_name() {
                let same = walk.next(|old| old.is(written));
                let made = || Some(member(known, (written, fixed(written)?), is_late, ground));
                endpoints.extend(same.or_else(made));
                continue;
            }
            for address in names.get(written.address.as_str()).into_iter().flatten() {
                let address = Address::from(*address);
                let same = walk.next(|old| old.address == address && old.is(written));
                endpoints.push(same.unwrap_or_else(|| member(known, (written, address), is_late, ground)));
            }
        }
        walk.leaving.extend_from_slice(&before[walk.place..]);
        self.leave(walk.leaving, ground);
        self.built.clone_from(&endpoints);
        endpoints
    }

    /// Counts down what is named once less, and lets go of what nobody names.
    fn leave(&mut self, leaving: Vec<Arc<Endpoint>>, ground: Ground<'_>) {
        for endpoint in leaving {
            let key = Key::of(&endpoint);
            let Some(known) = self.known.get_mut(&key) else { continue };
            known.uses = known.uses.saturating_sub(1);
            if known.uses == 0 {
                known.live.pool.close();
                ground.outlier.remove(key.number());
                self.known.remove(&key);
            }
        }
        if self.generation == 1 {
            // Carried over from the last document, and not named by this one. Its pool is closed when the last
            // document's cluster leaves.
            self.known.retain(|_, known| known.uses > 0);
            // Detection is shared with the last document's cluster and may know what was not even carried over.
            let named: HashSet<u64> = self.known.keys().map(Key::number).collect();
            ground.outlier.retain(|key| named.contains(&key));
        }
    }
}

/// The members as they were, gone through in step with the members as they are to be.
struct Walk<'a> {
    before: &'a [Arc<Endpoint>],
    place: usize,
    leaving: Vec<Arc<Endpoint>>,
}

impl Walk<'_> {
    /// The old member that stands here, give or take a few that left.
    fn next(&mut self, is_same: impl Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
        let ahead = &self.before[self.place..];
        let skipped = ahead.iter().take(LOOK_AHEAD).position(|old| is_same(old))?;
        self.leaving.extend_from_slice(&ahead[..skipped]);
        self.place += skipped + 1;
        Some(Arc::clone(&ahead[skipped]))
    }
}

impl Endpoint {
    fn is(&self, written: &Arc<Written>) -> bool {
        Arc::ptr_eq(&self.written, written) || self.written == *written
    }
}

impl Key {
    fn new(written: &Written, address: Address, settings: &Settings) -> Self {
        let tls = written.tls.unwrap_or(settings.tls);
        let server_name = (tls == TlsMode::Simple).then(|| server_name(written, settings)).flatten();
        Self { address, tls, server_name }
    }

    fn of(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.address.clone(), tls: endpoint.tls, server_name: endpoint.server_name.clone() }
    }

    /// Outlier detection knows endpoints by number.
    fn number(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(self, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}

fn member(
    known: &mut HashMap<Key, Known, foldhash::fast::RandomState>,
    (written, address): (&Arc<Written>, Address),
    is_late: bool,
    ground: Ground<'_>,
) -> Arc<Endpoint> {
    let key = Key::new(written, address, ground.settings);
    let number = key.number();
    let kept = known.entry(key.clone()).or_insert_with(|| Known {
        live: Arc::new(fresh(number, is_late, ground)),
        endpoint: None,
        uses: 0,
    });
    if *kept.live.breaker.config() != ground.settings.breaker {
        (kept.live, kept.endpoint) = (Arc::new(kept.live.under(ground.settings.breaker, ground.now)), None);
    }
    kept.uses += 1;
    if let Some(same) = kept.endpoint.as_ref().filter(|same| same.is(written)) {
        return Arc::clone(same);
    }
    let made = Arc::new(endpoint(written, key, (ground.settings, Arc::clone(&kept.live))));
    kept.endpoint = Some(Arc::clone(&made));
    made
}

/// Where an endpoint is that needs no resolver.
fn fixed(written: &Written) -> Option<Address> {
    match written.address.unix_path() {
        Some(path) => Some(Address::Unix(path.into())),
        None => written.address.socket_addr().map(|address| with_others(address, written)),
    }
}

/// All ways to an endpoint whose first one is an IP address.
fn with_others(address: SocketAddr, written: &Written) -> Address {
    let others = written.additional_addresses.iter().filter_map(|other| other.socket_addr());
    let all: Vec<_> = std::iter::once(address).chain(others).collect();
    Address::any_of(&all).unwrap_or(Address::Socket(address))
}

fn fresh(number: u64, is_late: bool, ground: Ground<'_>) -> Live {
    Live {
        health: Arc::new(HealthState::new(is_late && ground.settings.health_check.is_some(), ground.now)),
        load: Arc::new(Load::new(ground.now)),
        breaker: CircuitBreaker::counted(ground.settings.breaker, Arc::clone(ground.transitions), ground.now),
        outlier: ground.outlier.add(number),
        pool: Arc::default(),
        warmth: Arc::new(Warmth::new(ground.now)),
        weight: Arc::default(),
        place: ListPlace::default(),
    }
}

fn endpoint(written: &Arc<Written>, key: Key, (settings, live): (&Settings, Arc<Live>)) -> Endpoint {
    let Key { address, tls, server_name } = key;
    let name = written.address.as_str();
    let name = if written.address.is_host_name() { address.to_string().into() } else { name.into() };
    Endpoint {
        hash_key: hash_key(written, settings),
        name,
        address,
        weight: written.weight.0,
        proximity: proximity(settings.locality.as_ref(), written.locality.as_ref()),
        locality: written
            .locality
            .as_ref()
            .map(|place| locality::Locality { region: place.region.clone(), zone: place.zone.clone() })
            .unwrap_or_default(),
        tls,
        server_name,
        declared: written.health.into(),
        is_checked: settings.health_check.is_some(),
        workload: workload(written, settings),
        written: Arc::clone(written),
        live,
    }
}

/// What the certificate has to name; `None`: nothing that a certificate could.
fn server_name(written: &Written, settings: &Settings) -> Option<Arc<ServerName<'static>>> {
    let own = || ServerName::try_from(written.address.host().to_owned()).ok().map(Arc::new);
    let has_host = written.address.unix_path().is_none();
    settings.server_name.clone().or_else(|| has_host.then(own).flatten())
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

/// Members that may have left one after the other without the rest being looked up anew.
const LOOK_AHEAD: usize = 8;
