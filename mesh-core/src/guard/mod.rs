//! Plain functions under the mesh's policy: retry, budget, timeout, breaker and limit without HTTP.
//!
//! Decides: nothing; [`crate::policy::guard`] does. This is the shell around it: the clock, the waits, the context
//! of each attempt. Never: runs an operation on a thread of its own. Invariant: the operation runs where its
//! caller runs it, and dropping the call ends it at once.
//!
//! ```no_run
//! # use mesh_core::{Mesh, guard::{Class, Failure}};
//! # async fn stock() -> Result<u32, std::io::Error> { Ok(1) }
//! # async fn example(mesh: Mesh) -> Result<u32, Failure<std::io::Error>> {
//! let inventory = mesh.guard("inventory")?; // `guards: [{ name: inventory, timeout: 1s, idempotent: true }]`
//! inventory.run(stock).await
//! # }
//! ```
//!
//! What is worth another try the operation's error says ([`Retryable`]), or a closure ([`Guard::run_with`]).
//! A failure after which the operation may have acted is repeated only if somebody declared that this does no
//! harm: `idempotent: true` in the configuration, or [`Guard::idempotent`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::CallContext;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::telemetry::TraceContext;

mod run;

pub use crate::policy::guard::{Asked, Class, Ending, Guarded, Outcome, Session, Step};
pub use run::{Failure, Retryable};

/// A guard by its name in the configuration. Cheap to clone; reloads reach it.
#[derive(Clone)]
pub struct Guard {
    core: Arc<Core>,
    name: Arc<str>,
    /// What a guard that a new document no longer names goes on with.
    first: Arc<Guarded>,
    asked: Asked,
}

impl Guard {
    /// The guard called `name`.
    pub(crate) fn new(core: &Arc<Core>, name: &str) -> Result<Self, Error> {
        let snapshot = core.snapshot.load();
        let first = snapshot.guards.get(name).ok_or_else(|| {
            let known: Vec<_> = snapshot.guards.keys().map(|name| &**name).collect();
            Error::new(ErrorKind::Config, format!("no guard is called {name:?}; the configuration has {known:?}"))
        })?;
        let (name, first) = (Arc::clone(&first.terms.name), Arc::clone(first));
        Ok(Self { core: Arc::clone(core), name, first, asked: Asked::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same guard for an operation that does no harm when done twice, or that does.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.asked.idempotent = Some(idempotent);
        self
    }

    /// The same guard with a bound of the caller's; the guard's own still applies.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.asked.timeout = Some(timeout);
        self
    }

    /// Begins a call, to be driven step by step: what the bindings of other languages do.
    pub fn begin(&self) -> Result<Call, Error> {
        self.begin_within(CallContext::current())
    }

    /// Begins a call that is made while `context` is served.
    pub fn begin_within(&self, context: Option<Arc<CallContext>>) -> Result<Call, Error> {
        self.core.check_open()?;
        let snapshot = self.core.snapshot.load();
        let guarded = snapshot.guards.get(&self.name).unwrap_or(&self.first);
        let deadline = context.as_ref().and_then(|context| context.deadline);
        let asked = Asked { deadline: CallContext::earlier(self.asked.deadline, deadline), ..self.asked };
        let session = Session::begin(guarded, asked, self.core.clock.now());
        if let Err(error) = &session {
            tracing::debug!(guard = %self.name, error.type = error.kind().as_str(), "guarded call refused");
        }
        let (session, mut rng) = (session?, self.core.randomness.generator());
        let trace = match &context {
            Some(context) => context.trace.child(&mut rng),
            None => TraceContext::root(&mut rng, snapshot.sample_percent),
        };
        Ok(Call { core: Arc::clone(&self.core), name: Arc::clone(&self.name), session, rng, context, trace })
    }
}

/// A guarded call under way: alternately asks to [`proceed`](Self::proceed) and tells how an attempt
/// [`ended`](Self::ended). Dropped before its end it was given up.
pub struct Call {
    core: Arc<Core>,
    name: Arc<str>,
    session: Session,
    rng: fastrand::Rng,
    context: Option<Arc<CallContext>>,
    trace: TraceContext,
}

impl Call {
    /// Starts an attempt, or says why not.
    pub fn proceed(&mut self) -> Step {
        let step = self.session.proceed(self.core.clock.now());
        self.note(&step);
        step
    }

    /// Tells how the attempt ended; says what follows.
    pub fn ended(&mut self, outcome: impl Into<Outcome>) -> Step {
        let outcome = outcome.into();
        let step = self.session.ended(outcome, self.core.clock.now(), &mut self.rng);
        tracing::debug!(guard = %self.name, attempt = self.session.attempts(), class = ?outcome.class, "guarded attempt ended");
        self.note(&step);
        step
    }

    /// Attempts started.
    pub fn attempts(&self) -> u32 {
        self.session.attempts()
    }

    /// Why there was no further attempt; empty while the call is not over.
    pub fn reason(&self) -> &'static str {
        self.session.reason()
    }

    /// Whether an attempt is running.
    pub fn is_running(&self) -> bool {
        self.session.is_running()
    }

    /// Time from now to `until`, by the mesh's clock.
    pub fn remaining(&self, until: Instant) -> Duration {
        until.saturating_duration_since(self.core.clock.now())
    }

    /// The context for what is called during an attempt that is given up at `until`.
    pub fn context(&self, until: Option<Instant>) -> Arc<CallContext> {
        let base = self.context.as_deref();
        Arc::new(CallContext {
            deadline: CallContext::earlier(until, self.session.deadline()),
            ..base.map_or_else(
                || CallContext::new(self.trace.clone()),
                |base| CallContext { trace: self.trace.clone(), ..base.clone() },
            )
        })
    }

    fn note(&self, step: &Step) {
        if let Step::Stop(ending) = step {
            let refused = match ending {
                Ending::Own => "",
                Ending::Refused(error) => error.kind().as_str(),
            };
            tracing::debug!(guard = %self.name, attempts = self.attempts(), reason = self.reason(), error.type = refused, "guarded call ended");
        }
    }
}

#[cfg(test)]
mod tests;
