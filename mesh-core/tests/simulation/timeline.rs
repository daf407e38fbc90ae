//! Virtual time: what happens next.
//!
//! Invariant: events of one instant happen in the order they were planned, so a run depends on its seed alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Events yet to happen.
pub struct Timeline<E> {
    base: Instant,
    now: Duration,
    planned: u64,
    events: BinaryHeap<Reverse<(Duration, u64, Slot<E>)>>,
}

/// Compares equal to any other: only time and order of planning count.
struct Slot<E>(E);

impl<E> PartialEq for Slot<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<E> Eq for Slot<E> {}
impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Slot<E> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<E> Timeline<E> {
    pub fn new() -> Self {
        Self { base: Instant::now(), now: Duration::ZERO, planned: 0, events: BinaryHeap::new() }
    }

    /// As the engines want it.
    pub fn now(&self) -> Instant {
        self.base + self.now
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.now.as_secs_f64()
    }

    pub fn plan(&mut self, after: Duration, event: E) {
        self.planned += 1;
        self.events.push(Reverse((self.now + after, self.planned, Slot(event))));
    }

    /// Moves time to the next event.
    pub fn next(&mut self) -> Option<E> {
        let Reverse((at, _, Slot(event))) = self.events.pop()?;
        self.now = at;
        Some(event)
    }
}

/// The time to the next arrival of a Poisson process.
pub fn arrival(per_second: f64, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / per_second)
}

pub fn ms(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1000.0)
}

#[test]
fn events_happen_in_the_order_of_their_time_and_then_of_their_planning() {
    let mut line = Timeline::new();
    for (after, event) in [(2.0, 'c'), (1.0, 'a'), (2.0, 'd'), (1.0, 'b')] {
        line.plan(ms(after), event);
    }
    let order: String = std::iter::from_fn(|| line.next()).collect();
    assert_eq!((order.as_str(), line.elapsed()), ("abcd", ms(2.0)));
}
