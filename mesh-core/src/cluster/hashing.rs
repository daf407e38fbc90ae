//! Balancing by hash: a request goes to the endpoint that its hash belongs to.
//!
//! Decides: which endpoint takes a request that hashes to a number, when some cannot. Never: hashes a
//! request (`route::hash_policy` does) and never judges an endpoint; who asks says which are usable.
//! Invariant: while the endpoint a hash belongs to is usable and has room, it is the one.
//!
//! # Endpoints that cannot be used
//! The ring, or table, holds every endpoint that has a weight, available or not, and a pick passes
//! those that are unusable (gRFC A42). Envoy builds it anew, over the healthy ones, each time a health
//! changes; then some requests of healthy endpoints move, too, and a breaker that opens would cost a
//! build. With all endpoints healthy, or in panic, both pick the same.
//! Localities are not preferred: a hash means one endpoint, wherever the caller is (Envoy, too).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::bounded_load::{BalanceFactor, BoundedLoad, InFlight};
use super::locality::Locality;
use super::maglev::{Maglev, TableSize};
use super::picker::Candidate;
use super::ring_hash::{Host, Ring, RingConfig};

/// How hashes are spread over endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashConfig {
    /// What says whom a hash belongs to.
    pub table: TableConfig,
    /// How much more than its share an endpoint may have; `None`: whatever comes.
    pub bound: Option<BalanceFactor>,
}

/// What says whom a hash belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableConfig {
    /// Ring hash.
    Ring(RingConfig),
    /// Maglev.
    Maglev(TableSize),
}

/// The endpoints of a hash, in order of preference.
#[derive(Debug)]
pub struct Hashing {
    table: Table,
    bound: Option<BoundedLoad>,
    /// The position of any endpoint is below.
    hosts: usize,
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Hashing {
    /// Over these endpoints.
    pub fn new(hosts: &[Host<'_>], config: HashConfig) -> Self {
        let table = match config.table {
            TableConfig::Ring(config) => Table::Ring(Ring::new(hosts, config)),
            TableConfig::Maglev(size) => Table::Maglev(Maglev::new(hosts, size)),
        };
        let shares = || hosts.iter().map(|host| host.share).collect();
        Self { table, bound: config.bound.map(|factor| BoundedLoad::new(shares(), factor)), hosts: hosts.len() }
    }

    /// Over the members of a level, by index into `endpoints`. With weights of localities, a member has
    /// its part of its locality's part (Envoy).
    pub(super) fn over<C: Candidate>(
        endpoints: &[Arc<C>],
        members: &[usize],
        localities: Option<&BTreeMap<Locality, u32>>,
        config: HashConfig,
    ) -> Self {
        let part_of = |index: usize| match (localities, endpoints[index].locality()) {
            (Some(weights), Some(place)) => (Some(place), weights.get(place).copied().unwrap_or(0)),
            _ => (None, 1),
        };
        let mut parts = BTreeMap::<Option<&Locality>, (u32, f64)>::new();
        for index in members.iter().copied() {
            let (place, weight) = part_of(index);
            parts.entry(place).or_insert((weight, 0.0)).1 += f64::from(endpoints[index].weight());
        }
        let total: f64 = parts.values().map(|(weight, _)| f64::from(*weight)).sum();
        let share = |index: usize| {
            let (weight, sum) = parts[&part_of(index).0];
            f64::from(endpoints[index].weight()) * (f64::from(weight) / total) / sum
        };
        let key =
            |(place, index): (usize, &usize)| endpoints[*index].hash_key().unwrap_or_else(|| place.to_string().into());
        let keys: Vec<Cow<'_, str>> = members.iter().enumerate().map(key).collect();
        let hosts = members.iter().zip(&keys).map(|(index, key)| Host { key, share: share(*index) });
        let hosts: Vec<_> = hosts.collect();
        Self::new(&hosts, config)
    }

    /// The first `usable` endpoint of `hash`, or the one that takes its overflow.
    pub fn pick(&self, hash: u64, busy: InFlight<'_>, usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let first = self.first(hash, usable)?;
        Some(self.bound.as_ref().map_or(first, |bound| bound.choose(hash, first, busy, usable)))
    }

    /// Whom a hash belongs to, whether it can be used or not.
    #[inline]
    pub fn home(&self, hash: u64) -> Option<usize> {
        match &self.table {
            Table::Ring(ring) => ring.pick(hash, 0),
            Table::Maglev(maglev) => maglev.pick(hash, 0),
        }
    }

    /// How many endpoints there are.
    pub fn size(&self) -> usize {
        self.hosts
    }

    /// Whether a pick reads the number of requests in flight.
    pub fn is_bounded(&self) -> bool {
        self.bound.is_some()
    }

    fn first(&self, hash: u64, usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        match &self.table {
            Table::Ring(ring) => (0..ring.size()).filter_map(|attempt| ring.pick(hash, attempt)).find(|at| usable(*at)),
            Table::Maglev(maglev) => {
                // As Envoy while that finds one; then, as the rule may go in circles, whoever is left.
                let attempts = (0..MAGLEV_ATTEMPTS).filter_map(|attempt| maglev.pick(hash, attempt));
                attempts.into_iter().find(|at| usable(*at)).or_else(|| self.left(maglev, hash, usable))
            }
        }
    }

    /// The next place of the table that is usable, from that of the hash on.
    fn left(&self, maglev: &Maglev, hash: u64, usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        if !(0..self.hosts).any(usable) {
            return None;
        }
        let size = maglev.size() as u64;
        (0..size).filter_map(|step| maglev.pick(hash % size + step, 0)).find(|at| usable(*at))
    }
}

/// Attempts by Maglev's retry rule before the table is walked: Envoy's own limit is set per route
/// (`host_selection_retry_max_attempts`) and rarely above this.
const MAGLEV_ATTEMPTS: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: InFlight<'_> = InFlight { total: 0, at: &|_| 0 };

    fn both(bound: Option<u32>) -> [Hashing; 2] {
        let keys: Vec<_> = (0..5).map(|index| format!("10.0.0.{index}:80")).collect();
        let hosts = Host::weighted(keys.iter().map(|key| (key.as_str(), 1)));
        let bound = bound.map(|percent| BalanceFactor::new(percent).unwrap());
        let tables = [TableConfig::Ring(RingConfig::default()), TableConfig::Maglev(TableSize::new(101).unwrap())];
        tables.map(|table| Hashing::new(&hosts, HashConfig { table, bound }))
    }

    fn hashes() -> impl Iterator<Item = u64> {
        let mut rng = fastrand::Rng::with_seed(3);
        (0..200).map(move |_| rng.u64(..))
    }

    #[test]
    fn only_the_requests_of_an_endpoint_that_is_gone_move() {
        for hashing in both(None) {
            let mut moved_to = std::collections::BTreeSet::new();
            for hash in hashes() {
                let home = hashing.pick(hash, IDLE, &|_| true).unwrap();
                let without = hashing.pick(hash, IDLE, &|at| at != 2).unwrap();
                assert_eq!(home == without, home != 2);
                moved_to.extend((home == 2).then_some(without));
            }
            assert_eq!(moved_to.into_iter().collect::<Vec<_>>(), [0, 1, 3, 4]);
        }
    }

    #[test]
    fn the_last_usable_endpoint_is_found_and_none_is_nobody() {
        for hashing in both(None) {
            for hash in hashes() {
                assert_eq!(hashing.pick(hash, IDLE, &|at| at == 3), Some(3));
                assert_eq!(hashing.pick(hash, IDLE, &|_| false), None);
            }
        }
        let none = Hashing::new(&[], HashConfig { table: TableConfig::Maglev(TableSize::default()), bound: None });
        assert_eq!(none.pick(1, IDLE, &|_| true), None);
    }

    #[test]
    fn a_full_endpoint_gives_its_requests_to_usable_ones() {
        for hashing in both(Some(120)) {
            assert!(hashing.is_bounded());
            for hash in hashes() {
                let home = hashing.pick(hash, IDLE, &|_| true).unwrap();
                let busy = InFlight { total: 10, at: &|at| if at == home { 10 } else { 0 } };
                let other = hashing.pick(hash, busy, &|at| at != (home + 1) % 5).unwrap();
                assert!(other != home && other != (home + 1) % 5);
                assert_eq!(hashing.pick(hash, busy, &|at| at == home), Some(home));
            }
        }
    }
}

#[cfg(test)]
#[path = "hashed_pick_tests.rs"]
mod pick_tests;
