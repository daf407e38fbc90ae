//! A guarded operation: the resilience of a call that is not HTTP.
//!
//! Decides: whether an operation may start, how long each attempt may take, and whether it is tried again,
//! with the engines that govern requests: retry, budget, breaker, concurrency limit.
//! Never: runs the operation, sleeps, or looks at its result; it is told a [`Class`] and answers a [`Step`].
//! Invariant: an operation that may have acted is repeated only where somebody declared it idempotent, and
//! whatever ends early (a cancelled task, a dropped session) gives back what it held and judges nobody.

mod outcome;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::budget::{Budget, BudgetConfig};
use super::circuit_breaker::{BreakerConfig, CircuitBreaker, State};
use super::concurrency::ConcurrencyLimit;
use super::retry::{RetryPolicy, StopReason};

pub use outcome::{Class, Outcome};
pub use session::{Asked, Ending, Session, Step};

/// What the operator allows a guarded operation.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The name that code asks for.
    pub name: Arc<str>,
    /// Bounds the whole call, waits included.
    pub timeout: Option<Duration>,
    /// Bounds each attempt.
    pub attempt_timeout: Option<Duration>,
    /// How often, and after which wait; its HTTP conditions do not apply.
    pub retry: Arc<RetryPolicy>,
    /// When the operation is left alone for a while.
    pub breaker: BreakerConfig,
    /// Calls in flight at once.
    pub max_in_flight: u32,
    /// How much extra load retries may be.
    pub budget: BudgetConfig,
    /// Doing it twice does no more than doing it once.
    pub idempotent: bool,
}

/// The live state of a guard. Calls in flight keep the one they started with.
#[derive(Debug)]
pub struct Guarded {
    /// What the operator allows.
    pub terms: Terms,
    breaker: Arc<CircuitBreaker>,
    limit: Arc<ConcurrencyLimit>,
    budget: Arc<Budget>,
    counts: Arc<Counts>,
}

impl Guarded {
    /// Fresh, or with what fits of `previous`: its counts and its places in flight always, its budget when
    /// the terms are the same, its breaker where it stands, under the new terms.
    pub fn new(terms: Terms, previous: Option<&Self>, now: Instant) -> Self {
        let breaker = match previous.map(|previous| &previous.breaker) {
            Some(breaker) if *breaker.config() == terms.breaker => Arc::clone(breaker),
            Some(breaker) => breaker.under(terms.breaker, now),
            None => CircuitBreaker::new(terms.breaker, now),
        };
        let budget = previous
            .filter(|previous| previous.terms.budget == terms.budget)
            .map_or_else(|| Arc::new(Budget::new(terms.budget)), |previous| Arc::clone(&previous.budget));
        let limit =
            previous.map_or_else(|| ConcurrencyLimit::new(terms.max_in_flight), |previous| Arc::clone(&previous.limit));
        let counts = previous.map(|previous| Arc::clone(&previous.counts)).unwrap_or_default();
        Self { terms, breaker, limit, budget, counts }
    }

    /// Puts its terms in force where it shares live state with the guard before it.
    pub fn take_over(&self) {
        self.limit.resize(self.terms.max_in_flight);
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.limit.in_flight()
    }

    /// Retries that could be paid now.
    pub fn budget_balance(&self, now: Instant) -> u64 {
        self.budget.balance(now)
    }

    /// Where the breaker stands.
    pub fn breaker_state(&self, now: Instant) -> State {
        self.breaker.state(now)
    }

    /// What was counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// For the admin endpoint.
    pub fn status(&self, now: Instant) -> Value {
        let calls: serde_json::Map<String, Value> =
            End::ALL.iter().map(|end| (end.as_str().to_owned(), json!(self.counts.calls(*end)))).collect();
        json!({
            "in_flight": self.in_flight(),
            "max_in_flight": self.limit.max(),
            "circuit_breaker": self.breaker_state(now).as_str(),
            "retry_budget": self.budget_balance(now),
            "attempts": self.counts.attempts(),
            "retries": self.counts.retries(),
            "calls": calls,
        })
    }
}

/// How a guarded call ended, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// It worked.
    Success,
    /// It was answered "no": the caller's fault.
    Rejected,
    /// Its last attempt failed.
    Failure,
    /// It was given up, or told nothing.
    Ignored,
    /// The whole call ran out of time.
    Timeout,
    /// The last attempt ran out of time.
    AttemptTimeout,
    /// Too many calls were in flight.
    Overloaded,
    /// The breaker was open.
    CircuitOpen,
}

impl End {
    /// Every end, in the order they are counted.
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Rejected,
        Self::Failure,
        Self::Ignored,
        Self::Timeout,
        Self::AttemptTimeout,
        Self::Overloaded,
        Self::CircuitOpen,
    ];

    /// The stable name, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
            Self::Failure => "failure",
            Self::Ignored => "ignored",
            Self::Timeout => "timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// What a guard has counted since it was first configured.
#[derive(Debug, Default)]
pub struct Counts {
    calls: [AtomicU64; End::ALL.len()],
    attempts: AtomicU64,
    retries: AtomicU64,
    refused: [AtomicU64; RETRY_REFUSALS.len()],
}

impl Counts {
    /// Calls that ended like this.
    pub fn calls(&self, end: End) -> u64 {
        self.calls[end as usize].load(Ordering::Relaxed)
    }

    /// Attempts, the first of each call included.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Retries granted.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Retries that were wanted and not made, by what forbade them.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        RETRY_REFUSALS.iter().zip(&self.refused).map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
    }

    fn ended(&self, end: End) {
        self.calls[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn attempt_started(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts nothing for a reason that is no refusal.
    fn retry_refused(&self, reason: &str) {
        if let Some(at) = RETRY_REFUSALS.iter().position(|known| *known == reason) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What can stand against a retry that the outcome asked for.
pub const RETRY_REFUSALS: [&str; 5] = [
    StopReason::NonIdempotent.as_str(),
    StopReason::AttemptsExhausted.as_str(),
    StopReason::NoTime.as_str(),
    StopReason::BudgetEmpty.as_str(),
    CIRCUIT_OPEN,
];
const CIRCUIT_OPEN: &str = "circuit_open";

#[cfg(test)]
mod tests;
