//! Global rate limits: asking a server that counts for many processes, by Envoy's rate limit protocol (RLS v3).
//!
//! Decides: the outcome for a request: from what was granted before, or from an answer; and what a failure means, as
//! the limit says. Never: lets a request wait longer than the timeout, logs a value, reports an outage as a limit.
//! Invariant: every failure is counted and logged, whichever way it falls.

mod answer;
mod counts;
mod question;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use self::answer::Said;
pub use self::counts::{Counts, Purpose, REASONS};
use self::question::{Call, Question};
use super::attributes::Attributes;
use super::check::{FailureMode, PolicyService};
use super::descriptor::{Descriptor, DescriptorRule, describe};
use super::limit_headers::HeaderForm;
use super::verdict::{FailureReason, Verdict};
use crate::policy::lease::{Decision, Leases, Step, Terms, lock};
use crate::time::Clock;

/// How a limit is asked about.
#[derive(Debug)]
pub struct GlobalLimitConfig {
    /// Name in logs and metrics.
    pub name: Arc<str>,
    /// Scheme and authority the call is addressed to.
    pub origin: Uri,
    /// What the server knows the limits by.
    pub domain: String,
    /// What requests are counted by.
    pub rules: Vec<DescriptorRule>,
    /// How long a request waits for the answer.
    pub timeout: Duration,
    /// What a failure means.
    pub failure: FailureMode,
    /// The reply to a request over the limit.
    pub reply: Arc<Verdict>,
    /// The reply to a request that a failure refuses.
    pub reply_on_error: Arc<Verdict>,
    /// What responses say of the limit.
    pub headers: HeaderForm,
    /// Share of the refusals that are enforced, 0 to 1.
    pub enforced: f64,
    /// How much is asked for in advance, for how many sets of descriptors; `None`: each request is asked about.
    pub lease: Option<(Terms, usize)>,
}

/// One limit, what was granted and what was counted.
pub struct GlobalLimit {
    config: Arc<GlobalLimitConfig>,
    leases: Option<Leases>,
    counts: Counts,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum LimitOutcome {
    /// It goes on, with the changes that the server wants.
    Pass(Option<Arc<Verdict>>),
    /// It is over the limit.
    Over {
        /// What to answer.
        reply: Arc<Verdict>,
        /// When it is worth coming back, where that is known.
        retry_after: Option<Duration>,
    },
    /// Nobody answered; it goes on, or gets this reply.
    Failed {
        /// What went wrong.
        reason: FailureReason,
        /// `None`: it goes on.
        reply: Option<Arc<Verdict>>,
    },
}

impl GlobalLimit {
    /// A limit of which nothing is known yet.
    pub fn new(config: GlobalLimitConfig) -> Self {
        let leases = config.lease.map(|(terms, max_keys)| Leases::new(terms, max_keys));
        Self { config: Arc::new(config), leases, counts: Counts::default() }
    }

    /// The configuration.
    pub fn config(&self) -> &GlobalLimitConfig {
        &self.config
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Sets of descriptors that something is remembered of, and those forgotten while in use.
    pub fn leases(&self) -> (usize, u64) {
        self.leases.as_ref().map_or((0, 0), |leases| (leases.keys(), leases.evicted()))
    }

    /// What the request is counted by. Empty: the limit is not about it.
    pub fn describe<'a>(&'a self, attributes: &Attributes<'a>) -> Vec<Descriptor<'a>> {
        describe(&self.config.rules, attributes)
    }

    /// Decides about one request. Dropping the future is safe at any time: what was asked for then counts as
    /// unanswered.
    pub async fn decide<S: PolicyService>(
        self: &Arc<Self>,
        service: S,
        descriptors: &[Descriptor<'_>],
        clock: &Arc<dyn Clock>,
    ) -> LimitOutcome {
        match &self.leases {
            Some(leases) => self.spend(leases, service, (descriptors, clock)).await,
            None => {
                self.counts.called(Purpose::Request);
                match Call::new(&self.config, descriptors, 1).run(service, &**clock).await {
                    Ok(said) => self.outcome(&said),
                    Err(reason) => self.failed(reason),
                }
            }
        }
    }

    async fn spend<S: PolicyService>(
        self: &Arc<Self>,
        leases: &Leases,
        service: S,
        (descriptors, clock): (&[Descriptor<'_>], &Arc<dyn Clock>),
    ) -> LimitOutcome {
        let now = clock.now();
        let key = leases.digest(&encoded(descriptors));
        let slot = leases.of(&key, now);
        let Step { decision, ask } = lock(&slot).take(now);
        let question = ask.map(|ask| {
            let call = Call::new(&self.config, descriptors, ask.amount);
            Question::new(Arc::clone(self), (key, slot), ask, (call, Arc::clone(clock)))
        });
        match (decision, question) {
            (Decision::Wait, Some(question)) => match question.put(service).await {
                Ok((said, Decision::Pass)) => self.outcome(&said),
                Ok((said, Decision::Over { retry_after })) if !said.is_over => self.over(retry_after),
                Ok((said, _)) => self.outcome(&said),
                Err(reason) => self.failed(reason),
            },
            (decision, question) => {
                if let Some(question) = question {
                    question.put_aside(service);
                }
                match decision {
                    Decision::Pass => {
                        self.counts.leased();
                        LimitOutcome::Pass(None)
                    }
                    Decision::Over { retry_after } => self.over(retry_after),
                    Decision::Unpaid | Decision::Wait => self.failed(self.counts.last_failure()),
                }
            }
        }
    }

    fn outcome(&self, said: &Said) -> LimitOutcome {
        let verdict = Arc::clone(&said.verdict);
        if said.is_over {
            return LimitOutcome::Over { reply: verdict, retry_after: said.reset };
        }
        LimitOutcome::Pass(verdict.changes_anything().then_some(verdict))
    }

    fn over(&self, retry_after: Option<Duration>) -> LimitOutcome {
        LimitOutcome::Over { reply: Arc::clone(&self.config.reply), retry_after }
    }

    fn failed(&self, reason: FailureReason) -> LimitOutcome {
        let is_open = self.config.failure == FailureMode::Open;
        self.counts.failed(reason, is_open, 1);
        let reply = (!is_open).then(|| Arc::clone(&self.config.reply_on_error));
        LimitOutcome::Failed { reason, reply }
    }
}

impl fmt::Debug for GlobalLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalLimit").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Lengths keep entries apart, counts keep descriptors apart.
fn encoded(descriptors: &[Descriptor<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    for descriptor in descriptors {
        bytes.extend_from_slice(&(descriptor.len() as u32).to_le_bytes());
        for text in descriptor.iter().flat_map(|(key, value)| [*key, value]) {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}
