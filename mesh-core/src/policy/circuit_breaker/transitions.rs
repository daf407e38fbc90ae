//! How often breakers changed their state.
//!
//! Decides: nothing. Invariant: one count for each transition, whichever thread caused it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::State;

/// Transitions of one breaker, or of all breakers of a cluster.
#[derive(Debug, Default)]
pub struct Transitions([AtomicU64; State::ALL.len()]);

impl Transitions {
    /// Transitions into `state` so far.
    pub fn read(&self, state: State) -> u64 {
        self.0[state as usize].load(Ordering::Relaxed)
    }

    pub(super) fn to(&self, state: State) {
        self.0[state as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl State {
    /// Every state, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its name in metrics, status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}
