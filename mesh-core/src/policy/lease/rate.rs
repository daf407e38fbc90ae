//! How many requests came in the last second.
//!
//! Decides: nothing; it counts, in tenths of a second. Invariant: what is older than a second is not counted.

use std::time::{Duration, Instant};

/// A count that forgets.
#[derive(Debug)]
pub(super) struct LastSecond {
    start: Instant,
    last: Instant,
    /// The tenth that is counted now, since the start.
    tick: u128,
    counts: [u32; SLOTS],
}

impl LastSecond {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, last: now, tick: 0, counts: [0; SLOTS] }
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.turn(now);
        self.last = self.last.max(now);
        let slot = slot(self.tick);
        self.counts[slot] = self.counts[slot].saturating_add(1);
    }

    pub(super) fn total(&mut self, now: Instant) -> u32 {
        self.turn(now);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// When something was counted last.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Time that runs backwards is counted where it was.
    fn turn(&mut self, now: Instant) {
        let tick = now.saturating_duration_since(self.start).as_nanos() / SLOT.as_nanos();
        for passed in (self.tick + 1..=tick).rev().take(SLOTS) {
            self.counts[slot(passed)] = 0;
        }
        self.tick = self.tick.max(tick);
    }
}

fn slot(tick: u128) -> usize {
    (tick % SLOTS as u128) as usize
}

const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_millis(100);
