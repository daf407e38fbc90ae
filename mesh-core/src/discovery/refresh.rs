//! How long an answer about a name is used, and when it is asked for again.
//!
//! Decides: when to ask, and which records hold now. Never: asks, waits, or knows a cluster.
//! Invariant: a failure to ask never takes records away before `max_stale`, and nothing keeps them after
//! it; one question is never asked twice at once.
//!
//! ```text
//!  asked -> answer: used for its time to live, then asked again
//!        -> none:   no records, asked again when that may have changed
//!        -> failed: the last records stay, asked again soon, then less and less often
//! ```

use std::time::{Duration, Instant};

use super::resolver::{Answer, Record, Unanswered};
use crate::time::after;

/// The terms of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Asked again this often; `None`: when the time to live ends.
    pub every: Option<Duration>,
    /// Never asked again sooner.
    pub min: Duration,
    /// How long records are used beyond their time to live.
    pub max_stale: Duration,
    /// Whether "there is none" leaves the last records in use, as a failure does.
    pub keeps_when_none: bool,
}

/// The state of one question.
#[derive(Debug, Clone)]
pub struct Refresh {
    terms: Terms,
    due: Instant,
    is_asking: bool,
    asked_at: Option<Instant>,
    good: Option<Good>,
    failures: u32,
    outcome: Option<Outcome>,
}

/// How the last question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With records.
    Answered,
    /// There are none.
    None,
    /// Nobody could say.
    Failed(Unanswered),
}

#[derive(Debug, Clone)]
struct Good {
    records: Vec<Record>,
    confirmed: Instant,
    /// When the time to live ends; records are stale from then.
    expires: Instant,
}

impl Refresh {
    /// A question to be asked at once.
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self { terms, due: now, is_asking: false, asked_at: None, good: None, failures: 0, outcome: None }
    }

    /// Whether to ask now. `true` says so once, until it is answered.
    pub fn ask(&mut self, now: Instant) -> bool {
        let asks = !self.is_asking && self.due <= now;
        if asks {
            self.is_asking = true;
            self.asked_at = Some(now);
        }
        asks
    }

    /// When to look here again: to ask, or because records cease to hold.
    pub fn wake(&self) -> Option<Instant> {
        let asks = (!self.is_asking).then_some(self.due);
        let ends = self.good.as_ref().map(|good| self.ends(good));
        asks.into_iter().chain(ends).min()
    }

    /// Takes the answer in.
    pub fn answered(&mut self, answer: Result<Answer, Unanswered>, now: Instant, rng: &mut fastrand::Rng) {
        self.is_asking = false;
        let wait = match answer {
            Ok(Answer { records, ttl }) => {
                let ttl = ttl.unwrap_or_default();
                self.failures = 0;
                self.outcome = Some(Outcome::Answered);
                self.good = Some(Good { records, confirmed: now, expires: after(now, ttl) });
                self.terms.every.unwrap_or(ttl).min(LONGEST)
            }
            Err(Unanswered::None(ttl)) => {
                self.failures = 0;
                self.outcome = Some(Outcome::None);
                self.good = self.good.take().filter(|_| self.terms.keeps_when_none);
                // A name that appears is wanted soon, whatever its zone says about absence.
                self.terms.every.or(ttl).unwrap_or_default().min(LONGEST_ABSENCE)
            }
            Err(failed) => {
                self.failures += 1;
                self.outcome = Some(Outcome::Failed(failed));
                let doubled = self.terms.min.saturating_mul(1 << (self.failures - 1).min(16));
                doubled.min(LONGEST_RETRY)
            }
        };
        let wait = wait.max(self.terms.min);
        // Later, not sooner: an answer is honoured for its whole time to live.
        let jitter = (wait / 10).min(MOST_JITTER).mul_f64(rng.f64());
        self.due = after(now, wait + jitter);
    }

    /// Connections to what this answered fail: ask soon, however long the answer was to live.
    pub fn doubt(&mut self, now: Instant) {
        let soonest = self.asked_at.map_or(now, |asked| after(asked, self.terms.min));
        self.due = self.due.min(soonest.max(now));
    }

    /// The records that hold now.
    pub fn records(&self, now: Instant) -> &[Record] {
        match &self.good {
            Some(good) if now < self.ends(good) => &good.records,
            _ => &[],
        }
    }

    /// When the records that hold were last confirmed.
    pub fn confirmed(&self) -> Option<Instant> {
        self.good.as_ref().map(|good| good.confirmed)
    }

    /// How the last question ended; `None` until one has.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Drops records that no longer hold.
    pub fn expire(&mut self, now: Instant) {
        if self.good.as_ref().is_some_and(|good| self.ends(good) <= now) {
            self.good = None;
        }
    }

    fn ends(&self, good: &Good) -> Instant {
        // An answer is never dropped before the next one could have come.
        let renewal = self.terms.every.unwrap_or_default().max(self.terms.min) + MOST_JITTER + GRACE;
        after(good.expires.max(after(good.confirmed, renewal)), self.terms.max_stale)
    }
}

/// Time to live beyond which an answer is asked for again all the same: 5 min (ours).
const LONGEST: Duration = Duration::from_secs(300);
/// The same for "there is none": 30 s (ours; Envoy asks every 5 s).
const LONGEST_ABSENCE: Duration = Duration::from_secs(30);
/// Longest wait after a failure: 30 s (RFC 8767 4: no more often than every 30 s once stale).
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Most that a refresh comes late, so that callers which started together do not ask together.
const MOST_JITTER: Duration = Duration::from_millis(500);
/// Time for the answer itself, with `max_stale: 0s`: a default question takes at most 5 s.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
