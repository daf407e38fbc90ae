//! Rules and policies are asked, and what they say is told.
//!
//! Decides: nothing; [`crate::access::judgement`] does. Never: tells the peer. Invariant: every verdict goes to the log
//! under the name of what made it, and what rules that are not rolled out would change is counted under theirs.

use std::sync::Arc;

use http::Request;

use super::Inbound;
use super::admission::{Refused, refused};
use crate::access::attributes::Attributes;
use crate::access::judgement::{self, Cause, Verdict, Views};
use crate::access::rollout::{Draw, Stage};
use crate::access::verdict::Verdict as Answer;
use crate::body::Body;
use crate::error::ErrorKind;
use crate::route::readings::Readings;
use crate::snapshot::ListenerPolicy;
use crate::telemetry::AccessRecord;
use crate::telemetry::names::{label, metric};

/// What the access log says of a verdict.
#[derive(Debug, Clone)]
pub(super) struct Told {
    rule: Arc<str>,
    would_deny: Option<Arc<str>>,
    would_allow: Option<Arc<str>>,
    metadata: Vec<(Arc<str>, Arc<str>)>,
}

impl Told {
    pub(super) fn correct(&mut self, rule: Arc<str>) {
        self.rule = rule;
    }

    pub(super) fn write(self, line: &mut AccessRecord) {
        line.access_rule = Some(self.rule);
        line.would_deny = self.would_deny;
        line.would_allow = self.would_allow;
        line.check_metadata = self.metadata;
    }
}

/// What the request drew, where rules are rolled out in part.
pub(super) fn draw(inbound: &Inbound, policy: &ListenerPolicy) -> Draw {
    if policy.rules.is_partial() || policy.authorization.is_partial() {
        return Draw::by(&mut inbound.core.randomness.generator());
    }
    Draw::STRICT
}

/// Why a request is not let in.
pub(super) struct Denial {
    pub(super) refused: Refused,
    /// Whether local rules say so; policies may say otherwise of the request as a check changed it.
    pub(super) is_by_rules: bool,
}

impl Denial {
    fn new(cause: &Cause<'_>, why: String) -> Self {
        Self { refused: refused(ErrorKind::Denied, why), is_by_rules: cause.is_by_rules() }
    }
}

/// Local rules and Istio's policies: whether they let the request pass, and what the access log, if there is one, says.
pub(super) fn judge(
    inbound: &Inbound,
    policy: &ListenerPolicy,
    about: (&Attributes<'_>, &Readings),
    draw: Draw,
) -> (Result<(), Denial>, Option<Told>) {
    let ((attributes, readings), by) = (about, (&policy.rules, &*policy.authorization));
    let judgement = judgement::judge(by, attributes, draw);
    let is_allowed = judgement.verdict.passes();
    tracing::debug!(listener = %inbound.name, rule = %judgement.verdict, is_allowed, "access judged");
    audit(policy, attributes);
    for (rule, count) in policy.rules.take_failures() {
        let labels = [(label::LISTENER, &*inbound.name), (label::RULE, rule)];
        inbound.core.telemetry.registry.counter(&metric::CONDITION_FAILURES, &labels).add(count);
        tracing::warn!(listener = %inbound.name, rule, "the condition of an access rule cannot be evaluated");
    }
    if let Some(planned) = &judgement.planned {
        count_planned(inbound, planned);
    }
    let told = inbound.core.telemetry.access_log.is_on().then(|| {
        let planned = |passes| judgement.planned.filter(|planned| planned.passes() == passes);
        let named = |planned: Option<Verdict<'_>>| planned.map(|planned| planned.name().into());
        Told {
            rule: judgement.verdict.to_string().into(),
            would_deny: named(planned(false)),
            would_allow: named(planned(true)),
            metadata: Vec::new(),
        }
    });
    if let Verdict::Deny(cause) = judgement.verdict {
        return (Err(Denial::new(&cause, cause.to_string())), told);
    }
    let Some((cause, path)) = judgement::refused_reading(by, attributes.into(), readings, draw) else {
        return (Ok(()), told);
    };
    let told = told.map(|told| Told { rule: cause.to_string().into(), ..told });
    (Err(Denial::new(&cause, format!("{cause}, read as {path:?}"))), told)
}

/// The same for a request that its CUSTOM policies' providers may have changed: policies judge what they made of it, as
/// in Istio, and local rules the request as it came.
pub(super) fn judge_changed(
    policy: &ListenerPolicy,
    (views, readings): (Views<'_>, &Readings),
    draw: Draw,
) -> (Result<(), Refused>, Arc<str>) {
    let by = (&policy.rules, &*policy.authorization);
    let verdict = judgement::verdict(by, views, Stage::Now(draw));
    if let Verdict::Deny(cause) = verdict {
        return (Err(Denial::new(&cause, cause.to_string()).refused), verdict.to_string().into());
    }
    match judgement::refused_reading(by, views, readings, draw) {
        None => (Ok(()), verdict.to_string().into()),
        Some((cause, path)) => {
            (Err(Denial::new(&cause, format!("{cause}, read as {path:?}")).refused), cause.to_string().into())
        }
    }
}

/// What a check's answer says besides its verdict goes to the access log, if there is one.
pub(super) fn note(request: &mut Request<Body>, check: &str, answer: &Answer) {
    let Some(metadata) = &answer.metadata else { return };
    if let Some(told) = request.extensions_mut().get_mut::<Told>() {
        told.metadata.push((check.into(), Arc::clone(metadata)));
    }
}

/// Policies of action AUDIT mark what they match.
fn audit(policy: &ListenerPolicy, attributes: &Attributes<'_>) {
    for reported in policy.authorization.reported(attributes) {
        let is_dry_run = reported.is_dry_run();
        tracing::info!(policy = %reported.name, action = ?reported.action, dry_run = is_dry_run, "policy matches");
    }
}

fn count_planned(inbound: &Inbound, planned: &Verdict<'_>) {
    let outcome = if planned.passes() { "would_allow" } else { "would_deny" };
    let labels = [(label::LISTENER, &*inbound.name), (label::RULE, planned.name()), (label::OUTCOME, outcome)];
    inbound.core.telemetry.registry.counter(&metric::ACCESS_PLANNED, &labels).inc();
    tracing::info!(listener = %inbound.name, rule = planned.name(), outcome, "access rule is not in force here");
}
