//! What happened to a finished call, and why: one record, kept for whoever asks.
//!
//! Decides: how many are kept. Never: holds a header value, a query or a body.
//! Invariant: memory is bounded; the oldest goes first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// One call, from its route to the head of its response.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// `x-request-id`, if it had one.
    pub request_id: Option<Arc<str>>,
    /// When it began, in seconds since 1970.
    #[serde(serialize_with = "unix_seconds")]
    pub began: SystemTime,
    /// Method.
    pub method: String,
    /// The logical service.
    pub host: String,
    /// Path, without the query.
    pub path: String,
    /// Revision of the configuration that decided.
    pub revision: u64,
    /// The rule that took it.
    pub route: Option<Arc<str>>,
    /// The cluster it went to.
    pub cluster: Option<Arc<str>>,
    /// Why that cluster.
    pub why_cluster: String,
    /// Time it had, in milliseconds.
    #[serde(rename = "deadline_ms", serialize_with = "optional_millis")]
    pub deadline: Option<Duration>,
    /// Which attempt of its caller it was, from 1.
    pub callers_attempt: u32,
    /// Time to the head of its response, in milliseconds.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
    /// How it ended: a status, or an error kind and its message.
    pub outcome: String,
    /// Whether it failed.
    pub is_failure: bool,
    /// Retries the cluster's budget had when it began.
    pub budget_before: Option<u64>,
    /// Retries the cluster's budget had when it ended.
    pub budget_after: Option<u64>,
    /// Every attempt, in the order they were sent.
    pub attempts: Vec<Attempt>,
    /// What else was decided: hedges that were not sent.
    pub notes: Vec<String>,
}

/// One attempt.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    /// `first`, `retry` or `hedge`.
    pub kind: &'static str,
    /// Where it went.
    pub endpoint: Arc<str>,
    /// When it was sent, in milliseconds after the call began.
    #[serde(rename = "at_ms", serialize_with = "millis")]
    pub at: Duration,
    /// How long it took, in milliseconds; absent while nothing is known of its end.
    #[serde(rename = "took_ms", serialize_with = "optional_millis")]
    pub took: Option<Duration>,
    /// A status, an error kind, or that another copy was faster.
    pub outcome: String,
    /// How far a failed one got: `never`, `unprocessed` or `maybe`.
    pub sent: Option<&'static str>,
    /// What followed from it: `retry`, or why not.
    pub decision: &'static str,
    /// The wait before the retry, in milliseconds.
    #[serde(rename = "wait_ms", serialize_with = "optional_millis")]
    pub wait: Option<Duration>,
    /// Endpoints as they stood when it was picked; a few of many. Empty unless the whole call is explained.
    pub candidates: Vec<Candidate>,
}

/// An endpoint at the moment of a pick.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// Its address.
    pub endpoint: Arc<str>,
    /// What one more request costs there by response time and load, in milliseconds.
    pub cost_ms: f64,
    /// Requests it had in flight.
    pub in_flight: u32,
    /// Its weight.
    pub weight: u32,
    /// Its circuit breaker.
    pub breaker: &'static str,
    /// Why it could not be chosen; absent if it could.
    pub skipped: Option<&'static str>,
}

/// The latest explained calls.
#[derive(Debug, Default)]
pub struct Ring(Mutex<VecDeque<Arc<Explained>>>);

impl Ring {
    /// Keeps a call, and at most `keep` in all.
    pub fn push(&self, explained: Arc<Explained>, keep: usize) {
        let mut kept = self.lock();
        while kept.len() >= keep.max(1) {
            kept.pop_front();
        }
        if keep > 0 {
            kept.push_back(explained);
        }
    }

    /// All that are kept, the latest first.
    pub fn latest(&self) -> Vec<Arc<Explained>> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Explained>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((span.as_secs_f64() * 1e6).round() / 1e3)
}

fn optional_millis<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => millis(span, serializer),
        None => serializer.serialize_none(),
    }
}

fn unix_seconds<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u32) -> Arc<Explained> {
        Arc::new(Explained {
            request_id: Some(id.to_string().into()),
            began: SystemTime::UNIX_EPOCH,
            method: "GET".to_owned(),
            host: "a".to_owned(),
            path: "/".to_owned(),
            revision: 1,
            route: None,
            cluster: None,
            why_cluster: String::new(),
            deadline: Some(Duration::from_micros(1_500)),
            callers_attempt: 1,
            took: Duration::ZERO,
            outcome: "200".to_owned(),
            is_failure: false,
            budget_before: None,
            budget_after: None,
            attempts: Vec::new(),
            notes: Vec::new(),
        })
    }

    #[test]
    fn the_oldest_goes_first_and_a_smaller_ring_forgets_at_once() {
        let ring = Ring::default();
        let ids = |ring: &Ring| ring.latest().iter().filter_map(|call| call.request_id.clone()).collect::<Vec<_>>();
        (0..5).for_each(|id| ring.push(call(id), 3));
        assert_eq!(ids(&ring).iter().map(|id| &**id).collect::<Vec<_>>(), ["4", "3", "2"]);
        ring.push(call(5), 1);
        assert_eq!(ids(&ring).len(), 1);
        ring.push(call(6), 0);
        assert!(ids(&ring).is_empty());
    }

    #[test]
    fn spans_are_written_in_milliseconds() {
        let text = serde_json::to_string(&*call(1)).unwrap();
        assert!(text.contains("\"deadline_ms\":1.5,"), "{text}");
    }
}
