//! An endpoint taken for one attempt.
//!
//! Decides: what an outcome means for the endpoint's breaker, its standing and its load. Never: whether
//! the request is tried again. Invariant: an attempt is judged once; one that is dropped unjudged (its
//! caller went away) counts for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::RETRY_AFTER;

use crate::cluster::group::Cluster;
use crate::cluster::outlier::Verdict;
use crate::endpoint::Endpoint;
use crate::endpoint::load::{self, InFlight};
use crate::error::{ErrorKind, Sent};
use crate::policy::circuit_breaker::{self, Permit};
use crate::policy::retry::Outcome;
use crate::policy::retry_after::retry_after;

/// An endpoint, its breaker's permit and its place in the load count.
pub struct Taken {
    /// Taken.
    pub endpoint: Arc<Endpoint>,
    cluster: Arc<Cluster>,
    permit: Option<Permit>,
    in_flight: Option<InFlight>,
}

/// What an outcome says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Good,
    Throttled,
    Bad,
    /// The fault was the caller's or ours.
    Nothing,
}

impl Taken {
    pub(super) fn new(cluster: &Arc<Cluster>, endpoint: Arc<Endpoint>, permit: Permit, now: Instant) -> Self {
        let in_flight = endpoint.live.load.start(now);
        Self { endpoint, cluster: Arc::clone(cluster), permit: Some(permit), in_flight: Some(in_flight) }
    }

    /// The head of the response, or the failure, is here.
    pub fn judge(&mut self, outcome: &Outcome<'_>, now: Instant, rng: &mut fastrand::Rng) {
        let Some(permit) = self.permit.take() else { return };
        let judgement = judge(outcome);
        permit.record(
            match judgement {
                Judgement::Good => circuit_breaker::Outcome::Success,
                Judgement::Throttled => circuit_breaker::Outcome::Throttled,
                Judgement::Bad => circuit_breaker::Outcome::Failure,
                Judgement::Nothing => circuit_breaker::Outcome::Ignored,
            },
            now,
            rng,
        );
        if let Some(seen) = outlier_outcome(outcome, judgement) {
            self.cluster.judge(&self.endpoint, seen, now, rng);
        }
        if let Some(in_flight) = &mut self.in_flight {
            match judgement {
                Judgement::Good => in_flight.respond(now, load::Outcome::Answered),
                Judgement::Bad | Judgement::Throttled => in_flight.respond(now, load::Outcome::Failed { retry_after: hint(outcome) }),
                Judgement::Nothing => {}
            }
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

fn judge(outcome: &Outcome<'_>) -> Judgement {
    match *outcome {
        // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS are what gRPC servers say when they fail.
        Outcome::Response { grpc_status: Some(2 | 4 | 13 | 14 | 15), .. } => Judgement::Bad,
        Outcome::Response { status: 429, .. } | Outcome::Response { grpc_status: Some(8), .. } => Judgement::Throttled,
        Outcome::Response { status, .. } if status >= 500 => Judgement::Bad,
        Outcome::Response { .. } => Judgement::Good,
        Outcome::Failure { kind, sent } => match kind {
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::Tls | ErrorKind::PeerIdentity => Judgement::Bad,
            ErrorKind::ConnectionClosed | ErrorKind::Reset if sent == Sent::Unprocessed => Judgement::Nothing,
            ErrorKind::ConnectionClosed | ErrorKind::Reset | ErrorKind::Protocol | ErrorKind::AttemptTimeout => Judgement::Bad,
            _ => Judgement::Nothing,
        },
    }
}

fn outlier_outcome(outcome: &Outcome<'_>, judgement: Judgement) -> Option<Verdict> {
    match (outcome, judgement) {
        (_, Judgement::Nothing) => None,
        (Outcome::Response { status, .. }, Judgement::Bad) if *status < 500 => Some(Verdict::GatewayError),
        (Outcome::Response { status, .. }, _) => Some(of_status(*status)),
        (Outcome::Failure { .. }, _) => Some(Verdict::GatewayError),
    }
}

fn of_status(status: u16) -> Verdict {
    match status {
        502..=504 => Verdict::GatewayError,
        500.. => Verdict::ServerError,
        _ => Verdict::Success,
    }
}

/// What the endpoint asked callers to wait; only the seconds form, a date needs the wall clock.
fn hint(outcome: &Outcome<'_>) -> Option<Duration> {
    let Outcome::Response { headers, .. } = outcome else { return None };
    retry_after(headers, SystemTime::UNIX_EPOCH).filter(|_| headers.get(RETRY_AFTER).is_some_and(|value| value.as_bytes().first().is_some_and(u8::is_ascii_digit)))
}
