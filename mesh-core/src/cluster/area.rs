//! A part of a cluster's endpoints among which one is drawn: a level, a tier, a locality.
//!
//! Decides: the next member in order. Never: whether it is fit. Invariant: an area is never empty; its
//! counts are those of the last census, and at first say that every member is healthy.

use std::sync::atomic::{AtomicU32, Ordering};

use super::order::Order;

/// Members, by index into the picker's endpoints.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) members: Box<[u32]>,
    pub(super) order: Order,
    healthy: AtomicU32,
    degraded: AtomicU32,
}

impl Area {
    pub(super) fn new(members: Vec<u32>, order: Order) -> Self {
        let all = members.len() as u32;
        Self { members: members.into(), order, healthy: AtomicU32::new(all), degraded: AtomicU32::new(0) }
    }

    pub(super) fn len(&self) -> u32 {
        self.members.len() as u32
    }

    /// The next member.
    pub(super) fn next(&self, rng: &mut fastrand::Rng) -> usize {
        self.members[self.order.next(rng)] as usize
    }

    /// The members, one after the other.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|index| *index as usize)
    }

    /// Draws before the area is walked. Turns may pass every member twice, to stay fair when some are
    /// left out. Chance gives up when so few are accepted that a walk is cheaper.
    pub(super) fn quick_draws(&self) -> usize {
        if self.order.is_turns() { self.members.len().saturating_mul(2).min(MOST_DRAWS) } else { CHANCE_DRAWS }
    }

    /// What the last census counted: healthy, degraded.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.healthy.load(Ordering::Relaxed), self.degraded.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self, healthy: u32, degraded: u32) {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.degraded.store(degraded, Ordering::Relaxed);
    }
}

/// With half of the members accepted, 16 draws in vain happen once in 65 536 picks.
const CHANCE_DRAWS: usize = 16;
/// Bounds the draws by turn in a large area: 128 counter steps, below two microseconds.
const MOST_DRAWS: usize = 128;
