//! An endpoint taken for one attempt.
//!
//! Decides: what an outcome means for the endpoint's breaker, its standing and its load. Never: whether
//! the request is tried again. Invariant: an attempt is judged once; one that is dropped unjudged (its
//! caller went away) counts for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::cluster::balancing::BalancerKind;
use crate::cluster::group::Cluster;
use crate::cluster::health::notice;
use crate::cluster::member::Endpoint;
use crate::cluster::outlier::Observed;
use crate::endpoint::load::{self, InFlight};
use crate::error::{ErrorKind, Sent};
use crate::load_report::LoadReport;
use crate::policy::circuit_breaker::Permit;
use crate::policy::retry::Outcome;
use crate::policy::retry_after::retry_after;
use crate::policy::verdict::Verdict;

/// An endpoint, its breaker's permit and its place in the load count.
pub struct Taken {
    /// Taken.
    pub endpoint: Arc<Endpoint>,
    cluster: Arc<Cluster>,
    permit: Option<Permit>,
    /// Of the cluster's breaker, if it has one.
    leave: Option<Permit>,
    in_flight: Option<InFlight>,
}

impl Taken {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        endpoint: Arc<Endpoint>,
        (permit, leave): (Permit, Option<Permit>),
        now: Instant,
    ) -> Self {
        let in_flight = endpoint.live.load.start(now);
        Self { endpoint, cluster: Arc::clone(cluster), permit: Some(permit), leave, in_flight: Some(in_flight) }
    }

    /// The head of the response, or the failure, is here.
    pub fn judge(&mut self, outcome: &Outcome<'_>, now: Instant, rng: &mut fastrand::Rng) {
        let Some(permit) = self.permit.take() else { return };
        if matches!(outcome, Outcome::Failure { kind: ErrorKind::Connect | ErrorKind::ConnectTimeout, .. }) {
            self.cluster.doubt();
        }
        if let Outcome::Response { headers, .. } = outcome {
            self.hear(headers, now);
        }
        let verdict = Verdict::of(outcome);
        permit.record(verdict.into(), now, rng);
        if is_overloaded(outcome)
            && let Some(in_flight) = &mut self.in_flight
        {
            // Turning requests away is quick: without a charge it would attract more of them.
            in_flight.respond(now, load::Outcome::Failed { retry_after: Some(OVERLOAD_PENALTY) });
        }
        if let Some(leave) = self.leave.take() {
            leave.record(verdict.into(), now, rng);
        }
        self.hear_notice(outcome, now);
        let Some(verdict) = verdict else { return };
        let is_local = matches!(outcome, Outcome::Failure { .. });
        self.cluster.judge(&self.endpoint, Observed { verdict, is_local }, now, rng);
        let seen = match verdict {
            Verdict::Success => load::Outcome::Answered,
            _ => load::Outcome::Failed { retry_after: hint(outcome) },
        };
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.respond(now, seen);
        }
    }

    /// Another copy of the request was faster, and this one is cancelled. That is no failure; but the time it
    /// was waited for counts.
    pub fn overtaken(mut self, now: Instant) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.respond(now, load::Outcome::Overtaken);
        }
    }

    /// Headers or trailers of the response: the endpoint may report its load in them.
    pub fn hear(&self, headers: &HeaderMap, now: Instant) {
        if self.cluster.settings.balancing.kind == BalancerKind::WeightedRoundRobin
            && let Some(report) = LoadReport::parse(headers)
        {
            self.endpoint.live.weight.take(&report, now);
        }
    }

    /// An endpoint that says it is leaving, in whatever it answers, gets nothing new.
    fn hear_notice(&self, outcome: &Outcome<'_>, now: Instant) {
        let Outcome::Response { headers, .. } = outcome else { return };
        if notice::is_leaving(headers) && self.endpoint.live.health.told_draining(now) {
            tracing::info!(cluster = %self.cluster.name, endpoint = %self.endpoint.name, "the endpoint is draining");
        }
    }

    /// The response has been read, or thrown away.
    pub fn finish(mut self) {
        self.in_flight.take();
    }

    /// How logs call the endpoint.
    pub fn endpoint_name(&self) -> &str {
        &self.endpoint.name
    }
}

/// The endpoint is well, and has no room.
fn is_overloaded(outcome: &Outcome<'_>) -> bool {
    matches!(outcome, Outcome::Failure { kind: ErrorKind::Overloaded, sent: Sent::Unprocessed })
}

/// What being turned away is charged as: 250 ms, the longest backoff, so that the next requests go elsewhere.
const OVERLOAD_PENALTY: Duration = Duration::from_millis(250);

/// What the endpoint asked callers to wait; only the seconds form, a date needs the wall clock.
fn hint(outcome: &Outcome<'_>) -> Option<Duration> {
    let Outcome::Response { headers, .. } = outcome else { return None };
    retry_after(headers, SystemTime::UNIX_EPOCH).filter(|_| {
        headers.get(RETRY_AFTER).is_some_and(|value| value.as_bytes().first().is_some_and(u8::is_ascii_digit))
    })
}
