//! A weighted choice between backends.
//!
//! Decides: which of several values one request gets, each in proportion to its weight.
//! Never: looks at the health of a backend; the share of a dead one fails, it does not move.
//! Invariant: weights are never all zero, and a weight of zero gets nothing.

use std::fmt;

use xxhash_rust::xxh64::xxh64;

/// Values with weights.
#[derive(Debug, Clone)]
pub struct Split<T> {
    /// Each value with the running sum of weights up to and including its own.
    entries: Vec<(u32, T)>,
    total: u32,
}

/// Weights that describe no split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadWeights {
    /// Every weight is zero, or there is none.
    AllZero,
    /// The sum is above 2^32 - 1 (the limit of xDS).
    SumTooLarge,
}

impl<T> Split<T> {
    /// A split by the given weights.
    pub fn new(weighted: Vec<(u32, T)>) -> Result<Self, BadWeights> {
        let mut total = 0_u32;
        let mut entries = Vec::with_capacity(weighted.len());
        for (weight, value) in weighted {
            total = total.checked_add(weight).ok_or(BadWeights::SumTooLarge)?;
            entries.push((total, value));
        }
        if total == 0 { Err(BadWeights::AllZero) } else { Ok(Self { entries, total }) }
    }

    /// Draws one value.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> &T {
        if let [(_, only)] = self.entries.as_slice() {
            return only;
        }
        let drawn = rng.u32(0..self.total);
        // The first running sum above the draw: an entry of weight zero adds nothing to its sum and
        // therefore is never the first. The draw is below the total, so there always is one.
        let place = self.entries.partition_point(|(sum, _)| *sum <= drawn);
        &self.entries[place].1
    }

    /// The value for a hash, in proportion to the weights, too: the same one as long as no weight changes; when one does,
    /// a hash moves only to a value that has grown against the one it had (weighted rendezvous hashing). `seed` tells the values
    /// apart, alike in every process.
    pub fn pick_for(&self, hash: u64, seed: impl Fn(&T) -> u64) -> &T {
        let score = |weight: u32, value: &T| {
            let drawn = xxh64(&seed(value).to_le_bytes(), hash);
            // Above zero and at most one. The times until each value's first event are in proportion to its weight.
            let uniform = ((drawn >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            -uniform.ln() / f64::from(weight)
        };
        let scored = self.iter().filter(|(weight, _)| *weight > 0).map(|(weight, value)| (score(weight, value), value));
        scored.min_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(&self.entries[0].1, |(_, value)| value)
    }

    /// Every value with its weight, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let before = std::iter::once(0).chain(self.entries.iter().map(|(sum, _)| *sum));
        self.entries.iter().zip(before).map(|((sum, value), before)| (sum - before, value))
    }
}

impl fmt::Display for BadWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllZero => "at least one weight must be above zero",
            Self::SumTooLarge => "the sum of the weights must be below 4294967296",
        })
    }
}

impl std::error::Error for BadWeights {}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::route::tests_support::cases;

    fn weights(case: &Value) -> Vec<(u32, String)> {
        match case["weights"].as_object() {
            Some(named) => named.iter().map(|(name, n)| (n.as_u64().unwrap() as u32, name.clone())).collect(),
            None => (0..101).map(|n| (1, format!("destination-{n}"))).collect(),
        }
    }

    #[test]
    fn each_backend_gets_its_share_and_weight_zero_gets_none() {
        let cases = cases("weights");
        for case in &cases {
            let weights = weights(case);
            let split = Split::new(weights.clone()).unwrap();
            let requests = case["requests"].as_u64().unwrap();
            let mut rng = fastrand::Rng::with_seed(11);
            let mut counts = std::collections::HashMap::<&str, u64>::new();
            for _ in 0..requests {
                *counts.entry(split.pick(&mut rng)).or_default() += 1;
            }
            for (weight, name) in &weights {
                let count = counts.get(name.as_str()).copied().unwrap_or(0);
                assert_eq!(count == 0, *weight == 0, "{} {name}", case["id"]);
                let Some(share) = case["expected"]["share"][name].as_f64() else {
                    assert_eq!(case["expected"]["every_destination_gets_traffic"], true, "{}", case["id"]);
                    continue;
                };
                let tolerance = case["expected"]["absolute_tolerance"].as_f64().unwrap();
                assert!((count as f64 / requests as f64 - share).abs() <= tolerance, "{} {name} {count}", case["id"]);
            }
        }
        assert_eq!(cases.len(), 6);
    }

    #[test]
    fn weights_that_describe_no_split_are_refused() {
        let cases = cases("weights_config");
        for case in &cases {
            assert_eq!(Value::from(Split::new(weights(case)).is_ok()), case["expected"]["valid"], "{}", case["id"]);
        }
        assert_eq!(cases.len(), 2);
        assert_eq!(Split::<()>::new(vec![]).err(), Some(BadWeights::AllZero));
        assert_eq!(Split::new(vec![(u32::MAX, 0), (1, 1)]).err(), Some(BadWeights::SumTooLarge));
    }

    #[test]
    fn a_large_sample_is_within_two_percent() {
        let split = Split::new(vec![(0, 'z'), (1, 'a'), (0, 'z'), (2, 'b'), (7, 'c'), (0, 'z')]).unwrap();
        let mut rng = fastrand::Rng::with_seed(5);
        let drawn: Vec<_> = (0..100_000).map(|_| *split.pick(&mut rng)).collect();
        for (value, share) in [('a', 0.1), ('b', 0.2), ('c', 0.7), ('z', 0.0)] {
            let got = drawn.iter().filter(|one| **one == value).count() as f64 / 100_000.0;
            assert!((got - share).abs() <= 0.02 * share, "{value} {got}");
        }
        assert_eq!(split.iter().map(|(weight, _)| weight).collect::<Vec<_>>(), [0, 1, 0, 2, 7, 0]);
    }

    #[test]
    fn a_hash_keeps_its_value_and_moves_only_to_one_that_has_grown_against_it() {
        const HASHES: u64 = 20_000;
        let before = Split::new(vec![(90, 1), (10, 2), (0, 3)]).unwrap();
        let after = Split::new(vec![(3, 2), (6, 1), (1, 3)]).unwrap();
        let mut counts = [[0_u64; 4]; 2];
        for hash in 0..HASHES {
            let hash = xxh64(&hash.to_le_bytes(), 7);
            let [old, new] = [&before, &after].map(|split| *split.pick_for(hash, |value| *value));
            assert_eq!(old, *before.pick_for(hash, |value| *value));
            // 2 has grown against 1, and 3 against both.
            assert!(old <= new, "from {old} to {new}");
            counts[0][old as usize] += 1;
            counts[1][new as usize] += 1;
        }
        for (counts, shares) in counts.iter().zip([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1]]) {
            for (count, share) in counts[1..].iter().zip(shares) {
                // Six standard deviations.
                let slack = 6.0 * (HASHES as f64 * share * (1.0 - share)).sqrt();
                assert!((*count as f64 - HASHES as f64 * share).abs() <= slack, "{counts:?}");
            }
        }
    }
}
