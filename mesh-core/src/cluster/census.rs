//! When the members of a picker are counted.
//!
//! Decides: whether the last count may still be believed. Never: counts. Invariant: while every member was
//! healthy at the last count, nothing is counted again until a draw meets one that is not.
//!
//! A pick draws a member and looks whether it is fit; only the shares of levels, tiers and localities
//! need counts. So a healthy cluster is never walked, however large. Once a draw met an unfit member, all
//! are counted at most every 10 us per member (1 000 members: 10 ms), which bounds the cost to about a
//! hundredth of one core; up to 32 members are counted at every pick.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// What is known about the last count.
#[derive(Debug)]
pub(super) struct Census {
    is_whole: AtomicBool,
    base: OnceLock<Instant>,
    /// Nanoseconds from `base`.
    counted_at: AtomicU64,
    /// Nanoseconds a count is believed.
    valid_for: u64,
}

impl Census {
    /// Of so many members, all of which are believed to be healthy.
    pub(super) fn new(members: usize) -> Self {
        let valid_for = if members <= SMALL { 0 } else { members as u64 * NANOS_PER_MEMBER };
        Self { is_whole: AtomicBool::new(true), base: OnceLock::new(), counted_at: AtomicU64::new(0), valid_for }
    }

    /// Whether every member was healthy at the last count.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// Whether the caller is to count now. If it says yes, it says so to one caller only.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        if self.is_whole() {
            return false;
        }
        let since_base = self.since_base(now);
        let counted_at = self.counted_at.load(Ordering::Relaxed);
        since_base.saturating_sub(counted_at) >= self.valid_for
            && self.counted_at.compare_exchange(counted_at, since_base, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A count was made.
    pub(super) fn counted(&self, is_whole: bool, now: Instant) {
        self.counted_at.store(self.since_base(now), Ordering::Relaxed);
        self.is_whole.store(is_whole, Ordering::Relaxed);
    }

    fn since_base(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.base.get_or_init(|| now)).as_nanos() as u64
    }
}

/// Up to here a count costs less than a microsecond.
const SMALL: usize = 32;
/// How long a count is believed, per member; looking at one takes below 100 ns.
const NANOS_PER_MEMBER: u64 = 10_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_whole_cluster_is_never_counted_again_and_a_broken_one_now_and_then() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let census = Census::new(1000);
        assert!(!census.is_due(at(1_000_000)));
        census.counted(false, at(1_000_000));
        assert!(!census.is_due(at(1_000_009)));
        assert!(census.is_due(at(1_000_010)));
        assert!(!census.is_due(at(1_000_010)), "one caller counts, the others go on");
        census.counted(true, at(1_000_011));
        assert!(!census.is_due(at(2_000_000)));
    }

    #[test]
    fn a_small_cluster_is_counted_at_every_pick_while_something_is_down() {
        let now = Instant::now();
        let census = Census::new(32);
        census.counted(false, now);
        assert!(census.is_due(now) && census.is_due(now));
    }
}
