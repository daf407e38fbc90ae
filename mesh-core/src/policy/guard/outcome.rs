//! What an attempt of a guarded operation says to its guard.
//!
//! Decides: how an error of this library reads as a class. Never: judges an application's own errors; its
//! classifier does. Invariant: an error that tells nothing about the callee is [`Class::Ignored`].

use std::time::Duration;

use crate::error::{Error, ErrorKind, Sent};
use crate::policy::circuit_breaker as breaker;
use crate::policy::verdict::Verdict;

/// How one attempt ended. The numbers are those of the C interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It worked.
    Success,
    /// It was answered "no" (not found, not valid): the caller's fault, the callee is well.
    Rejected,
    /// It failed, and would fail again.
    Failed,
    /// It failed, may work another time, and may have acted.
    Transient,
    /// It failed, may work another time, and is known not to have acted.
    Unprocessed,
    /// "Too many": not acted on, and no sign of ill health.
    Throttled,
    /// It was cut at the limit of its attempt; it may have acted.
    TimedOut,
    /// Nothing was learned: the caller went away, or this process refused.
    Ignored,
}

/// A class, and the wait that the other side asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub class: Class,
    /// How long the callee wants to be left alone; replaces our own wait.
    pub retry_after: Option<Duration>,
}

impl Class {
    /// An error of this library.
    pub fn of(kind: ErrorKind, sent: Sent) -> Self {
        if kind == ErrorKind::RateLimited {
            return Self::Throttled;
        }
        let is_transient = matches!(kind, ErrorKind::NoEndpoint | ErrorKind::Draining);
        match (Verdict::of_failure(kind), sent) {
            (None, _) if !is_transient => match kind {
                ErrorKind::Denied | ErrorKind::CheckDenied | ErrorKind::Unauthenticated | ErrorKind::BadRequest => {
                    Self::Rejected
                }
                _ => Self::Ignored,
            },
            (_, Sent::Never | Sent::Unprocessed) => Self::Unprocessed,
            (_, Sent::Maybe) => Self::Transient,
        }
    }

    /// Whether another attempt is worth it.
    pub const fn is_worth_a_retry(self) -> bool {
        matches!(self, Self::Transient | Self::Unprocessed | Self::Throttled | Self::TimedOut)
    }

    /// Whether repeating could make the callee act twice.
    pub const fn may_have_acted(self) -> bool {
        matches!(self, Self::Transient | Self::TimedOut | Self::Failed)
    }
}

impl From<Class> for Outcome {
    fn from(class: Class) -> Self {
        Self { class, retry_after: None }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        Self { class: Class::of(error.kind(), error.sent()), retry_after: error.place().retry_after }
    }
}

impl From<Class> for breaker::Outcome {
    fn from(class: Class) -> Self {
        match class {
            Class::Success | Class::Rejected => Self::Success,
            Class::Failed | Class::Transient | Class::Unprocessed | Class::TimedOut => Self::Failure,
            Class::Throttled => Self::Throttled,
            Class::Ignored => Self::Ignored,
        }
    }
}
