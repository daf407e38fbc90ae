//! Ring hash: equal requests go to the same endpoint, and a changed list moves few of them.
//!
//! Decides: which endpoint a hash belongs to, and which one is next. Never: looks at the health or
//! the load of an endpoint; who asks leaves out those it cannot use and goes on round the ring.
//! Invariant: the ring depends only on keys, weights and order of the endpoints, so that every client
//! with the same list picks the same endpoint, as does Envoy.
//!
//! # The ring (Envoy, gRFC A42)
//! Each endpoint has points: the hashes of `<key>_0`, `<key>_1`, and so on. A request belongs to the
//! first point at or above its hash, the last being followed by the first. How many points there are
//! follows from the lightest endpoint, which gets a whole number, at least its share of the minimum
//! size; the maximum size wins over that.
//!
//! # Cost
//! Hashes are spread evenly, so the place of one is known almost exactly: a table over its leading
//! bits says where to start, and one or two comparisons end the search, whatever the size.

use super::murmur2::murmur2;
use crate::policy::Invalid;

/// An endpoint as a hash table sees it.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// What its points are hashed from: `ip:port`, a host name, or a key of its own.
    pub key: &'a str,
    /// Its part of all weights, which add up to 1; 0 gets no point.
    pub share: f64,
}

impl<'a> Host<'a> {
    /// Hosts of these keys and weights.
    pub fn weighted(hosts: impl IntoIterator<Item = (&'a str, u32)>) -> Vec<Self> {
        let hosts: Vec<_> = hosts.into_iter().collect();
        let total: f64 = hosts.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let share = |weight| if total > 0.0 { f64::from(weight) / total } else { 0.0 };
        hosts.into_iter().map(|(key, weight)| Self { key, share: share(weight) }).collect()
    }
}

/// How a ring is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RingConfig {
    minimum: u32,
    maximum: u32,
    function: HashFunction,
}

/// What hashes the points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum HashFunction {
    /// XXH64 with seed 0.
    #[default]
    XxHash,
    /// MurmurHash2 with the seed of libstdc++.
    MurmurHash2,
}

/// The points of some endpoints.
#[derive(Debug)]
pub struct Ring {
    /// Ascending.
    hashes: Box<[u64]>,
    /// The position of each point's host in the list the ring was built from.
    hosts: Box<[u32]>,
    /// For every value of the leading bits, the first point that has them, or more.
    starts: Box<[u32]>,
    shift: u32,
}

impl RingConfig {
    /// A ring of `minimum` to `maximum` points.
    pub fn new(minimum: u32, maximum: u32, function: HashFunction) -> Result<Self, Invalid> {
        if minimum == 0 {
            return Err(Invalid { field: "minimum_ring_size", must: "be at least 1" });
        }
        if maximum > MOST_POINTS {
            return Err(Invalid { field: "maximum_ring_size", must: "be at most 8388608" });
        }
        if minimum > maximum {
            return Err(Invalid { field: "minimum_ring_size", must: "be at most maximum_ring_size" });
        }
        Ok(Self { minimum, maximum, function })
    }
}

impl Default for RingConfig {
    /// 1024 to 8388608 points, XXH64 [Envoy].
    fn default() -> Self {
        Self { minimum: 1024, maximum: MOST_POINTS, function: HashFunction::XxHash }
    }
}

impl Ring {
    /// The ring of these endpoints.
    pub fn new(hosts: &[Host<'_>], config: RingConfig) -> Self {
        let mut points = points(hosts, config);
        points.sort_by_key(|(hash, _)| *hash);
        // One or two points for each value.
        let bits = points.len().checked_ilog2().unwrap_or(0).max(1);
        let mut starts = Vec::with_capacity(1 << bits);
        for leading in 0..(1_u64 << bits) {
            let lowest = leading << (u64::BITS - bits);
            let from = starts.last().map_or(0, |start: &u32| *start as usize);
            let gap = points[from..].iter().take_while(|(hash, _)| *hash < lowest).count();
            starts.push((from + gap) as u32);
        }
        Self {
            hashes: points.iter().map(|(hash, _)| *hash).collect(),
            hosts: points.iter().map(|(_, host)| *host).collect(),
            starts: starts.into(),
            shift: u64::BITS - bits,
        }
    }

    /// The host that is looked at in `attempt`, counted from 0; `None` on an empty ring.
    pub fn pick(&self, hash: u64, attempt: usize) -> Option<usize> {
        let place = (self.place(hash) + attempt).checked_rem(self.hosts.len())?;
        Some(self.hosts[place] as usize)
    }

    /// How many points there are: a walk of as many attempts has seen every host.
    pub fn size(&self) -> usize {
        self.hosts.len()
    }

    /// The points in order: hash and host.
    pub fn points(&self) -> impl Iterator<Item = (u64, usize)> {
        self.hashes.iter().zip(&self.hosts).map(|(hash, host)| (*hash, *host as usize))
    }

    /// The first point at or above `hash`.
    fn place(&self, hash: u64) -> usize {
        let start = self.starts[(hash >> self.shift) as usize] as usize;
        let above = self.hashes[start..].iter().position(|point| *point >= hash);
        above.map_or(0, |offset| start + offset)
    }
}

/// Points of each host, in the order of the hosts. A host goes on until the sum of all points so far
/// has reached the sum of all shares so far: shares that are no whole numbers even out.
fn points(hosts: &[Host<'_>], config: RingConfig) -> Vec<(u64, u32)> {
    let lightest = hosts.iter().map(|host| host.share).filter(|share| *share > 0.0).fold(1.0, f64::min);
    if hosts.iter().all(|host| host.share <= 0.0) {
        return Vec::new();
    }
    let whole = (lightest * f64::from(config.minimum)).ceil() / lightest;
    let scale = whole.min(f64::from(config.maximum));

    let mut points = Vec::with_capacity(scale.ceil() as usize);
    let (mut placed, mut target) = (0.0, 0.0);
    for (position, host) in hosts.iter().enumerate() {
        target += scale * host.share;
        let mut text = format!("{}_", host.key);
        let prefix = text.len();
        let mut index = 0_u32;
        while placed < target {
            text.truncate(prefix);
            text.push_str(&index.to_string());
            points.push((config.function.of(text.as_bytes()), position as u32));
            index += 1;
            placed += 1.0;
        }
    }
    points
}

impl HashFunction {
    fn of(self, bytes: &[u8]) -> u64 {
        match self {
            Self::XxHash => xxhash_rust::xxh64::xxh64(bytes, 0),
            Self::MurmurHash2 => murmur2(bytes),
        }
    }
}

/// Most points of a ring: 8 Mi (Envoy, `ring_hash.proto`).
const MOST_POINTS: u32 = 8 * 1024 * 1024;

#[cfg(test)]
pub(super) mod tests;
