//! What a call leaves behind for whoever asks why it went as it did.
//!
//! Decides: which calls are kept: those that asked, a sample, and every one that failed. Never: changes
//! what a call does. Invariant: a call that succeeds at once and is not sampled allocates nothing here.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::member::Endpoint;
use crate::error::Sent;
use crate::outbound::CallOptions;
use crate::policy::retry::{Decision, Outcome};
use crate::snapshot::Explain;
use crate::telemetry::explained::Attempt;
use crate::telemetry::names::header::EXPLAIN;

/// How much of a call is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing: nobody can ask.
    Off,
    /// What failed, in case the call does.
    Failures,
    /// Everything, with the candidates of each pick.
    All,
}

/// Why a call went to its cluster.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// It came to none.
    Unknown,
    /// Its caller named it.
    Named,
    /// A rule's split drew it: its weight, and that of all.
    Drawn(u64, u64),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("no cluster was reached"),
            Self::Named => f.write_str("named by the caller"),
            Self::Drawn(weight, total) => write!(f, "drawn by weight {weight} of {total}"),
        }
    }
}

/// The notes of one call.
pub(super) struct Trail {
    pub(super) level: Level,
    pub(super) began: Instant,
    pub(super) attempts: Vec<Attempt>,
    pub(super) notes: Vec<String>,
    pub(super) why: Why,
    pub(super) budget_before: Option<u64>,
    /// The attempt that ended last.
    latest: Option<usize>,
}

impl Trail {
    /// A call begins. The header that asks for an explanation goes no further.
    pub(super) fn begin(
        settings: Explain,
        options: &CallOptions,
        headers: &mut HeaderMap,
        at: (Instant, &mut fastrand::Rng),
    ) -> Self {
        let (began, rng) = at;
        let asks = headers.remove(EXPLAIN).is_some_and(|value| value.as_bytes() == b"1") && settings.is_by_header;
        let is_kept = settings.keep > 0;
        let level = if options.explain || (is_kept && (asks || rng.f64() * 100.0 < settings.sample_percent)) {
            Level::All
        } else if is_kept {
            Level::Failures
        } else {
            Level::Off
        };
        Self {
            level,
            began,
            attempts: Vec::new(),
            notes: Vec::new(),
            why: Why::Unknown,
            budget_before: None,
            latest: None,
        }
    }

    /// An attempt is about to be sent. Its place in the notes, if it has one yet.
    pub(super) fn sent(&mut self, kind: &'static str, to: (&Cluster, &Endpoint), wanted: &Wanted<'_>) -> Option<usize> {
        if self.level < Level::All && (self.level == Level::Off || kind == FIRST) {
            return None;
        }
        let (cluster, endpoint) = to;
        let candidates = if self.level == Level::All { cluster.candidates(wanted) } else { Vec::new() };
        Some(self.push(kind, endpoint, wanted.now, candidates))
    }

    fn push(
        &mut self,
        kind: &'static str,
        endpoint: &Endpoint,
        sent_at: Instant,
        candidates: Vec<crate::telemetry::explained::Candidate>,
    ) -> usize {
        self.attempts.push(Attempt {
            kind,
            endpoint: Arc::clone(&endpoint.name),
            at: sent_at.saturating_duration_since(self.began),
            took: None,
            outcome: "cancelled".to_owned(),
            sent: None,
            decision: "",
            wait: None,
            candidates,
        });
        self.attempts.len() - 1
    }

    /// An attempt has ended. The first one of a call has its place only from here on.
    pub(super) fn ended(&mut self, of: &Noted<'_>, outcome: &Outcome<'_>, now: Instant) {
        let is_worth = self.level == Level::All || !crate::policy::retry::is_success(outcome) || of.place.is_some();
        if self.level == Level::Off || !is_worth {
            return;
        }
        let place = of.place.unwrap_or_else(|| self.push(FIRST, of.endpoint, of.sent_at, Vec::new()));
        let Some(attempt) = self.attempts.get_mut(place) else { return };
        self.latest = Some(place);
        // What a race goes on with, unless somebody decides otherwise.
        attempt.decision = "next_copy";
        attempt.took = Some(now.saturating_duration_since(of.sent_at));
        attempt.outcome = worded(outcome);
        attempt.sent = match outcome {
            Outcome::Response { .. } => None,
            Outcome::Failure { sent: Sent::Never, .. } => Some("never"),
            Outcome::Failure { sent: Sent::Unprocessed, .. } => Some("unprocessed"),
            Outcome::Failure { sent: Sent::Maybe, .. } => Some("maybe"),
        };
    }

    /// Another copy was faster.
    pub(super) fn overtaken(&mut self, place: Option<usize>, waited: Duration) {
        if let Some(attempt) = place.and_then(|place| self.attempts.get_mut(place)) {
            attempt.took = Some(waited);
            "another copy was faster".clone_into(&mut attempt.outcome);
            attempt.decision = "cancelled";
        }
    }

    /// What the latest attempt to end led to.
    pub(super) fn decided(&mut self, decision: &Decision) {
        let ended = self.latest.take();
        let Some(attempt) = ended.and_then(|place| self.attempts.get_mut(place)) else { return };
        (attempt.decision, attempt.wait) = match decision {
            Decision::Retry { after } => ("retry", Some(*after)),
            Decision::Stop(reason) => (reason.as_str(), None),
        };
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.level > Level::Off {
            self.notes.push(text());
        }
    }
}

/// An attempt that was sent.
pub(super) struct Noted<'a> {
    pub(super) place: Option<usize>,
    pub(super) endpoint: &'a Endpoint,
    pub(super) sent_at: Instant,
}

/// An outcome in a few words.
pub(super) fn worded(outcome: &Outcome<'_>) -> String {
    match outcome {
        Outcome::Response { status, grpc_status, .. } => {
            let mut text = status.to_string();
            if let Some(code) = grpc_status {
                let _ = write!(text, ", grpc-status {code}");
            }
            text
        }
        Outcome::Failure { kind, .. } => kind.as_str().to_owned(),
    }
}

/// How the first attempt of a call is called.
pub(super) const FIRST: &str = "first";
/// How a further attempt after a failure is called.
pub(super) const RETRY: &str = "retry";
/// How a copy is called.
pub(super) const HEDGE: &str = "hedge";
