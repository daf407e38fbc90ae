//! A finished call, as it is kept for whoever asks.
//!
//! Decides: whether a call failed. Never: keeps a header value, a query or a body.

use std::sync::Arc;

use crate::error::Error;
use crate::outbound::call::Call;
use crate::outbound::trail::{Level, Why, worded};
use crate::policy::retry::{Outcome, is_success};
use crate::route::split::Split;
use crate::snapshot::Target;
use crate::telemetry::explained::Explained;

impl Call<'_> {
    /// Keeps what happened, if the call asked for it, was sampled, or failed.
    pub(super) fn explain(&mut self, outcome: &Outcome<'_>) -> Option<Arc<Explained>> {
        if self.trail.level == Level::Off {
            return None;
        }
        let is_failure = !is_success(outcome) && !matches!(outcome, Outcome::Response { status: 400..=499, .. });
        self.keep(|| worded(outcome), is_failure)
    }

    pub(super) fn explain_failure(&mut self, error: &Error) {
        if self.trail.level > Level::Off {
            self.keep(|| format!("{}: {}", error.kind(), error.message()), true);
        }
    }

    fn keep(&mut self, outcome: impl FnOnce() -> String, is_failure: bool) -> Option<Arc<Explained>> {
        if self.trail.level < Level::All && !is_failure {
            return None;
        }
        let core = self.core;
        let now = core.clock.now();
        let took = now.saturating_duration_since(self.trail.began);
        let line = &self.record.line;
        let explained = Arc::new(Explained {
            request_id: line.request_id.clone(),
            began: core.clock.wall().checked_sub(took).unwrap_or(std::time::SystemTime::UNIX_EPOCH),
            method: self.head.method.to_string(),
            host: line.host.to_string(),
            path: line.path.to_string(),
            revision: self.snapshot.revision,
            route: line.route.clone(),
            cluster: line.cluster.clone(),
            why_cluster: self.trail.why.to_string(),
            deadline: self.deadline.map(|deadline| deadline.saturating_duration_since(self.trail.began)),
            callers_attempt: self.callers_attempt(),
            took,
            outcome: outcome(),
            is_failure,
            budget_before: self.trail.budget_before,
            budget_after: self.cluster.as_ref().map(|cluster| cluster.budget.balance(now)),
            attempts: std::mem::take(&mut self.trail.attempts),
            notes: std::mem::take(&mut self.trail.notes),
        });
        core.telemetry.explained.push(Arc::clone(&explained), self.snapshot.explain.keep);
        Some(explained)
    }
}

/// Why a rule's split went to `target`.
pub(super) fn split_draw(split: &Split<Target>, target: &Target) -> Why {
    let total: u64 = split.iter().map(|(weight, _)| u64::from(weight)).sum();
    let of = split.iter().filter(|(_, other)| std::ptr::eq(*other, target)).map(|(weight, _)| u64::from(weight));
    Why::Drawn(of.sum(), total)
}
