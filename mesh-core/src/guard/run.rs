//! A guarded operation from its first attempt to its end, awaited or on the caller's thread.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::{Class, Ending, Guard, Outcome, Step};
use crate::context::{CallContext, ThreadScope};
use crate::error::Error;

/// An error that can say what it means for its guard.
pub trait Retryable {
    /// Whether another attempt is worth it, and safe.
    fn outcome(&self) -> Outcome;
}

impl Retryable for Error {
    fn outcome(&self) -> Outcome {
        Outcome::from(self)
    }
}

/// What the network did. Only a refused connection is known to have done nothing: that a host cannot be reached may
/// also be said of one that was, in the middle of an exchange.
impl Retryable for std::io::Error {
    fn outcome(&self) -> Outcome {
        use std::io::ErrorKind as Io;
        Outcome::from(match self.kind() {
            Io::ConnectionRefused => Class::Unprocessed,
            Io::AddrNotAvailable
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::BrokenPipe
            | Io::NotConnected
            | Io::TimedOut
            | Io::UnexpectedEof
            | Io::WouldBlock
            | Io::Interrupted => Class::Transient,
            Io::NotFound | Io::PermissionDenied | Io::AlreadyExists | Io::InvalidInput => Class::Rejected,
            _ => Class::Failed,
        })
    }
}

/// Why a guarded operation did not give its value.
#[derive(Debug)]
pub enum Failure<E> {
    /// The operation's own error, of its last attempt.
    Own(E),
    /// The guard refused the call, or cut its last attempt.
    Refused(Error),
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failure<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Own(error) => error.source(),
            Self::Refused(error) => error.source(),
        }
    }
}

/// So that `mesh.guard(name)?.run(..)` reads in one line.
impl<E> From<Error> for Failure<E> {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Guard {
    /// Runs `operation` until it works, or there is no further attempt.
    pub async fn run<T, E, F, Fut>(&self, operation: F) -> Result<T, Failure<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Retryable,
    {
        self.run_with(of_result, operation).await
    }

    /// The same; `classify` says what a result means.
    pub async fn run_with<T, E, F, Fut>(
        &self,
        classify: impl Fn(&Result<T, E>) -> Outcome,
        mut operation: F,
    ) -> Result<T, Failure<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut call = self.begin()?;
        let mut last = None;
        let mut step = call.proceed();
        loop {
            step = match step {
                Step::Proceed { until } => {
                    let attempt = CallContext::scope(call.context(until), operation());
                    match self.within(until, attempt).await {
                        Some(result) => {
                            let outcome = classify(&result);
                            last = Some(result);
                            call.ended(outcome)
                        }
                        None => {
                            last = None;
                            call.ended(Class::TimedOut)
                        }
                    }
                }
                Step::Wait { length } => {
                    self.core.clock.sleep_until(crate::time::after(self.core.clock.now(), length)).await;
                    call.proceed()
                }
                Step::Stop(ending) => return finish(ending, last),
            };
        }
    }

    /// Runs `operation` on this thread, which also sleeps between attempts: for code without a runtime.
    /// An attempt that takes too long cannot be cut, but calls of the mesh inside it end by its deadline.
    pub fn run_blocking<T, E: Retryable>(&self, operation: impl FnMut() -> Result<T, E>) -> Result<T, Failure<E>> {
        self.run_blocking_with(of_result, operation)
    }

    /// The same; `classify` says what a result means.
    pub fn run_blocking_with<T, E>(
        &self,
        classify: impl Fn(&Result<T, E>) -> Outcome,
        mut operation: impl FnMut() -> Result<T, E>,
    ) -> Result<T, Failure<E>> {
        let mut call = self.begin()?;
        let mut last = None;
        let mut step = call.proceed();
        loop {
            step = match step {
                Step::Proceed { until } => {
                    let scope = ThreadScope::enter(call.context(until));
                    let result = operation();
                    drop(scope);
                    let outcome = classify(&result);
                    last = Some(result);
                    call.ended(outcome)
                }
                Step::Wait { length } => {
                    std::thread::sleep(length);
                    call.proceed()
                }
                Step::Stop(ending) => return finish(ending, last),
            };
        }
    }

    /// `None` when `until` came first.
    async fn within<T>(&self, until: Option<std::time::Instant>, attempt: impl Future<Output = T>) -> Option<T> {
        let Some(until) = until else { return Some(attempt.await) };
        let clock = Arc::clone(&self.core.clock);
        tokio::select! {
            biased;
            result = attempt => Some(result),
            () = clock.sleep_until(until) => None,
        }
    }
}

fn of_result<T, E: Retryable>(result: &Result<T, E>) -> Outcome {
    result.as_ref().map_or_else(Retryable::outcome, |_| Class::Success.into())
}

fn finish<T, E>(ending: Ending, last: Option<Result<T, E>>) -> Result<T, Failure<E>> {
    match (ending, last) {
        (Ending::Own, Some(result)) => result.map_err(Failure::Own),
        (Ending::Refused(error), _) => Err(Failure::Refused(error)),
        (Ending::Own, None) => Err(Failure::Refused(Error::new(
            crate::error::ErrorKind::Internal,
            "a guarded call ended without an outcome; this is a defect of the library",
        ))),
    }
}
