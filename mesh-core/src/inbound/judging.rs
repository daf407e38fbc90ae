//! Rules and policies are asked, and what they say is told.
//!
//! Decides: nothing; [`crate::access::judgement`] does. Never: tells the peer. Invariant: every verdict goes to the log
//! under the name of what made it, and what rules that are not rolled out would change is counted under theirs.

use std::sync::Arc;

use http::Request;

use super::Inbound;
use super::admission::{Refused, refused};
use crate::access::attributes::Attributes;
use crate::access::judgement::{self, Verdict, Views};
use crate::access::rollout::{Draw, Stage};
use crate::access::verdict::Verdict as Answer;
use crate::body::Body;
use crate::error::ErrorKind;
use crate::route::readings::Readings;
use crate::snapshot::ListenerPolicy;
use crate::telemetry::AccessRecord;
use crate::telemetry::names::{label, metric};

/// What the access log says of a verdict.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    rule: Option<Arc<str>>,
    would_deny: Option<Arc<str>>,
    would_allow: Option<Arc<str>>,
    metadata: Vec<(Arc<str>, Arc<str>)>,
}

impl Told {
    pub(super) fn write(self, line: &mut AccessRecord) {
        line.access_rule = self.rule;
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

/// Whether a request is refused whatever a check changes in it: by local rules, which speak of it as it came, or by a DENY
/// policy that reads nothing else.
pub(super) fn is_refused_for_good(
    policy: &ListenerPolicy,
    (attributes, readings): (&Attributes<'_>, &Readings),
    draw: Draw,
) -> bool {
    let (by, views, stage) = ((&policy.rules, &*policy.authorization), Views::from(attributes), Stage::Now(draw));
    let Verdict::Deny(cause) = judgement::by_all_readings(by, views, readings, stage).0 else { return false };
    let is_denied = |path| policy.authorization.denies_for_good(&Attributes { path, ..*attributes }, stage);
    let mut paths = std::iter::once(attributes.path).chain(readings.structural()).chain(readings.decoded());
    cause.is_by_rules() || paths.any(is_denied)
}

/// Local rules and Istio's policies: whether they let the request pass, and what the access log, if there is one, says.
pub(super) fn judge(
    inbound: &Inbound,
    policy: &ListenerPolicy,
    about: (Views<'_>, &Readings),
    draw: Draw,
) -> (Result<(), Refused>, Option<Told>) {
    let ((views, readings), by) = (about, (&policy.rules, &*policy.authorization));
    let judgement = judgement::judge(by, views, readings, draw);
    let is_allowed = judgement.verdict.passes();
    tracing::debug!(listener = %inbound.name, rule = %judgement.verdict, is_allowed, "access judged");
    audit(policy, &views.policies);
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
            rule: Some(judgement.verdict.to_string().into()),
            would_deny: named(planned(false)),
            would_allow: named(planned(true)),
            metadata: Vec::new(),
        }
    });
    let Verdict::Deny(cause) = judgement.verdict else { return (Ok(()), told) };
    let why = match judgement.read_as {
        Some(path) => format!("{cause}, read as {path:?}"),
        None => cause.to_string(),
    };
    (Err(refused(ErrorKind::Denied, why)), told)
}

/// For a verdict that is yet to come, what the access log says besides it.
pub(super) fn to_be_told(inbound: &Inbound) -> Option<Told> {
    inbound.core.telemetry.access_log.is_on().then(Told::default)
}

/// What a verdict says goes to what checks have said meanwhile.
pub(super) fn tell(request: &mut Request<Body>, told: Option<Told>) {
    let Some(told) = told else { return };
    let metadata = request.extensions_mut().remove::<Told>().map(|before| before.metadata).unwrap_or_default();
    request.extensions_mut().insert(Told { metadata, ..told });
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
