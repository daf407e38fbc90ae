//! The gate of a listener: a request passes, waits for a place, or is turned away.
//!
//! Decides: nothing; the limit and the waiting room do. Never: lets a request wait beyond its deadline.
//! Invariant: a place that becomes free goes to whoever waits for it, and only then to who comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use crate::policy::concurrency::{ConcurrencyLimit, Permit};
use crate::policy::waiting::{Arrival, Entered, WaitingRoom};
use crate::snapshot::Intake;
use crate::time::Clock;

/// What stands between a listener and its application.
pub struct Gate {
    open: ArcSwapOption<Open>,
    clock: Arc<dyn Clock>,
}

/// A gate with a limit.
struct Open {
    terms: Intake,
    state: Arc<State>,
}

struct State {
    limit: Arc<ConcurrencyLimit>,
    room: Mutex<WaitingRoom<oneshot::Sender<Inside>>>,
    clock: Arc<dyn Clock>,
}

/// Turned away: nothing of the request was acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnedAway {
    /// Whether it waited first.
    pub waited: bool,
    /// The limit that was met.
    pub limit: u32,
}

/// A request inside. Dropped, its place goes to the next.
pub struct Inside {
    permit: Option<Permit>,
    /// Taken: nobody is called.
    state: Option<Arc<State>>,
}

impl Gate {
    /// A gate that lets everything pass.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { open: ArcSwapOption::empty(), clock }
    }

    /// Puts terms in force; who is inside or waits stays. `None` lets everything pass.
    pub fn retune(&self, terms: Option<Intake>) {
        let before = self.open.load_full();
        if before.as_ref().map(|open| open.terms) == terms {
            return;
        }
        let after = terms.map(|terms| {
            let state = before.map_or_else(|| State::new(&terms, &self.clock), |open| Arc::clone(&open.state));
            state.limit.retune(terms.limit);
            state.room().resize(terms.waiting, terms.max_wait);
            Arc::new(Open { terms, state })
        });
        self.open.store(after);
    }

    /// Lets a request in, at once or after a wait. `Ok(None)`: there is no limit.
    pub async fn enter(&self, arrival: Arrival) -> Result<Option<Inside>, TurnedAway> {
        let Some(open) = self.open.load_full() else { return Ok(None) };
        let state = &open.state;
        let now = self.clock.now();
        // Who waits goes before who comes, unless the one who comes matters more.
        let is_first = || state.room().best_class(now).is_none_or(|waiting| waiting < arrival.class);
        let refused = match is_first().then(|| state.limit.admit_class(arrival.class)) {
            Some(Ok(permit)) => return Ok(Some(Inside::new(permit, state))),
            Some(Err(refused)) => refused.max,
            None => state.limit.limit_of(arrival.class),
        };
        let (ticket, place) = oneshot::channel();
        let away = |waited| TurnedAway { waited, limit: refused };
        let until = state.wait(arrival, ticket, now).ok_or(away(false))?;
        // A place may have become free before the ticket was in the room.
        state.call_next();
        tokio::select! {
            biased;
            place = place => match place {
                Ok(inside) => Ok(Some(inside)),
                Err(_) => Err(away(true)),
            },
            () = self.clock.sleep_until(until) => Err(away(true)),
        }
    }

    /// Who waits now, who is inside, and the limit in force; `None` without one.
    pub fn counts(&self) -> Option<(usize, u32, u32)> {
        let open = self.open.load_full()?;
        let mut room = open.state.room();
        room.retain(|ticket| !ticket.is_closed());
        let waiting = room.len();
        drop(room);
        Some((waiting, open.state.limit.in_flight(), open.state.limit.limit()))
    }
}

impl State {
    fn new(terms: &Intake, clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            limit: ConcurrencyLimit::with(terms.limit),
            room: Mutex::new(WaitingRoom::new(terms.waiting, terms.max_wait)),
            clock: Arc::clone(clock),
        })
    }

    fn room(&self) -> MutexGuard<'_, WaitingRoom<oneshot::Sender<Inside>>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when the arrival waits; `None` when there is no room.
    fn wait(&self, arrival: Arrival, ticket: oneshot::Sender<Inside>, now: Instant) -> Option<Instant> {
        let mut room = self.room();
        if room.is_full() {
            room.retain(|ticket| !ticket.is_closed());
        }
        let entered = room.enter(arrival, ticket, now);
        // Whoever is displaced learns it when its ticket is dropped; not while the room is locked.
        drop(room);
        match entered {
            Entered::Waits(until) | Entered::Displaced(until, _) => Some(until),
            Entered::Full(_) => None,
        }
    }

    /// Gives free places to who waits.
    fn call_next(self: &Arc<Self>) {
        loop {
            let (now, mut room) = (self.clock.now(), self.room());
            let Some(class) = room.best_class(now) else { return };
            if self.limit.in_flight() >= self.limit.limit_of(class) {
                return;
            }
            let Ok(permit) = self.limit.admit_class(class) else { return };
            // It is of the class that was asked for: the same lock, the same moment.
            let next = room.next(now);
            drop(room);
            // Who has left gives the place back at once, and the next is called; who leaves later, when it
            // is dropped.
            let left = next.and_then(|ticket| ticket.send(Inside::new(permit, self)).err());
            if let Some(mut left) = left {
                left.state = None;
            }
        }
    }
}

impl Inside {
    fn new(permit: Permit, state: &Arc<State>) -> Self {
        Self { permit: Some(permit), state: Some(Arc::clone(state)) }
    }

    /// The application, asked at `started`, has answered; a limit that adapts learns how long it took.
    pub fn answered(&self, started: Instant, now: Instant) {
        if let Some(permit) = &self.permit {
            permit.record(started, false, now);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.permit.take());
        if let Some(state) = self.state.take() {
            state.call_next();
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
