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
mod headers;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method};

use super::backoff::Backoff;
use super::budget::Budget;
use super::retry_after::{Pushback, pushback, retry_after};
use crate::error::{ErrorKind, Sent};
use crate::telemetry::names::header::SHOULD_RETRY;

pub use conditions::RetryConditions;
pub use headers::HeaderRule;

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub retries: u32,
    /// What counts as worth another try.
    pub conditions: RetryConditions,
    /// HTTP statuses of the `retriable-status-codes` condition.
    pub retriable_codes: Vec<u16>,
    /// Response headers of the `retriable-headers` condition; `None` names none.
    pub retriable_headers: Option<HeaderRule>,
    /// Requests that may be repeated at all, by their headers; `None` is every request.
    pub request_headers: Option<HeaderRule>,
    /// Whether an `idempotency-key` header says that any method may be repeated.
    pub idempotency_key: bool,
    /// Whether a request that is itself a caller's retry is tried again from here, too.
    pub nested: bool,
    /// Most bytes of a response that are held back to learn how it ends; 0 hands it on at its head.
    pub buffer_response: usize,
    /// The wait when the server does not name one.
    pub backoff: Backoff,
    /// Also repeat POST, PATCH and CONNECT that the peer may have acted on. Off unless the route says so.
    pub non_idempotent: bool,
    /// The longest wait a server may ask for, by `Retry-After` or pushback; a longer one ends the call.
    pub hint_cap: Duration,
}

/// Two retries on connect-failure, refused-stream and gateway-error, as the design's default resilience.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 2,
            conditions: RetryConditions::default(),
            retriable_codes: Vec::new(),
            retriable_headers: None,
            request_headers: None,
            idempotency_key: false,
            nested: false,
            buffer_response: 0,
            backoff: Backoff::default(),
            non_idempotent: false,
            hint_cap: DEFAULT_HINT_CAP,
        }
    }
}

impl RetryPolicy {
    /// Whether the request may be repeated: by its method, or by a key that its caller gave it so that the
    /// server can tell a repetition [draft-ietf-httpapi-idempotency-key-header], if the policy believes it.
    pub fn is_idempotent(&self, method: &Method, headers: &HeaderMap) -> bool {
        is_idempotent(method) || (self.idempotency_key && headers.contains_key(IDEMPOTENCY_KEY))
    }

    /// How far the policy reaches for a request with these headers, which is the `attempt`-th of its caller.
    pub fn reach(&self, headers: &HeaderMap, attempt: u32) -> Reach {
        if self.request_headers.as_ref().is_some_and(|rule| !rule.matches(headers)) {
            return Reach::Nothing;
        }
        if attempt > 1 && !self.nested { Reach::Unprocessed } else { Reach::Everything }
    }
}

/// What of a request's outcomes the policy is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All that it names.
    Everything,
    /// Only those that the peer proved unprocessed: the request is a retry already, and retries of retries
    /// multiply along a chain of services.
    Unprocessed,
    /// None.
    Nothing,
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

impl<'a> Outcome<'a> {
    /// A response with this head. A gRPC status in it is that of a trailers-only response: the call is over.
    pub fn of_head(status: u16, headers: &'a HeaderMap) -> Self {
        let grpc_status = headers.get("grpc-status").and_then(|value| value.to_str().ok());
        Self::Response { status, grpc_status: grpc_status.and_then(|text| text.parse().ok()), headers }
    }
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
    /// The peer tried this itself, further down, and gave up.
    PeerGaveUp,
    /// The request is a retry of our caller's, who may try again.
    NestedRetry,
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
            Self::PeerGaveUp => "peer_gave_up",
            Self::NestedRetry => "nested_retry",
        }
    }

    /// Whether a failure that ended so was tried as often as it should be, so that a caller who tries the
    /// whole again only adds load. A budget that is empty counts: it is empty because others tried.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::AttemptsExhausted | Self::BudgetEmpty | Self::PeerGaveUp)
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
    reach: Reach,
}

impl RetryState {
    /// Starts a logical request: this is its one deposit into the budget.
    pub fn start(policy: Arc<RetryPolicy>, budget: Arc<Budget>, now: Instant) -> Self {
        Self::reaching(Reach::Everything, (policy, budget), now)
    }

    /// The same, for a request that the policy reaches only so far. A caller's retry earns no budget: with
    /// its first attempt the request has had its deposit.
    pub fn reaching(reach: Reach, of: (Arc<RetryPolicy>, Arc<Budget>), now: Instant) -> Self {
        if reach != Reach::Unprocessed {
            of.1.deposit(now);
        }
        Self::counted(reach, of)
    }

    /// The same, for a request whose deposit somebody else has made.
    pub fn counted(reach: Reach, (policy, budget): (Arc<RetryPolicy>, Arc<Budget>)) -> Self {
        Self { policy, budget, used: 0, step: 0, reach }
    }

    /// Retries granted so far.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Whether a call that stopped so was tried as often as it should be; with retries off it was not.
    pub fn gave_up(&self, reason: StopReason) -> bool {
        reason.is_final() && (self.used > 0 || reason != StopReason::AttemptsExhausted)
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
        self.may_follow(outcome, facts)?;
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

    /// Whether another attempt, a retry or a hedge, may follow this outcome. The questions whose answers do
    /// not depend on time or on other requests.
    pub fn may_follow(&self, outcome: &Outcome<'_>, facts: &RequestFacts) -> Result<(), StopReason> {
        if facts.committed {
            return Err(StopReason::Committed);
        }
        if !self.policy.conditions.match_outcome(outcome, &self.policy) {
            return Err(if is_success(outcome) { StopReason::Success } else { StopReason::NotRetriable });
        }
        match self.reach {
            Reach::Nothing => return Err(StopReason::NotRetriable),
            Reach::Unprocessed if may_have_been_seen(outcome) => return Err(StopReason::NestedRetry),
            Reach::Unprocessed | Reach::Everything => {}
        }
        if matches!(outcome, Outcome::Response { headers, .. } if gave_up(headers)) {
            return Err(StopReason::PeerGaveUp);
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
            let hint = match pushback(headers) {
                Some(Pushback::Forbidden) => return Err(StopReason::PushbackForbids),
                Some(Pushback::After(length)) => Some(Wait { length, next_step: 0 }),
                None => retry_after(headers, wall).map(|length| Wait { length, next_step: self.step + 1 }),
            };
            match hint {
                Some(wait) if wait.length > self.policy.hint_cap => return Err(StopReason::NoTime),
                Some(wait) => return Ok(wait),
                None => {}
            }
        }
        let next_step = self.step + 1;
        Ok(Wait { length: self.policy.backoff.delay(next_step, rng), next_step })
    }
}

/// Whether the peer has had work with it; a request that never left, or was proven unprocessed, has cost
/// nobody anything.
fn may_have_been_seen(outcome: &Outcome<'_>) -> bool {
    !matches!(outcome, Outcome::Failure { sent: Sent::Never | Sent::Unprocessed, .. })
}

/// Whether the peer says that it has tried this itself.
fn gave_up(headers: &HeaderMap) -> bool {
    headers.get(SHOULD_RETRY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"false"))
}

struct Wait {
    length: Duration,
    next_step: u32,
}

/// Whether the outcome is an answer and not a failure.
pub fn is_success(outcome: &Outcome<'_>) -> bool {
    match outcome {
        Outcome::Response { status, grpc_status, .. } => *status < 400 && grpc_status.unwrap_or(0) == 0,
        Outcome::Failure { .. } => false,
    }
}

/// Five minutes [linkerd's cap on Retry-After].
const DEFAULT_HINT_CAP: Duration = Duration::from_secs(300);
/// The key by which a server tells a repetition [draft-ietf-httpapi-idempotency-key-header].
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// RFC 9110 9.2.2, and QUERY, which its draft declares safe.
const IDEMPOTENT_METHODS: &[&str] = &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"];

#[cfg(test)]
mod tests;
