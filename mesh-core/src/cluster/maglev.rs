//! Maglev: equal requests go to the same endpoint, by one look into a table.
//!
//! Decides: which endpoint a hash belongs to, and which one is next. Never: looks at the health or
//! the load of an endpoint.
//! Invariant: the table depends only on keys and weights of the endpoints, not on their order, so
//! that every client with the same endpoints picks the same one, as does Envoy.
//!
//! # The table (Eisenbud et al., NSDI 2016, with Envoy's weights)
//! The size M is a prime. Each endpoint has its own order of all places: from `XXH64(key, 0) mod M`
//! in steps of `XXH64(key, 1) mod (M - 1) + 1`. In turn, sorted by key, each takes its next free
//! place; one with a part of the largest weight takes part in that part of the turns. Against a ring,
//! shares are more even, a pick costs one access, and a changed list moves a few more requests.
//!
//! With more endpoints than places some get none: the size should be a hundred times their number.

use super::ring_hash::Host;
use crate::config::hashing::is_prime;
use crate::policy::Invalid;

/// The number of places: a prime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableSize(u32);

/// The endpoint of every place.
#[derive(Debug)]
pub struct Maglev {
    /// The position of each place's host in the list the table was built from.
    table: Box<[u32]>,
}

impl TableSize {
    /// A prime of at most 5000011 [Envoy].
    pub fn new(places: u32) -> Result<Self, Invalid> {
        if places > MOST_PLACES || !is_prime(places) {
            return Err(Invalid { field: "table_size", must: "be a prime number of at most 5000011" });
        }
        Ok(Self(places))
    }
}

impl Default for TableSize {
    /// 65537 [Envoy; the paper].
    fn default() -> Self {
        Self(65_537)
    }
}

impl Maglev {
    /// The table of these endpoints.
    pub fn new(hosts: &[Host<'_>], TableSize(size): TableSize) -> Self {
        let mut turns = turns(hosts, u64::from(size));
        if turns.is_empty() {
            return Self { table: Box::default() };
        }
        let largest = turns.iter().map(|turn| turn.share).fold(0.0, f64::max);
        let mut table = vec![FREE; size as usize];
        let mut free = table.len();
        let mut round = 0_u32;
        while free > 0 {
            round += 1;
            for turn in &mut turns {
                if free == 0 || f64::from(round) * turn.share < turn.target {
                    continue;
                }
                turn.target += largest;
                let place = turn.next_free(&table);
                table[place] = turn.host;
                free -= 1;
            }
        }
        Self { table: table.into() }
    }

    /// The host that is looked at in `attempt`, counted from 0; `None` on an empty table.
    ///
    /// Further attempts flip the leading bits of the hash, so that the requests of one endpoint
    /// spread over all others [Envoy].
    pub fn pick(&self, hash: u64, attempt: u64) -> Option<usize> {
        let hash = hash ^ attempt.wrapping_neg();
        let place = hash.checked_rem(self.table.len() as u64)?;
        Some(self.table[place as usize] as usize)
    }

    /// How many places there are; 0 without a host.
    pub fn size(&self) -> usize {
        self.table.len()
    }

    /// The host of each place.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.table.iter().map(|host| *host as usize)
    }
}

/// An endpoint while the table is filled.
struct Turn {
    host: u32,
    share: f64,
    /// What `round * share` must reach before the next place.
    target: f64,
    place: u64,
    skip: u64,
}

impl Turn {
    /// The next place of its own order that nobody has; goes past it.
    fn next_free(&mut self, table: &[u32]) -> usize {
        loop {
            let place = self.place;
            self.place = (place + self.skip) % table.len() as u64;
            if table[place as usize] == FREE {
                return place as usize;
            }
        }
    }
}

/// The endpoints that have a weight, sorted by key.
fn turns(hosts: &[Host<'_>], size: u64) -> Vec<Turn> {
    let mut order: Vec<usize> = (0..hosts.len()).filter(|position| hosts[*position].share > 0.0).collect();
    order.sort_by_key(|position| hosts[*position].key);
    let turn = |position: usize| {
        let Host { key, share } = hosts[position];
        let hash = |seed| xxhash_rust::xxh64::xxh64(key.as_bytes(), seed);
        Turn { host: position as u32, share, target: 0.0, place: hash(0) % size, skip: hash(1) % (size - 1) + 1 }
    };
    order.into_iter().map(turn).collect()
}

/// No endpoint yet.
const FREE: u32 = u32::MAX;
/// Most places of a table (Envoy, `maglev.proto`).
const MOST_PLACES: u32 = 5_000_011;

#[cfg(test)]
mod tests;
