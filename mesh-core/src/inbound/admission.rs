//! Whether a request reaches the application.
//!
//! Decides: nothing itself; it asks in order: deadline, form, end user, rules, rate limits, room, checks.
//! What costs least comes first, so that who must not get in takes neither a token nor a place from those who may.
//! Policies that read what the provider of a CUSTOM policy may change are asked after it.
//! Never: asks further after a refusal that nothing may change. Invariant: a check that a policy demands is asked, or the
//! request is refused.

use std::sync::Arc;

use http::Request;

use super::checks::Asking;
use super::facts::Facts;
use super::gate::Inside;
use super::judging;
use super::quota;
use super::readings;
use super::serve::Origin;
use super::{Inbound, end_user};
use crate::access::attributes::Attributes;
use crate::access::judgement::Views;
use crate::access::limit::LocalLimit;
use crate::access::rollout::Draw;
use crate::access::verdict::Verdict;
use crate::body::Body;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Side};
use crate::policy::waiting::Arrival;
use crate::route::host;
use crate::snapshot::ListenerPolicy;
use crate::telemetry::names::label;

/// What an admitted request carries.
pub(super) struct Admitted {
    /// Its place, where the listener has a limit.
    pub(super) inside: Option<Inside>,
    /// What global limits and checks said, in the order they were asked.
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
    let mut facts = Facts::of((inbound, &policy.paths), origin, request, context)?;
    end_user::authenticate(inbound, policy, &mut facts, request)?;
    let attributes = facts.attributes(request.headers());
    let draw = judging::draw(inbound, policy);
    // Which checks the policies demand is read of the request as it came: a check may change its headers.
    let demanded = readings::demanded(policy, (&attributes, &facts.readings), draw);
    let may_change = demanded.as_ref().is_ok_and(|demanded| may_yet_change(policy, demanded))
        && !judging::is_refused_for_good(policy, (&attributes, &facts.readings), draw);
    let came = may_change.then(|| attributes.to_buf());
    let (judged, told) = match came {
        Some(_) => (Ok(()), judging::to_be_told(inbound)),
        None => judging::judge(inbound, policy, ((&attributes).into(), &facts.readings), draw),
    };
    judging::tell(request, told);
    let demanded = judged.and(demanded).inspect_err(|_| inbound.decisions.denied.inc())?;
    let (counting, counted) = counting(policy, (&facts, request));
    limit(inbound, counting, counted).await?;
    let mut verdicts = quota::ask(inbound, policy, (&facts, request), context).await?;
    let inside = pass_gate(inbound, context).await?;
    let asking = Asking { inbound, origin, context };
    verdicts.extend(asking.pass(&policy.checks, (&mut facts, request), &demanded).await?);
    if let Some(came) = came {
        let attributes = facts.attributes(request.headers());
        let views = Views { rules: came.borrow(), policies: attributes };
        let (judged, told) = judging::judge(inbound, policy, (views, &facts.readings), draw);
        judging::tell(request, told);
        judged.inspect_err(|_| inbound.decisions.denied.inc())?;
    }
    in_time(inbound, context, "the caller's deadline passed while the request was admitted")?;
    inbound.decisions.allowed.inc();
    Ok(Admitted { inside, verdicts })
}

/// Whether a check that a CUSTOM policy demands may change what the others say of the request.
fn may_yet_change(policy: &ListenerPolicy, demanded: &[&str]) -> bool {
    !demanded.is_empty() && policy.authorization.reads_changes()
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

/// The limits that count the request, and what they count it by: a bucket belongs to a path, however it is spelled, and
/// to a host, whatever port it is asked with.
fn counting<'a>(
    policy: &'a ListenerPolicy,
    (facts, request): (&'a Facts<'_>, &'a Request<Body>),
) -> (Vec<&'a LocalLimit>, Attributes<'a>) {
    let limits = policy.limits.iter().filter(|limit| facts.meets(&limit.matches, request));
    let attributes = facts.attributes(request.headers());
    let path = facts.readings.counted().unwrap_or(attributes.path);
    let host = host::split_port(attributes.host).0;
    (limits.map(|limit| &**limit).collect(), Attributes { path, host, ..attributes })
}

/// Every limit that counts the request takes a token, also after one had none left: each counts for itself.
async fn limit(inbound: &Inbound, limits: Vec<&LocalLimit>, attributes: Attributes<'_>) -> Result<(), Refused> {
    let (now, mut rng) = (inbound.core.clock.now(), inbound.core.randomness.generator());
    let mut refused = None;
    for limit in limits {
        let Err(over) = limit.take(&attributes, (now, &mut rng)).await else { continue };
        inbound.over_limit(&over.name, over.is_enforced);
        refused = refused.or(Some(over).filter(|over| over.is_enforced));
    }
    let Some(over) = refused else { return Ok(()) };
    let mut error = refusal(ErrorKind::RateLimited, format!("rate limit {}", over.name));
    error.place_mut().retry_after = Some(over.retry_after);
    Err(Refused { error, verdict: Some(over.reply) })
}

/// The checks that CUSTOM policies hand the request to. One that this listener does not have cannot be asked.
pub(super) fn demanded<'a>(
    policy: &'a ListenerPolicy,
    attributes: &Attributes<'_>,
    draw: Draw,
) -> Result<Vec<&'a str>, Refused> {
    let mut names = Vec::new();
    for (name, by) in policy.authorization.providers(attributes, draw) {
        if !policy.checks.iter().any(|check| check.check.config().name == name) {
            let why = format!("authorization: CUSTOM policy {by}: check {name} is not asked on this listener");
            return Err(refused(ErrorKind::Denied, why));
        }
        names.push(name);
    }
    Ok(names)
}

pub(super) fn refused(kind: ErrorKind, message: String) -> Refused {
    Refused { error: refusal(kind, message), verdict: None }
}

pub(super) fn refusal(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).with_side(Side::Inbound)
}
