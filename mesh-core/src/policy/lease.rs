//! A limit that others keep count of, asked for many requests at once: the prefetch of Istio's Mixer.
//!
//! Decides: whether a request passes on what was granted, and when to ask for how much more. Never: asks itself,
//! reads a clock, believes a grant longer than the one who gave it.
//! Invariant: what passed is never more than what was granted and `max` together, outages aside; what was spent
//! before it was granted is paid by the next grant.

mod grants;
mod keyed;
mod rate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::grants::Grants;
pub use self::keyed::{Leases, Slot, lock};
use self::rate::LastSecond;
use super::Invalid;

/// How much is asked for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    min: u32,
    max: u32,
    ttl: Duration,
    spends_in_advance: bool,
}

impl Terms {
    /// From `min` to `max` requests; a grant lasts `ttl` at most. Who spends in advance never waits for a grant, and
    /// takes a question without an answer for a yes.
    pub fn new((min, max): (u32, u32), ttl: Duration, spends_in_advance: bool) -> Result<Self, Invalid> {
        if min == 0 {
            return Err(Invalid { field: "min", must: "be at least 1" });
        }
        if min > max {
            return Err(Invalid { field: "max", must: "be at least `min`" });
        }
        if ttl.is_zero() {
            return Err(Invalid { field: "ttl", must: "be more than 0s" });
        }
        Ok(Self { min, max, ttl, spends_in_advance })
    }
}

/// What one set of descriptors was granted, and what was spent of it.
#[derive(Debug)]
pub struct Lease {
    terms: Terms,
    state: State,
    rate: LastSecond,
    grants: Grants,
    /// Questions without an answer yet.
    in_flight: u32,
    /// What those of them ask for that may be spent before.
    asked: u32,
    /// What was spent of it.
    spent: u32,
    /// What was spent and then not granted.
    debt: u32,
    /// The most that is worth asking for: small after a refusal, doubled by each full grant.
    worth: u32,
}

/// What to do with a request, and what to ask beside that.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The request.
    pub decision: Decision,
    /// The question that is due. It has to be settled, or said to have failed.
    pub ask: Option<Ask>,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Pass,
    /// It passes because nobody answers.
    Unpaid,
    /// It is over the limit.
    Over {
        /// When there is something again, where that is known.
        retry_after: Option<Duration>,
    },
    /// It has to wait for the answer to this step's question.
    Wait,
}

/// A question for so many requests.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask {
    /// So many.
    pub amount: u32,
    is_in_advance: bool,
}

/// What was said to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grant {
    /// So many requests.
    pub amount: u32,
    /// Until when they may be made; `None`: as long as the terms say.
    pub until: Option<Instant>,
    /// What is left beyond them, where that is known.
    pub remaining: Option<u32>,
    /// Whether it is all there is until then, so that asking before is of no use (the `quota` of RLS).
    pub is_quota: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Questions are answered with what they ask for.
    Open,
    /// The last one was not; the next is asked then.
    Closed { ask_at: Instant, reset: Option<Instant> },
    /// A quota is all there is until then.
    Quota { until: Instant },
    /// The last question was not answered; the next is asked then.
    Down { ask_at: Instant },
}

impl Lease {
    /// Nothing is known yet.
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self {
            terms,
            state: State::Open,
            rate: LastSecond::new(now),
            grants: Grants::default(),
            in_flight: 0,
            asked: 0,
            spent: 0,
            debt: 0,
            worth: terms.max,
        }
    }

    /// A request comes.
    pub fn take(&mut self, now: Instant) -> Step {
        self.rate.count(now);
        self.grants.expire(now);
        if matches!(self.state, State::Quota { until } if until <= now) {
            self.state = State::Open;
        }
        let ask = self.ask(now);
        let decision = if self.spend() {
            Decision::Pass
        } else if ask.is_some() {
            Decision::Wait
        } else {
            self.refuse(now)
        };
        Step { decision, ask }
    }

    /// A question was answered.
    pub fn settle(&mut self, ask: &Ask, grant: Grant, now: Instant) {
        self.close(ask);
        self.state = if grant.amount >= ask.amount {
            self.worth = self.worth.saturating_mul(2).min(self.terms.max);
            State::Open
        } else {
            self.worth = 1;
            let reset = grant.until.filter(|reset| *reset > now);
            let ask_at = now + PAUSE;
            State::Closed { ask_at: reset.map_or(ask_at, |reset| reset.min(ask_at)), reset }
        };
        self.worth = grant.remaining.map_or(self.worth, |left| self.worth.min(left.max(1)));
        self.receive(grant, now);
    }

    /// A quota that others share: it takes the place of what was granted, and what is owed is paid by it.
    fn renew(&mut self, owed: u32, grant: Grant, now: Instant) {
        self.debt = self.debt.saturating_add(owed);
        self.receive(grant, now);
    }

    fn receive(&mut self, grant: Grant, now: Instant) {
        let mut left = grant.amount;
        for owed in [&mut self.debt, &mut self.spent] {
            let paid = left.min(*owed);
            *owed -= paid;
            left -= paid;
        }
        self.debt += self.take_unpaid();
        let end = crate::time::after(now, self.terms.ttl);
        let until = grant.until.map_or(end, |until| until.min(end));
        if grant.is_quota {
            self.grants.clear();
            self.state = State::Quota { until };
        }
        self.grants.add(left, until, now);
    }

    /// The request that waited for an answer, after that was settled.
    pub fn resume(&mut self, now: Instant) -> Decision {
        self.grants.expire(now);
        if self.grants.spend() { Decision::Pass } else { self.refuse(now) }
    }

    /// A question got no answer. Returns how many requests have passed on it.
    pub fn fail(&mut self, ask: &Ask, now: Instant) -> u32 {
        self.close(ask);
        let unpaid = self.take_unpaid();
        if self.terms.spends_in_advance {
            self.state = State::Down { ask_at: now + PAUSE };
        }
        unpaid
    }

    /// Whether nothing is lost when it is forgotten.
    fn is_idle(&self, now: Instant) -> bool {
        self.in_flight == 0 && now.saturating_duration_since(self.rate.last()) >= IDLE
    }

    fn close(&mut self, ask: &Ask) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if ask.is_in_advance {
            self.asked = self.asked.saturating_sub(ask.amount);
        }
    }

    /// What was spent on questions that are answered by now.
    fn take_unpaid(&mut self) -> u32 {
        let unpaid = self.spent.saturating_sub(self.asked);
        self.spent -= unpaid;
        unpaid
    }

    fn spend(&mut self) -> bool {
        if self.grants.spend() {
            return true;
        }
        let is_covered = self.spent < self.asked;
        self.spent += u32::from(is_covered);
        is_covered
    }

    fn refuse(&self, now: Instant) -> Decision {
        let wait = |until: Instant| until.saturating_duration_since(now);
        match self.state {
            State::Down { .. } => Decision::Unpaid,
            State::Closed { ask_at, reset } => Decision::Over { retry_after: Some(wait(reset.unwrap_or(ask_at))) },
            State::Quota { until } => Decision::Over { retry_after: Some(wait(until)) },
            // What was granted has paid what was owed: the next question is asked at once.
            State::Open => Decision::Over { retry_after: Some(PAUSE) },
        }
    }

    /// The question that is due now.
    fn ask(&mut self, now: Instant) -> Option<Ask> {
        let desired = desired(self.terms, self.rate.total(now));
        let available = self.grants.total().saturating_add(self.asked - self.spent);
        if !is_due(available, desired, self.in_flight > 0) {
            return None;
        }
        let worth = desired.min(self.worth);
        let ask = match self.state {
            State::Quota { .. } => return None,
            State::Closed { ask_at, .. } | State::Down { ask_at } if now < ask_at => return None,
            State::Closed { .. } if self.in_flight > 0 => return None,
            State::Open | State::Down { .. } if self.terms.spends_in_advance && self.debt == 0 => {
                match self.terms.max - self.asked {
                    0 => Ask { amount: 1, is_in_advance: false },
                    room => Ask { amount: worth.min(room), is_in_advance: true },
                }
            }
            // Somebody asks for all already: this request asks for itself.
            State::Open | State::Down { .. } if self.in_flight > 0 => Ask { amount: 1, is_in_advance: false },
            _ => Ask { amount: worth, is_in_advance: false },
        };
        self.in_flight += 1;
        if ask.is_in_advance {
            self.asked += ask.amount;
        }
        Some(ask)
    }
}

/// What to have in stock: what came in the last second, within the terms.
fn desired(terms: Terms, last_second: u32) -> u32 {
    last_second.clamp(terms.min, terms.max)
}

/// Mixer's rule: below half, unless somebody asks already; or nothing for this request.
const fn is_due(available: u32, desired: u32, is_asking: bool) -> bool {
    (available < desired / 2 && !is_asking) || available < 1
}

/// After a question that was not granted, or not answered (Mixer's close mode).
const PAUSE: Duration = Duration::from_millis(500);
/// Mixer's idle expiry.
const IDLE: Duration = Duration::from_secs(600);
