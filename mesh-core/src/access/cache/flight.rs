//! One call for many: who asks, and who waits for the answer.
//!
//! Decides: who leads. Never: lets a waiter take an answer to a different question; the answer's own
//! reference set says whether it is the same.
//! Invariant: a flight always ends. A leader that is dropped frees its waiters to try for themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foldhash::quality::RandomState;
use tokio::sync::watch;

use super::key::Key;
use super::references::ReferenceSet;
use super::{Answer, Asked, CheckCache, Refusal};
use crate::access::attributes::Attributes;
use crate::access::verdict::{Failure, Verdict};

type LandingReceiver = watch::Receiver<Option<Landing>>;

/// Calls in flight.
#[derive(Default)]
pub(super) struct Flights {
    by_key: Mutex<HashMap<Box<[u8]>, LandingReceiver>>,
}

/// How a flight ended.
#[derive(Clone)]
pub enum Landing {
    /// An answer that was kept. [`CheckCache::share`] says whether it is also the waiter's.
    Answered(Shared),
    /// An answer for the leader alone.
    NotShared,
    /// The call failed; asking again at once would not help.
    Failed(Arc<Failure>),
    /// The leader went away without an answer.
    Abandoned,
}

/// An answer and the question it answers.
#[derive(Clone)]
pub struct Shared {
    pub(super) verdict: Arc<Verdict>,
    pub(super) set: Arc<ReferenceSet>,
    pub(super) key: Key,
    pub(super) is_limited: bool,
}

/// What the answer of a flight is to who waited for it.
pub enum Share {
    /// An answer to this request, too.
    Same(Arc<Verdict>),
    /// It answers so many requests only. Who waited for it takes one of its uses like anybody else, by looking it up.
    ForFew,
    /// It answers another question.
    Other,
}

/// A place among those who wait.
pub struct Flight {
    receiver: LandingReceiver,
}

impl Flight {
    /// Waits for the end. The deadline is the caller's: dropping this costs nobody anything.
    pub async fn landing(mut self) -> Landing {
        match self.receiver.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Landing::Abandoned),
            Err(_) => Landing::Abandoned,
        }
    }
}

/// The duty to ask the server, and to say what came of it.
pub struct FlightLeader<S: BuildHasher + Clone = RandomState> {
    cache: Arc<CheckCache<S>>,
    asked: Asked,
    registration: Option<Registration>,
}

struct Registration {
    key: Box<[u8]>,
    sender: watch::Sender<Option<Landing>>,
}

impl<S: BuildHasher + Clone> FlightLeader<S> {
    pub(super) fn alone(cache: Arc<CheckCache<S>>, asked: Asked) -> Self {
        Self { cache, asked, registration: None }
    }

    /// Becomes the leader of a flight, or finds the one under way.
    pub(super) fn register(cache: &Arc<CheckCache<S>>, key: Box<[u8]>, asked: Asked) -> Result<Self, Flight> {
        let mut flights = cache.flights.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(key) {
            Entry::Occupied(flight) => Err(Flight { receiver: flight.get().clone() }),
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                let registration = Some(Registration { key: place.key().clone(), sender });
                place.insert(receiver);
                Ok(Self { cache: cache.clone(), asked, registration })
            }
        }
    }

    /// Whether others may be waiting for this call.
    pub fn may_be_awaited(&self) -> bool {
        self.registration.is_some()
    }

    /// The server answered. The answer is kept if it may be, no longer than `max_expiry`.
    pub fn complete(
        mut self,
        attributes: &Attributes<'_>,
        answer: Answer,
        max_expiry: Option<Instant>,
    ) -> Result<(), Refusal> {
        let stored = self.cache.store(attributes, answer, self.asked, max_expiry);
        self.cache.land(&stored);
        match stored {
            Ok(shared) => {
                self.end(Landing::Answered(shared));
                Ok(())
            }
            Err(refusal) => {
                self.end(Landing::NotShared);
                Err(refusal)
            }
        }
    }

    /// The call failed.
    pub fn fail(mut self, failure: Arc<Failure>) {
        self.end(Landing::Failed(failure));
    }

    /// Leaves the list before telling, so that nobody joins a flight that is over.
    fn end(&mut self, landing: Landing) {
        let Some(Registration { key, sender }) = self.registration.take() else { return };
        self.cache.flights.by_key.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        sender.send_replace(Some(landing));
    }
}

impl<S: BuildHasher + Clone> Drop for FlightLeader<S> {
    fn drop(&mut self) {
        self.end(Landing::Abandoned);
    }
}
