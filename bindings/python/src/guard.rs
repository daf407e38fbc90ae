//! Guards, step by step: Python runs the function, the engine says when.
//!
//! Decides: nothing; it converts. Never: calls Python, or runs anything on a thread of the mesh.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::guard::{Call, Class, Ending, Outcome, Step};
use mesh_core::{Error, ErrorKind, Sent};
use pyo3::prelude::*;

use crate::context::Context;
use crate::errors::{guard, to_python};
use crate::fork::Owned;

/// A guard of the configuration.
#[pyclass(frozen, module = "mesh._native")]
pub struct Guard {
    inner: Owned<mesh_core::Guard>,
}

/// One call under a guard.
#[pyclass(frozen, module = "mesh._native")]
pub struct GuardCall {
    inner: Owned<Mutex<Call>>,
}

/// What to do, for how long, and in which context.
type Told = (&'static str, Option<f64>, Option<Context>);

impl Guard {
    /// For Python.
    pub fn new(guard: mesh_core::Guard) -> Self {
        Self { inner: Owned::new(guard) }
    }
}

#[pymethods]
impl Guard {
    /// Begins a call that is made while `parent` is served.
    #[pyo3(signature = (idempotent, timeout, parent))]
    fn begin(
        &self,
        py: Python<'_>,
        idempotent: Option<bool>,
        timeout: Option<f64>,
        parent: Option<&Context>,
    ) -> PyResult<GuardCall> {
        guard(py, || {
            let mut terms = self.inner.require(py)?.clone();
            if let Some(idempotent) = idempotent {
                terms = terms.idempotent(idempotent);
            }
            if let Some(timeout) = timeout {
                terms = terms.timeout(Duration::try_from_secs_f64(timeout).unwrap_or_default());
            }
            let call = terms.begin_within(parent.map(|parent| Arc::clone(&parent.inner)));
            let call = call.map_err(|error| to_python(py, &error))?;
            Ok(GuardCall { inner: Owned::new(Mutex::new(call)) })
        })
    }
}

#[pymethods]
impl GuardCall {
    /// Tells how the attempt ended (`ready`: start one). The answer is `proceed` with the seconds the attempt has
    /// and its context, `wait` with the seconds to sleep, or `stop`: the last outcome is the call's. A refusal is
    /// raised.
    #[pyo3(signature = (outcome, retry_after=None))]
    fn next(&self, py: Python<'_>, outcome: &str, retry_after: Option<f64>) -> PyResult<Told> {
        guard(py, || {
            let mut call = self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner);
            let retry_after = retry_after.and_then(|wait| Duration::try_from_secs_f64(wait).ok());
            let step = match named(outcome) {
                Some(class) => call.ended(Outcome { class, retry_after }),
                None => call.proceed(),
            };
            match step {
                Step::Proceed { until } => {
                    let seconds = until.map(|until| call.remaining(until).as_secs_f64());
                    Ok(("proceed", seconds, Some(Context { inner: call.context(until) })))
                }
                Step::Wait { length } => Ok(("wait", Some(length.as_secs_f64()), None)),
                Step::Stop(Ending::Own) => Ok(("stop", None, None)),
                Step::Stop(Ending::Refused(error)) => Err(to_python(py, &error)),
            }
        })
    }

    /// Attempts started.
    #[getter]
    fn attempts(&self, py: Python<'_>) -> PyResult<u32> {
        guard(py, || Ok(self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner).attempts()))
    }
}

/// What an error of the mesh, raised by a guarded function, means for its guard.
#[pyfunction]
pub fn outcome_of(kind: &str, sent: &str) -> &'static str {
    let kind = ErrorKind::ALL.iter().find(|known| known.as_str() == kind);
    let sent = match sent {
        "never" => Sent::Never,
        "unprocessed" => Sent::Unprocessed,
        _ => Sent::Maybe,
    };
    let class = kind.map_or(Class::Failed, |kind| Outcome::from(&Error::new(*kind, "").with_sent(sent)).class);
    OUTCOMES.iter().find(|(_, known)| *known == class).map_or("failed", |(name, _)| name)
}

fn named(name: &str) -> Option<Class> {
    OUTCOMES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class)
}

/// As the C interface calls them.
const OUTCOMES: [(&str, Class); 8] = [
    ("success", Class::Success),
    ("rejected", Class::Rejected),
    ("failed", Class::Failed),
    ("transient", Class::Transient),
    ("unprocessed", Class::Unprocessed),
    ("throttled", Class::Throttled),
    ("timed_out", Class::TimedOut),
    ("ignored", Class::Ignored),
];
