//! How the next of several members is drawn, before anybody asks whether it is fit.
//!
//! Decides: the next place, by chance or by turn, in proportion to weight. Never: looks at an endpoint.
//! Invariant: constant time, no lock; only turns have a state, one counter.

use super::alias::Alias;
use super::balancing::BalancerKind;
use super::hashing::Hashing;
use super::load_weight::ReportedTurns;
use super::round_robin::Rotation;

/// An order over places.
#[derive(Debug)]
pub(super) enum Order {
    /// All weights are equal: by chance.
    Even(usize),
    /// By chance, in proportion to weight.
    Weighted(Alias),
    /// In turns.
    Turns(Rotation),
    /// In turns, by what endpoints report.
    Reported(ReportedTurns),
    /// By what a request hashes to; there is no next one.
    Hashed(Hashing),
}

impl Order {
    /// The order of a balancer over places of these weights.
    pub(super) fn new(kind: BalancerKind, weights: &[u32], seed: u64) -> Self {
        match kind {
            BalancerKind::RoundRobin => Self::Turns(Rotation::new(weights, seed)),
            BalancerKind::WeightedRoundRobin => Self::Reported(ReportedTurns::new(weights, seed)),
            _ if weights.windows(2).all(|pair| pair[0] == pair[1]) => Self::Even(weights.len()),
            _ => Self::Weighted(Alias::new(weights)),
        }
    }

    /// The next place.
    #[inline]
    pub(super) fn next(&self, rng: &mut fastrand::Rng) -> usize {
        match self {
            Self::Even(places) => even(*places, rng),
            _ => self.next_uneven(rng),
        }
    }

    fn next_uneven(&self, rng: &mut fastrand::Rng) -> usize {
        match self {
            Self::Even(places) => even(*places, rng),
            Self::Weighted(table) => table.at(rng.u64(..)),
            Self::Turns(rotation) => rotation.next(),
            Self::Reported(turns) => turns.next(),
            Self::Hashed(hashing) => even(hashing.size(), rng),
        }
    }

    /// Whether places come one after the other, and not by chance.
    pub(super) fn is_turns(&self) -> bool {
        matches!(self, Self::Turns(_) | Self::Reported(_))
    }
}

/// A place of so many. Each is met as often as the others, to within 2^-64 of the places: no draw is repeated
/// for less than that, and nothing is divided.
#[inline]
fn even(places: usize, rng: &mut fastrand::Rng) -> usize {
    ((u128::from(rng.u64(..)) * places as u128) >> 64) as usize
}
