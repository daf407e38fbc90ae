//! Whether a request is tried again.
//!
//! Decides: retry or stop after each attempt, how long to wait, and why not.
//! Never: sends, sleeps, picks an endpoint or keeps a body; it is told what happened and answers.
//! Invariant: a request that the peer may have acted on is sent again only if its method is idempotent
//! [RFC 9110 9.2.2] or the policy says that it may be; every retry granted has paid one budget token.
//!
//! The order of the questions is the order of their cost: a wrong answer to the first ones would be
//! unsafe, the last one spends a shared token and is asked only when nothing else speaks against it.

mod conditions;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method};

use super::backoff::Backoff;
use super::budget::Budget;
use super::retry_after::{Pushback, pushback, retry_after};
use crate::error::{ErrorKind, Sent};

pub use conditions::RetryConditions;

/// What the operator allows.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub retries: u32,
    /// What counts as worth another try.
    pub conditions: RetryConditions,
    /// HTTP statuses of the `retriable-status-codes` condition.
    pub retriable_codes: Vec<u16>,
    /// The wait when the server does not name one.
    pub backoff: Backoff,
    /// Also repeat POST, PATCH and CONNECT that the peer may have acted on. Off unless the route says so.
    pub non_idempotent: bool,
    /// The longest `Retry-After` that is waited for; a longer one ends the call.
    pub hint_cap: Duration,
}

/// Two retries on connect-failure, refused-stream and gateway-error, as the design's default resilience.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            conditions: RetryConditions::default(),
            retriable_codes: Vec::new(),
            backoff: Backoff::default(),
            non_idempotent: false,
            hint_cap: DEFAULT_HINT_CAP,
        }
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// A response head arrived. A gRPC trailers-only response carries its status in the head.
    Response {
        /// HTTP status.
        status: u16,
        /// `grpc-status` of the head, if it is there.
        grpc_status: Option<u16>,
        /// The head, for what the server says about coming back.
        headers: &'a HeaderMap,
    },
    /// No response head.
    Failure {
        /// What happened.
        kind: ErrorKind,
        /// Whether the peer can have acted on it.
        sent: Sent,
    },
}

/// What is true of the request at the moment of the decision.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts {
    /// The method may be repeated; see [`is_idempotent`].
    pub idempotent: bool,
    /// The body can be sent again from its first byte.
    pub body_replayable: bool,
    /// A part of the response was already handed to the caller.
    pub committed: bool,
    /// When the whole request must be answered.
    pub deadline: Option<Instant>,
    /// Calendar time, only to read a `Retry-After` date.
    pub wall: SystemTime,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this wait. A budget token is paid.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
    /// Give the caller the outcome as it is, now.
    Stop(StopReason),
}

/// Why a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// It worked.
    Success,
    /// The caller already holds a part of the response.
    Committed,
    /// The policy does not name this outcome.
    NotRetriable,
    /// The peer may have acted on a request that must not be repeated.
    NonIdempotent,
    /// The body is gone.
    BodyNotReplayable,
    /// Every try is used.
    AttemptsExhausted,
    /// The server forbids it.
    PushbackForbids,
    /// The wait leaves no time before the deadline, or exceeds the cap on server hints.
    NoTime,
    /// The upstream service has no retry budget left.
    BudgetEmpty,
}

impl StopReason {
    /// The stable name, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Committed => "committed",
            Self::NotRetriable => "not_retriable",
            Self::NonIdempotent => "non_idempotent",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::PushbackForbids => "pushback_forbids",
            Self::NoTime => "no_time",
            Self::BudgetEmpty => "budget_empty",
        }
    }
}

/// Whether a method may be repeated [RFC 9110 9.2.2; QUERY by its draft].
pub fn is_idempotent(method: &Method) -> bool {
    IDEMPOTENT_METHODS.contains(&method.as_str())
}

/// The tries of one logical request.
#[derive(Debug)]
pub struct RetryState {
    policy: Arc<RetryPolicy>,
    budget: Arc<Budget>,
    /// Retries granted so far.
    used: u32,
    /// Place in the backoff; a pushback starts it again [gRFC A6].
    step: u32,
}

impl RetryState {
    /// Starts a logical request: this is its one deposit into the budget.
    pub fn start(policy: Arc<RetryPolicy>, budget: Arc<Budget>, now: Instant) -> Self {
        budget.deposit(now);
        Self { policy, budget, used: 0, step: 0 }
    }

    /// Retries granted so far.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// The answer to the outcome of the latest attempt.
    pub fn decide(
        &mut self,
        outcome: &Outcome<'_>,
        facts: &RequestFacts,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Decision {
        match self.try_again(outcome, facts, now, rng) {
            Ok(after) => Decision::Retry { after },
            Err(reason) => Decision::Stop(reason),
        }
    }

    fn try_again(
        &mut self,
        outcome: &Outcome<'_>,
        facts: &RequestFacts,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Duration, StopReason> {
        self.is_allowed(outcome, facts)?;
        if self.used >= self.policy.retries {
            return Err(StopReason::AttemptsExhausted);
        }
        let wait = self.wait(outcome, facts.wall, rng)?;
        self.pay(wait, facts.deadline, now)
    }

    /// One more try of an operation that is not HTTP, which its guard found worth it and safe. `hint` is the
    /// wait that the other side asked for.
    pub(super) fn grant(
        &mut self,
        hint: Option<Duration>,
        deadline: Option<Instant>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Duration, StopReason> {
        if self.used >= self.policy.retries {
            return Err(StopReason::AttemptsExhausted);
        }
        let next_step = self.step + 1;
        let length = match hint {
            Some(hint) if hint > self.policy.hint_cap => return Err(StopReason::NoTime),
            Some(hint) => hint,
            None => self.policy.backoff.delay(next_step, rng),
        };
        self.pay(Wait { length, next_step }, deadline, now)
    }

    /// The questions that depend on time and on other requests.
    fn pay(&mut self, wait: Wait, deadline: Option<Instant>, now: Instant) -> Result<Duration, StopReason> {
        // Nothing would be left for the attempt: answer now instead of sleeping into the deadline.
        if deadline.is_some_and(|deadline| wait.length >= deadline.saturating_duration_since(now)) {
            return Err(StopReason::NoTime);
        }
        self.budget.withdraw(now).map_err(|_| StopReason::BudgetEmpty)?;
        self.used += 1;
        self.step = wait.next_step;
        Ok(wait.length)
    }

    /// The questions whose answers do not depend on time or on other requests.
    fn is_allowed(&self, outcome: &Outcome<'_>, facts: &RequestFacts) -> Result<(), StopReason> {
        if facts.committed {
            return Err(StopReason::Committed);
        }
        if !self.policy.conditions.match_outcome(outcome, &self.policy.retriable_codes) {
            return Err(if is_success(outcome) { StopReason::Success } else { StopReason::NotRetriable });
        }
        if !facts.idempotent && !self.policy.non_idempotent && self.may_have_acted(outcome) {
            return Err(StopReason::NonIdempotent);
        }
        if !facts.body_replayable {
            return Err(StopReason::BodyNotReplayable);
        }
        Ok(())
    }

    /// Whether repeating could make the peer act twice. A gRPC status that the policy names is the route
    /// saying that it may be repeated: every gRPC call is a POST, so the method tells nothing there.
    fn may_have_acted(&self, outcome: &Outcome<'_>) -> bool {
        match outcome {
            Outcome::Response { grpc_status: Some(code), .. } => !self.policy.conditions.names_grpc(*code),
            Outcome::Response { .. } => true,
            Outcome::Failure { sent, .. } => *sent == Sent::Maybe,
        }
    }

    /// The server's word if it gave one, exactly; our own backoff otherwise.
    fn wait(&self, outcome: &Outcome<'_>, wall: SystemTime, rng: &mut fastrand::Rng) -> Result<Wait, StopReason> {
        if let Outcome::Response { headers, .. } = outcome {
            match pushback(headers) {
                Some(Pushback::Forbidden) => return Err(StopReason::PushbackForbids),
                Some(Pushback::After(length)) => return Ok(Wait { length, next_step: 0 }),
                None => {}
            }
            match retry_after(headers, wall) {
                Some(hint) if hint > self.policy.hint_cap => return Err(StopReason::NoTime),
                Some(length) => return Ok(Wait { length, next_step: self.step + 1 }),
                None => {}
            }
        }
        let next_step = self.step + 1;
        Ok(Wait { length: self.policy.backoff.delay(next_step, rng), next_step })
    }
}

struct Wait {
    length: Duration,
    next_step: u32,
}

fn is_success(outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Response { status, grpc_status, .. } => *status < 400 && grpc_status.unwrap_or(0) == 0,
        Outcome::Failure { .. } => false,
    }
}

/// Five minutes [linkerd's cap on Retry-After].
const DEFAULT_HINT_CAP: Duration = Duration::from_secs(300);
/// RFC 9110 9.2.2, and QUERY, which its draft declares safe.
const IDEMPOTENT_METHODS: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"];

#[cfg(test)]
mod tests;
