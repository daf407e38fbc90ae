//! A draw in proportion to weights, in constant time (Walker's alias method, built as Vose does).
//!
//! Decides: which place a random number stands for. Never: draws the number itself.
//! Invariant: over all numbers, each place is met in proportion to its weight, to within 2^-32.

/// A table over weights.
#[derive(Debug)]
pub(super) struct Alias {
    /// Per column: below this threshold the column's own place, above it the other one.
    columns: Box<[(u32, u32)]>,
}

impl Alias {
    /// A table over weights, not all of which may be zero.
    pub(super) fn new(weights: &[u32]) -> Self {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum::<u64>().max(1);
        let places = weights.len() as u64;
        // Scaled so that a column holds exactly `total`.
        let mut rest: Vec<u128> = weights.iter().map(|weight| u128::from(*weight) * u128::from(places)).collect();
        let full = u128::from(total);
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|at| rest[*at] < full);
        let mut columns: Vec<(u32, u32)> = (0..weights.len()).map(|at| (u32::MAX, at as u32)).collect();
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            columns[low] = (((rest[low] << 32) / full) as u32, high as u32);
            rest[high] -= full - rest[low];
            if rest[high] < full { small.push(high) } else { large.push(high) }
        }
        Self { columns: columns.into() }
    }

    /// The place that 64 random bits stand for: the upper half chooses the column, the lower the side.
    #[inline]
    pub(super) fn at(&self, random: u64) -> usize {
        let column = (((random >> 32) * self.columns.len() as u64) >> 32) as usize;
        let (threshold, other) = self.columns[column];
        // A column that is wholly its own has itself as the other side.
        if (random as u32) < threshold { column } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_gets_its_share_and_a_weight_of_zero_none() {
        let mut rng = fastrand::Rng::with_seed(4);
        for weights in [&[1_u32, 2, 7][..], &[1, 1], &[100, 1, 0, 5], &[u32::MAX, u32::MAX / 3, 1], &[3], &[0, 9]] {
            let table = Alias::new(weights);
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..200_000 {
                counts[table.at(rng.u64(..))] += 1;
            }
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (weight, count) in weights.iter().zip(counts) {
                let (expected, got) = (f64::from(*weight) / total, f64::from(count) / 200_000.0);
                assert!((got - expected).abs() <= 0.04 * expected + 1e-5, "{weights:?} {weight} {got}");
                assert_eq!(*weight == 0, count == 0 && *weight == 0);
            }
        }
    }

    #[test]
    fn o33_a_hundred_and_one_equal_weights_all_get_traffic() {
        let table = Alias::new(&[1; 101]);
        let mut rng = fastrand::Rng::with_seed(4);
        let drawn: std::collections::HashSet<_> = (0..20_000).map(|_| table.at(rng.u64(..))).collect();
        assert_eq!(drawn.len(), 101);
    }

    #[test]
    fn o50_any_weights_make_a_table_without_overflow() {
        for weights in [&[u32::MAX; 64][..], &[0, 0], &[0], &[u32::MAX, 0, 1]] {
            let table = Alias::new(weights);
            for random in [0, 1, u64::MAX, u64::MAX / 2, 1 << 32] {
                assert!(table.at(random) < weights.len());
            }
        }
    }
}
