//! Weighted round robin without a lock.
//!
//! Decides: whose turn it is. Never: looks at load or availability.
//! Invariant: one atomic counter is the whole state; over a full cycle each place is drawn exactly in
//! proportion to its weight, and turns of one place are spread, not bunched.
//!
//! The scheduler is gRPC's static stride (gRFC A58): the counter walks the places again and again; in
//! its generation `g`, a place of stride `s` is taken in `s` of every `FULL` generations.

use std::sync::atomic::{AtomicU64, Ordering};

/// Turns between places.
#[derive(Debug)]
pub(super) struct Rotation {
    sequence: AtomicU64,
    /// One per place, scaled so that the largest is `FULL`; never empty.
    strides: Box<[u16]>,
}

impl Rotation {
    /// A rotation over the given weights, which must not be empty. The seed sets where it starts, so
    /// that many clients do not all begin with the same endpoint.
    pub(super) fn new(weights: &[u32], seed: u64) -> Self {
        let largest = u64::from(weights.iter().copied().max().unwrap_or(1).max(1));
        let scale = |weight: &u32| {
            let stride = (u64::from(*weight) * FULL).div_ceil(largest).clamp(1, FULL);
            u16::try_from(stride).unwrap_or(u16::MAX)
        };
        Self {
            // Half of the seed: the counter must not come near its end.
            sequence: AtomicU64::new(seed >> 32),
            strides: weights.iter().map(scale).collect(),
        }
    }

    /// The place whose turn it is. At most one walk over the places: the largest is always taken.
    #[inline]
    pub(super) fn next(&self) -> usize {
        let places = self.strides.len() as u64;
        loop {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            let (generation, place) = (sequence / places, sequence % places);
            let stride = u64::from(self.strides[place as usize]);
            // Only the remainder matters; taken early so that nothing overflows.
            let phase = (stride * (generation % FULL) + place * (FULL / 2)) % FULL;
            if phase >= FULL - stride {
                return place as usize;
            }
        }
    }
}

/// Generations in a full cycle: the largest u16, as in gRPC.
const FULL: u64 = u16::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32], draws: u32) -> Vec<f64> {
        let rotation = Rotation::new(weights, 0x1234_5678_9abc_def0);
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..draws {
            counts[rotation.next()] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(draws)).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        let rotation = Rotation::new(&[7, 7, 7], 0);
        let turns: Vec<_> = (0..7).map(|_| rotation.next()).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn each_place_gets_its_share() {
        for weights in [&[1, 2, 7][..], &[1, 1], &[100, 1], &[u32::MAX, u32::MAX / 3], &[3]] {
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (weight, got) in weights.iter().zip(shares(weights, 100_000)) {
                let expected = f64::from(*weight) / total;
                assert!((got - expected).abs() <= 0.02 * expected, "{weights:?} {weight} {got}");
            }
        }
    }

    #[test]
    fn turns_of_a_heavy_place_are_spread() {
        let rotation = Rotation::new(&[1, 3], 0);
        let turns: Vec<_> = (0..400).map(|_| rotation.next()).collect();
        let longest = turns.split(|place| *place == 0).map(<[usize]>::len).max();
        assert!(longest <= Some(4), "{longest:?}");
    }
}
