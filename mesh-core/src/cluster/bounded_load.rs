//! Bounded load: a hash does not overload the endpoint it belongs to.
//!
//! Decides: whether an endpoint has more than its share of the requests in flight, and who takes the
//! request instead. Never: which endpoint a hash belongs to.
//! Invariant: equal hashes overflow to the same endpoints in the same order; and if all are above
//! their share, the one that is least so takes the request, none is refused.
//!
//! # The rule (Mirrokni et al., arXiv 1608.01350, as in Envoy's `hash_balance_factor`)
//! With the factor 150, an endpoint may have 1.5 times the average, by weight. Above that the others
//! are asked in an order that is shuffled by the hash (arXiv 1908.08762): the next one on the ring
//! would get all of a hot endpoint's overflow and overflow itself.
//!
//! # Cost
//! One division where the first endpoint has room. The shuffle costs a generator's set-up, about
//! 1 200 steps, and a step for each endpoint that is looked at.

use std::num::NonZeroU32;

use super::mersenne_twister::MersenneTwister;
use crate::policy::Invalid;

/// How much more than its share an endpoint may have, in percent of the average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BalanceFactor(NonZeroU32);

/// The shares of some endpoints.
#[derive(Debug)]
pub struct BoundedLoad {
    factor: BalanceFactor,
    /// Of all weights, by position.
    shares: Box<[f64]>,
}

/// Requests in flight now.
#[derive(Clone, Copy)]
pub struct InFlight<'a> {
    /// Over all endpoints.
    pub total: u32,
    /// At the endpoint of a position.
    pub at: &'a dyn Fn(usize) -> u32,
}

impl BalanceFactor {
    /// A factor of at least 100 [Envoy].
    pub fn new(percent: u32) -> Result<Self, Invalid> {
        let invalid = Invalid { field: "hash_balance_factor", must: "be at least 100" };
        NonZeroU32::new(percent).filter(|percent| percent.get() >= 100).map(Self).ok_or(invalid)
    }
}

impl BoundedLoad {
    /// Bounds endpoints of these shares, which add up to 1.
    pub fn new(shares: Box<[f64]>, factor: BalanceFactor) -> Self {
        Self { factor, shares }
    }

    /// `first` if it has room, else one of the `usable` others, by the order of `hash`.
    pub fn choose(&self, hash: u64, first: usize, busy: InFlight<'_>, usable: &dyn Fn(usize) -> bool) -> usize {
        let mut least = (self.overload(first, busy), first);
        if least.0 <= 1.0 {
            return first;
        }
        let mut order: Vec<u32> = (0..self.shares.len() as u32).collect();
        let mut random = MersenneTwister::new(hash as u32);
        for index in 0..order.len() {
            let other = random.below((order.len() - index) as u32) as usize;
            order.swap(index, index + other);
            let candidate = order[index] as usize;
            if candidate == first || self.shares[candidate] <= 0.0 || !usable(candidate) {
                continue;
            }
            let overload = self.overload(candidate, busy);
            if overload <= 1.0 {
                return candidate;
            }
            if overload < least.0 {
                least = (overload, candidate);
            }
        }
        least.1
    }

    /// Requests at an endpoint by what it may have; above 1 it has too many.
    fn overload(&self, position: usize, busy: InFlight<'_>) -> f64 {
        let slots = (u64::from(busy.total) + 1) * u64::from(self.factor.0.get());
        let own = (slots.div_ceil(100) as f64 * self.shares[position]).ceil().max(1.0);
        f64::from((busy.at)(position)) / own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(factor: u32, weights: &[u32], busy: &[u32], (hash, first): (u64, usize)) -> usize {
        let total: u32 = weights.iter().sum();
        let shares = weights.iter().map(|weight| f64::from(*weight) / f64::from(total)).collect();
        let bounded = BoundedLoad::new(shares, BalanceFactor::new(factor).unwrap());
        let busy = InFlight { total: busy.iter().sum(), at: &|position| busy[position] };
        bounded.choose(hash, first, busy, &|_| true)
    }

    #[test]
    fn an_endpoint_keeps_its_requests_up_to_its_share() {
        // Slots of one of four: ceil(ceil((total + 1) * factor / 100) / 4).
        for (factor, busy, keeps) in [
            (100, [0, 0, 0, 0], true),
            (100, [1, 0, 0, 0], true),
            (100, [2, 1, 1, 0], true),
            (100, [3, 1, 1, 1], false),
            (150, [3, 1, 1, 1], true),
            (200, [4, 1, 1, 1], true),
            (200, [5, 1, 1, 1], true),
            (200, [6, 1, 1, 1], false),
        ] {
            assert_eq!(chosen(factor, &[1; 4], &busy, (7, 0)) == 0, keeps, "{factor} {busy:?}");
        }
    }

    #[test]
    fn a_heavy_endpoint_may_have_more() {
        for (weights, keeps) in [([3, 1], true), ([1, 3], false)] {
            assert_eq!(chosen(120, &weights, &[6, 2], (1, 0)) == 0, keeps, "{weights:?}");
        }
    }

    #[test]
    fn equal_hashes_overflow_to_the_same_and_different_ones_to_all() {
        let mut seen = std::collections::BTreeSet::new();
        for hash in 0..100 {
            let first = chosen(100, &[1; 5], &[9, 0, 0, 0, 0], (hash, 0));
            assert_eq!(first, chosen(100, &[1; 5], &[9, 0, 0, 0, 0], (hash, 0)));
            seen.insert(first);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn the_least_overloaded_takes_what_nobody_has_room_for() {
        // The total says two where eighteen are: everybody is above the share, the third the least.
        let busy = InFlight { total: 2, at: &|position| [7, 6, 5][position] };
        let bounded = BoundedLoad::new([1.0 / 3.0; 3].into(), BalanceFactor::new(100).unwrap());
        assert_eq!(bounded.choose(1, 0, busy, &|_| true), 2);
        assert_eq!(bounded.choose(1, 0, busy, &|position| position != 2), 1);
        assert_eq!(bounded.choose(1, 0, busy, &|_| false), 0);
    }

    #[test]
    fn an_endpoint_of_weight_zero_takes_no_overflow() {
        for hash in 0..20 {
            assert_eq!(chosen(100, &[1, 0, 1], &[9, 0, 0], (hash, 0)), 2);
        }
    }

    #[test]
    fn a_factor_below_the_average_is_refused() {
        assert_eq!([0, 99, 100].map(|percent| BalanceFactor::new(percent).is_ok()), [false, false, true]);
    }
}
