//! Whether a copy of a request is sent before the first is answered.
//!
//! Decides: when the next copy is due, whether it may be paid for, and what a failed copy means for the
//! others [gRFC A6, Finagle `BackupRequestFilter`]. Never: sends, picks an endpoint, or judges what is safe
//! to send twice; the caller hedges only what it may repeat.
//! Invariant: copies never exceed `max_hedges` for a request, nor their share of requests, nor what the
//! service's retry budget leaves; each copy has paid a token of both.
//!
//! # Hedges and retries together
//! Hedges go first, inside one step of the retry loop: while copies are left, a failure that the retry
//! policy names sends the next one at once. When all copies have failed, the last failure goes to the
//! retry engine, which may start another step. `max_hedges` counts for the whole request, not for a step.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::budget::{Budget, BudgetConfig};
use super::latency::Latencies;
use super::retry::Outcome;
use super::retry_after::{Pushback, pushback, retry_after};

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgePolicy {
    /// Copies of one request, the first attempt not counted.
    pub max_hedges: u32,
    /// How long the latest copy is waited for.
    pub delay: HedgeDelay,
    /// Response times that must be known before a percentile counts.
    pub min_samples: u32,
    /// Copies as a share of requests.
    pub budget: BudgetConfig,
    /// The longest wait a server may ask for before the next copy.
    pub hint_cap: Duration,
}

/// When a copy is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeDelay {
    /// After this long; zero sends all at once.
    Fixed(Duration),
    /// After the time within which this share of responses, in percent, came lately.
    Percentile(f64),
}

/// A policy, and what has been learned under it. Outlives the document: see [`Hedging::under`].
#[derive(Debug)]
pub struct Hedging {
    policy: HedgePolicy,
    latencies: Arc<Latencies>,
    budget: Arc<Budget>,
}

impl Hedging {
    /// A policy under which nothing was learned yet.
    pub fn new(policy: HedgePolicy) -> Self {
        Self { policy, latencies: Arc::default(), budget: Arc::new(Budget::new(policy.budget)) }
    }

    /// Another policy for the same requests: response times are kept, and the budget if it is the same.
    pub fn under(&self, policy: HedgePolicy) -> Self {
        let kept = policy.budget == self.policy.budget;
        let budget = if kept { Arc::clone(&self.budget) } else { Arc::new(Budget::new(policy.budget)) };
        Self { policy, latencies: Arc::clone(&self.latencies), budget }
    }

    /// What the operator allows.
    pub fn policy(&self) -> &HedgePolicy {
        &self.policy
    }

    /// Counts how long a copy took, or was waited for.
    pub fn observe(&self, latency: Duration, now: Instant) {
        self.latencies.record(latency, now);
    }

    /// How long the latest copy is waited for; `None` while too little is known.
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        match self.policy.delay {
            HedgeDelay::Fixed(delay) => Some(delay),
            HedgeDelay::Percentile(percent) => {
                let measured = self.latencies.percentile(percent, self.policy.min_samples, now)?;
                Some(measured.max(MIN_DELAY))
            }
        }
    }
}

/// The copies of one logical request.
#[derive(Debug)]
pub struct HedgeState {
    hedging: Arc<Hedging>,
    shared: Arc<Budget>,
    delay: Duration,
    left: u32,
    due: Option<Instant>,
}

/// Why a copy that was due is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HedgeRefused {
    /// Hedges have used up their own share.
    HedgeBudgetEmpty,
    /// The upstream service has no retry budget left.
    BudgetEmpty,
    /// No other endpoint is free to take it.
    NoOtherEndpoint,
}

impl HedgeRefused {
    /// The stable name, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HedgeBudgetEmpty => "hedge_budget_empty",
            Self::BudgetEmpty => "budget_empty",
            Self::NoOtherEndpoint => "no_other_endpoint",
        }
    }
}

impl HedgeState {
    /// A request begins: its one deposit into the budget of hedges. `None`: it is not hedged, because the
    /// policy says so or too little is known yet.
    pub fn start(hedging: &Arc<Hedging>, shared: &Arc<Budget>, now: Instant) -> Option<Self> {
        if hedging.policy.max_hedges == 0 {
            return None;
        }
        hedging.budget.deposit(now);
        Some(Self {
            delay: hedging.delay(now)?,
            left: hedging.policy.max_hedges,
            due: None,
            hedging: Arc::clone(hedging),
            shared: Arc::clone(shared),
        })
    }

    /// A copy was sent: the next one is due a delay later, if one is left.
    pub fn sent(&mut self, now: Instant) {
        self.due = (self.left > 0).then(|| crate::time::after(now, self.delay));
    }

    /// When the next copy goes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Pays for the copy that is due. A refusal is the end of hedging for this request.
    pub fn pay(&mut self, now: Instant) -> Result<(), HedgeRefused> {
        let paid = self.hedging.budget.withdraw(now).map_err(|_| HedgeRefused::HedgeBudgetEmpty).and_then(|()| {
            self.shared.withdraw(now).map_err(|_| {
                self.hedging.budget.refund(now);
                HedgeRefused::BudgetEmpty
            })
        });
        self.left = if paid.is_ok() { self.left.saturating_sub(1) } else { 0 };
        self.due = None;
        paid
    }

    /// Counts how long a copy took, or was waited for.
    pub fn observe(&self, latency: Duration, now: Instant) {
        self.hedging.observe(latency, now);
    }

    /// No further copy goes.
    pub fn stop(&mut self) {
        (self.left, self.due) = (0, None);
    }

    /// A copy failed in a way that does not end the race: the next one goes at once, unless the server asks
    /// to wait or forbids it.
    pub fn failed(&mut self, outcome: &Outcome<'_>, (now, wall): (Instant, SystemTime)) {
        if self.left == 0 {
            return;
        }
        let wait = match outcome {
            Outcome::Response { headers, .. } => match pushback(headers) {
                Some(Pushback::Forbidden) => return self.stop(),
                Some(Pushback::After(wait)) => wait,
                None => retry_after(headers, wall).unwrap_or_default(),
            },
            Outcome::Failure { .. } => Duration::ZERO,
        };
        if wait > self.hedging.policy.hint_cap {
            return self.stop();
        }
        self.due = Some(crate::time::after(now, wait));
    }
}

/// 1 ms: a percentile below it would only send everything twice [Finagle].
const MIN_DELAY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
