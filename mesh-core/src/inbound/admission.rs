//! Whether a request reaches the application.
//!
//! Decides: nothing itself; it asks in order: deadline, form, end user, rules, rate limits, room, checks.
//! What costs least comes first, so that who must not get in takes neither a token nor a place from those who may.
//! Never: asks further after a refusal. Invariant: a check that a policy demands is asked, or the request is refused.

use std::sync::Arc;

use http::Request;

use super::facts::{Facts, expiry};
use super::gate::Inside;
use super::serve::Origin;
use super::{Inbound, end_user};
use crate::access::attributes::Attributes;
use crate::access::authorization::Ruling;
use crate::access::check::CheckOutcome;
use crate::access::rbac::Decision;
use crate::access::verdict::Verdict;
use crate::body::Body;
use crate::context::{CallContext, GaveUp};
use crate::error::{Error, ErrorKind, Side};
use crate::outbound::{GrpcChannel, ServiceClient};
use crate::policy::waiting::Arrival;
use crate::route::matcher::{RequestHead, first_match};
use crate::snapshot::{CheckPolicy, ListenerPolicy};
use crate::telemetry::names::label;

/// What an admitted request carries.
pub(super) struct Admitted {
    /// Its place, where the listener has a limit.
    pub(super) inside: Option<Inside>,
    /// What the checks said, in the order they were asked.
    pub(super) verdicts: Vec<Arc<Verdict>>,
}

/// Why a request goes no further.
pub(super) struct Refused {
    pub(super) error: Error,
    /// A remote check's or a limit's own answer, if it gave one.
    pub(super) verdict: Option<Arc<Verdict>>,
}

/// Asks everything that stands before the application; the first refusal ends it.
pub(super) async fn admit(
    inbound: &Arc<Inbound>,
    policy: &ListenerPolicy,
    origin: &Origin,
    request: &mut Request<Body>,
    context: &CallContext,
) -> Result<Admitted, Refused> {
    in_time(inbound, context, "the caller's deadline had passed on arrival")?;
    let mut facts = Facts::of(inbound, origin, request, context)?;
    end_user::authenticate(inbound, policy, &mut facts, request)?;
    let attributes = facts.attributes(request.headers());
    judge(policy, &attributes).inspect_err(|_| inbound.decisions.denied.inc())?;
    // Which checks the policies demand is read of the request as it came: a check may change its headers.
    let demanded = demanded(policy, &attributes).inspect_err(|_| inbound.decisions.denied.inc())?;
    limit(inbound, policy, (&facts, request))?;
    let inside = pass_gate(inbound, context).await?;
    let mut verdicts = Vec::new();
    for check in &policy.checks {
        let name = &check.check.config().name;
        if !demanded.contains(&name.as_str()) && !is_asked(check, (&facts, request)) {
            continue;
        }
        let outcome = ask(inbound, check, &facts.attributes(request.headers()), (origin, context)).await;
        if !outcome.is_allowed() {
            inbound.decisions.check_denied.inc();
            return Err(check_refusal(name, outcome));
        }
        check.check.apply_to_request(&outcome, request.headers_mut());
        verdicts.push(Arc::clone(outcome.verdict()));
    }
    in_time(inbound, context, "the caller's deadline passed while the request was admitted")?;
    inbound.decisions.allowed.inc();
    Ok(Admitted { inside, verdicts })
}

/// Nobody waits for an answer after the deadline.
fn in_time(inbound: &Inbound, context: &CallContext, otherwise: &str) -> Result<(), Refused> {
    match context.deadline {
        Some(deadline) if deadline <= inbound.core.clock.now() => {
            Err(refused(ErrorKind::Timeout, otherwise.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Room for the request, at once or after a wait within its deadline.
async fn pass_gate(inbound: &Inbound, context: &CallContext) -> Result<Option<Inside>, Refused> {
    let class = context.criticality.unwrap_or_default();
    let arrival = Arrival { class, deadline: context.deadline };
    inbound.gate.enter(arrival).await.map_err(|away| {
        inbound.core.telemetry.shed("inbound", (label::LISTENER, &inbound.name), class.as_str());
        let how = if away.waited { "waited in vain" } else { "no room to wait" };
        refused(ErrorKind::Overloaded, format!("{class}: {how} for one of {} places", away.limit))
    })
}

/// Every limit that counts the request takes a token, also after one had none left: each counts for itself.
fn limit(inbound: &Inbound, policy: &ListenerPolicy, about: (&Facts<'_>, &Request<Body>)) -> Result<(), Refused> {
    let (facts, request) = about;
    if policy.limits.is_empty() {
        return Ok(());
    }
    let attributes = facts.attributes(request.headers());
    let (now, mut rng) = (inbound.core.clock.now(), inbound.core.randomness.generator());
    let mut refused = None;
    for limit in &policy.limits {
        let head = RequestHead::new(&facts.method, request.uri(), request.headers());
        let Err(over) = limit.take(&attributes, head, (now, &mut rng)) else { continue };
        inbound.over_limit(&over.name, over.is_enforced);
        refused = refused.or(Some(over).filter(|over| over.is_enforced));
    }
    let Some(over) = refused else { return Ok(()) };
    let mut error = refusal(ErrorKind::RateLimited, format!("rate limit {}", over.name));
    error.place_mut().retry_after = Some(over.retry_after);
    Err(Refused { error, verdict: Some(over.reply) })
}

/// Local rules and Istio's policies: both have to let the request pass.
pub(super) fn judge(policy: &ListenerPolicy, attributes: &Attributes<'_>) -> Result<(), Refused> {
    if let Decision::Deny { rule, reason } = policy.rules.decide(attributes) {
        let why = format!("access rule {}: {}", rule.unwrap_or("default"), reason.as_str());
        return Err(refused(ErrorKind::Denied, why));
    }
    for reported in policy.authorization.reported(attributes) {
        tracing::info!(policy = %reported.name, action = ?reported.action, dry_run = reported.is_dry_run, "policy matches");
    }
    match policy.authorization.rule(attributes) {
        Ruling::Allow(_) => Ok(()),
        Ruling::Deny(by) => {
            let why = by.map_or_else(|| "no ALLOW policy matches".to_owned(), |name| format!("DENY policy {name}"));
            Err(refused(ErrorKind::Denied, format!("authorization: {why}")))
        }
    }
}

/// The checks that CUSTOM policies hand the request to. One that this listener does not have cannot be asked.
pub(super) fn demanded<'a>(policy: &'a ListenerPolicy, attributes: &Attributes<'_>) -> Result<Vec<&'a str>, Refused> {
    let mut names = Vec::new();
    for (name, by) in policy.authorization.providers(attributes) {
        if !policy.checks.iter().any(|check| check.check.config().name == name) {
            let why = format!("authorization: CUSTOM policy {by}: check {name} is not asked on this listener");
            return Err(refused(ErrorKind::Denied, why));
        }
        names.push(name);
    }
    Ok(names)
}

/// A check asks about the requests it matches, unless it waits to be demanded.
fn is_asked(check: &CheckPolicy, about: (&Facts<'_>, &Request<Body>)) -> bool {
    let (facts, request) = about;
    let head = RequestHead::new(&facts.method, request.uri(), request.headers());
    !check.is_provider_only && (check.matches.is_empty() || first_match(&check.matches, head).is_some())
}

/// The policy server is a cluster like any other: balanced, retried, with breakers and telemetry.
pub(super) async fn ask(
    inbound: &Arc<Inbound>,
    policy: &CheckPolicy,
    attributes: &Attributes<'_>,
    call: (&Origin, &CallContext),
) -> CheckOutcome {
    let ((_, peer), context) = call;
    let clock = &inbound.core.clock;
    let expiry = expiry(peer.as_deref(), attributes, &**clock);
    let channel = GrpcChannel::new(ServiceClient::to_cluster(Arc::clone(&inbound.core), Arc::clone(&policy.cluster)));
    // The answer is shared with others, so the deadline of this caller must not end the call.
    // Nor does its failure say that what the application does was tried enough.
    let shared = Arc::new(CallContext { deadline: None, gave_up: GaveUp::default(), ..context.clone() });
    CallContext::scope(shared, policy.check.check(channel, attributes, &**clock, expiry)).await
}

pub(super) fn check_refusal(name: &str, outcome: CheckOutcome) -> Refused {
    let (kind, why) = match &outcome {
        CheckOutcome::Failed { reason, .. } => (ErrorKind::CheckFailed, reason.as_str()),
        _ => (ErrorKind::CheckDenied, "denied"),
    };
    Refused { error: refusal(kind, format!("check {name}: {why}")), verdict: Some(Arc::clone(outcome.verdict())) }
}

pub(super) fn refused(kind: ErrorKind, message: String) -> Refused {
    Refused { error: refusal(kind, message), verdict: None }
}

pub(super) fn refusal(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).with_side(Side::Inbound)
}
