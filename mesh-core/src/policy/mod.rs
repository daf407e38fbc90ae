//! Resilience decisions, as plain synchronous engines.
//!
//! Decides: whether a request may start, how long it may take, and whether it may be tried again.
//! Never: reads a clock, opens a socket or spawns a task; `now` and the random generator are arguments.
//! Invariant: every refusal is a typed value that says why, and whatever was admitted is given back
//! when its permit is dropped.

pub mod adaptive;
pub mod backoff;
pub mod budget;
pub mod circuit_breaker;
pub mod concurrency;
pub mod criticality;
pub mod fault;
pub mod guard;
pub mod hedge;
pub mod latency;
pub mod lease;
pub mod mirror;
pub mod quota;
pub mod rate_limit;
pub mod retry;
pub mod retry_after;
pub mod timeout;
pub mod verdict;
pub mod waiting;

use std::fmt;

/// A policy value that no engine can work with. Found when a document is compiled, never per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid {
    /// The field of the policy, as in the configuration reference.
    pub field: &'static str,
    /// What it must be.
    pub must: &'static str,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must {}", self.field, self.must)
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
pub(crate) mod vectors {
    //! Reading of the expected results in `tests/vectors`.

    use std::time::Duration;

    use serde_json::Value;

    /// The cases of one vector file.
    pub(crate) fn cases(text: &str) -> Vec<Value> {
        let mut document: Value = serde_json::from_str(text).expect("a vector file is JSON");
        match document["cases"].take() {
            Value::Array(cases) => cases,
            other => panic!("cases must be a list, found {other}"),
        }
    }

    /// A text field; panics with the case when it is absent.
    pub(crate) fn text<'a>(case: &'a Value, field: &str) -> &'a str {
        case[field].as_str().unwrap_or_else(|| panic!("{field} must be text in {case}"))
    }

    /// A whole number.
    pub(crate) fn whole(case: &Value, field: &str) -> u64 {
        case[field].as_u64().unwrap_or_else(|| panic!("{field} must be a whole number in {case}"))
    }

    /// A number of seconds as a duration.
    pub(crate) fn seconds(case: &Value, field: &str) -> Duration {
        Duration::from_secs_f64(case[field].as_f64().unwrap_or_else(|| panic!("{field} must be seconds in {case}")))
    }

    /// A number of milliseconds as a duration.
    pub(crate) fn millis(case: &Value, field: &str) -> Duration {
        seconds(case, field) / 1000
    }
}
