//! One guarded call, step by step.
//!
//! ```text
//!  begin --> proceed --> Proceed --(the operation runs)--> ended --> Wait --(time passes)--> proceed ...
//!               |                                            |
//!               +--------------> Stop <----------------------+
//! ```
//! Every language drives this machine; none of them decides. Invariant: after [`Step::Stop`] nothing is held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CIRCUIT_OPEN, Class, End, Guarded, Outcome};
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::policy::circuit_breaker::Permit;
use crate::policy::concurrency;
use crate::policy::retry::{RetryState, StopReason};
use crate::policy::timeout::{self, Limits};

/// What the caller of one call says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// The caller's own bound; the guard's still applies.
    pub timeout: Option<Duration>,
    /// When whoever is served by this call stops waiting.
    pub deadline: Option<Instant>,
    /// Overrides what the configuration says about doing it twice.
    pub idempotent: Option<bool>,
}

/// What to do next.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Run the operation, and give it up at `until`.
    Proceed {
        /// When this attempt is over; `None`: no limit.
        until: Option<Instant>,
    },
    /// Wait, then ask to proceed.
    Wait {
        /// How long.
        length: Duration,
    },
    /// The call is over.
    Stop(Ending),
}

/// How a call is over.
#[derive(Debug)]
pub enum Ending {
    /// The outcome of the last attempt is the caller's.
    Own,
    /// The guard's own error is the caller's: it refused, or cut the last attempt.
    Refused(Error),
}

/// One guarded call.
#[derive(Debug)]
pub struct Session {
    guarded: Arc<Guarded>,
    retry: RetryState,
    idempotent: bool,
    deadline: Option<Instant>,
    attempts: u32,
    /// Why there was no further attempt.
    reason: &'static str,
    /// The last outcome that was told.
    last: Option<Class>,
    leave: Option<Permit>,
    /// `None` once the call is over.
    place: Option<concurrency::Permit>,
}

impl Session {
    /// Admits a call, or refuses it before anything was done.
    pub fn begin(guarded: &Arc<Guarded>, asked: Asked, now: Instant) -> Result<Self, Error> {
        let terms = &guarded.terms;
        let limits = Limits { application: asked.timeout, route: terms.timeout, ..Limits::default() };
        let place = guarded.limit.admit().map_err(|full| {
            guarded.counts.ended(End::Overloaded);
            let message = format!("guard {}: {} calls are in flight, its limit", terms.name, full.max);
            Error::new(ErrorKind::Overloaded, message)
        })?;
        Ok(Self {
            retry: RetryState::start(Arc::clone(&terms.retry), Arc::clone(&guarded.budget), now),
            idempotent: asked.idempotent.unwrap_or(terms.idempotent),
            deadline: timeout::earlier(asked.deadline, limits.deadline(now)),
            attempts: 0,
            reason: "",
            last: None,
            leave: None,
            place: Some(place),
            guarded: Arc::clone(guarded),
        })
    }

    /// Starts an attempt: the first, or the one after a wait.
    pub fn proceed(&mut self, now: Instant) -> Step {
        if self.place.is_none() {
            return Step::Stop(Ending::Own);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return self.refuse(StopReason::NoTime.as_str(), |session| session.timed_out(now));
        }
        // An attempt whose end was never told says nothing.
        self.leave = None;
        match self.guarded.breaker.admit(now) {
            Ok(permit) => self.leave = Some(permit),
            Err(refused) => {
                return self.refuse(CIRCUIT_OPEN, |session| session.circuit_open(refused.retry_after));
            }
        }
        self.attempts += 1;
        self.guarded.counts.attempt_started();
        let limit = timeout::attempt_limit(self.guarded.terms.attempt_timeout, timeout::time_left(self.deadline, now));
        Step::Proceed { until: limit.map(|limit| crate::time::after(now, limit)) }
    }

    /// Judges the attempt that was running, and decides what follows.
    pub fn ended(&mut self, outcome: Outcome, now: Instant, rng: &mut fastrand::Rng) -> Step {
        if self.place.is_none() {
            return Step::Stop(Ending::Own);
        }
        self.last = Some(outcome.class);
        if let Some(leave) = self.leave.take() {
            leave.record(outcome.class.into(), now, rng);
        }
        match self.try_again(outcome, now, rng) {
            Ok(length) => {
                self.guarded.counts.retried();
                Step::Wait { length }
            }
            Err(reason) => {
                self.guarded.counts.retry_refused(reason);
                self.stop(reason, now)
            }
        }
    }

    /// Attempts started.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Why there was no further attempt; empty while the call is not over.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// When the whole call is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether an attempt is running.
    pub fn is_running(&self) -> bool {
        self.leave.is_some()
    }

    fn try_again(&mut self, outcome: Outcome, now: Instant, rng: &mut fastrand::Rng) -> Result<Duration, &'static str> {
        let class = outcome.class;
        if class == Class::Success {
            return Err(StopReason::Success.as_str());
        }
        if !class.is_worth_a_retry() {
            return Err(StopReason::NotRetriable.as_str());
        }
        if class.may_have_acted() && !self.idempotent {
            return Err(StopReason::NonIdempotent.as_str());
        }
        // It would be refused anyway: neither wait for that nor pay for it.
        if self.guarded.breaker.is_open(now) {
            return Err(CIRCUIT_OPEN);
        }
        self.retry.grant(outcome.retry_after, self.deadline, now, rng).map_err(StopReason::as_str)
    }

    /// The end after an attempt: its own outcome, or our error when we were the ones who cut it.
    fn stop(&mut self, reason: &'static str, now: Instant) -> Step {
        let (ending, end) = match self.last {
            Some(Class::Success) => (Ending::Own, End::Success),
            Some(Class::Rejected) => (Ending::Own, End::Rejected),
            Some(Class::Ignored) | None => (Ending::Own, End::Ignored),
            Some(Class::TimedOut) => {
                let error = self.timed_out(now);
                let end = if error.kind() == ErrorKind::Timeout { End::Timeout } else { End::AttemptTimeout };
                (Ending::Refused(error), end)
            }
            Some(Class::Failed | Class::Transient | Class::Unprocessed | Class::Throttled) => {
                (Ending::Own, End::Failure)
            }
        };
        self.close(reason, end);
        Step::Stop(ending)
    }

    /// The end before an attempt. An outcome that the caller already holds says more than our refusal.
    fn refuse(&mut self, reason: &'static str, error: impl FnOnce(&Self) -> Error) -> Step {
        if self.last.is_some_and(|last| last != Class::TimedOut) {
            self.guarded.counts.retry_refused(reason);
            self.close(reason, End::Failure);
            return Step::Stop(Ending::Own);
        }
        let error = error(self);
        let end = if error.kind() == ErrorKind::CircuitOpen { End::CircuitOpen } else { End::Timeout };
        self.close(reason, end);
        Step::Stop(Ending::Refused(error))
    }

    fn close(&mut self, reason: &'static str, end: End) {
        self.reason = reason;
        self.leave = None;
        if self.place.take().is_some() {
            self.guarded.counts.ended(end);
        }
    }

    fn timed_out(&self, now: Instant) -> Error {
        let name = &self.guarded.terms.name;
        let (kind, message) = if self.deadline.is_some_and(|deadline| deadline <= now) {
            (ErrorKind::Timeout, format!("guard {name}: the call ran out of time"))
        } else {
            (ErrorKind::AttemptTimeout, format!("guard {name}: the attempt ran out of time"))
        };
        self.error(kind, message, None)
    }

    fn circuit_open(&self, retry_after: Option<Duration>) -> Error {
        let message = format!("guard {}: the circuit breaker is open", self.guarded.terms.name);
        self.error(ErrorKind::CircuitOpen, message, retry_after)
    }

    fn error(&self, kind: ErrorKind, message: String, retry_after: Option<Duration>) -> Error {
        let sent = if self.attempts == 0 { Sent::Never } else { Sent::Maybe };
        let place = Place { attempts: self.attempts, retry_after, ..Place::default() };
        Error::new(kind, message).with_sent(sent).with_place(place)
    }
}

/// A call that is dropped was given up: it counts, and says nothing about the operation.
impl Drop for Session {
    fn drop(&mut self) {
        self.close("", End::Ignored);
    }
}
