//! Global rate limits on the way in.
//!
//! Decides: nothing itself; it asks the limits that are about a request, in order. Never: asks further after a
//! refusal. Invariant: a request that nobody could answer for is refused as an outage, never as over a limit.

use std::sync::Arc;

use http::Request;

use super::Inbound;
use super::admission::{Refused, refusal};
use super::facts::Facts;
use crate::access::attributes::Attributes;
use crate::access::descriptor::Descriptor;
use crate::access::global_limit::LimitOutcome;
use crate::access::verdict::{Verdict, apply_to_request};
use crate::body::Body;
use crate::context::{CallContext, GaveUp};
use crate::error::ErrorKind;
use crate::outbound::{GrpcChannel, ServiceClient};
use crate::snapshot::{GlobalLimitPolicy, ListenerPolicy};

/// Asks about a request. Returns what the answers change of its response.
pub(super) async fn ask(
    inbound: &Arc<Inbound>,
    policy: &ListenerPolicy,
    about: (&Facts<'_>, &mut Request<Body>),
    context: &CallContext,
) -> Result<Vec<Arc<Verdict>>, Refused> {
    let (facts, request) = about;
    let mut verdicts = Vec::new();
    for limit in &policy.global_limits {
        if !facts.meets(&limit.matches, request) {
            continue;
        }
        let attributes = facts.attributes(request.headers());
        let descriptors = limit.limit.describe(&attributes);
        let Some(verdict) = decide(inbound, limit, &descriptors, context).await? else { continue };
        apply_to_request(&verdict, request.headers_mut());
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Asks about a bare connection: limits without a condition.
pub(super) async fn ask_about_connection(
    inbound: &Arc<Inbound>,
    policy: &ListenerPolicy,
    attributes: &Attributes<'_>,
    context: &CallContext,
) -> Result<(), Refused> {
    for limit in policy.global_limits.iter().filter(|limit| limit.matches.is_empty()) {
        decide(inbound, limit, &limit.limit.describe(attributes), context).await?;
    }
    Ok(())
}

/// The server is a cluster like any other: balanced, with breakers and telemetry.
async fn decide(
    inbound: &Arc<Inbound>,
    policy: &GlobalLimitPolicy,
    descriptors: &[Descriptor<'_>],
    context: &CallContext,
) -> Result<Option<Arc<Verdict>>, Refused> {
    if descriptors.is_empty() {
        return Ok(None);
    }
    let core = &inbound.core;
    let channel = GrpcChannel::new(ServiceClient::to_cluster(Arc::clone(core), Arc::clone(&policy.cluster)));
    // A grant is for other requests, too: the deadline of this caller must not end the call.
    let shared = Arc::new(CallContext { deadline: None, gave_up: GaveUp::default(), ..context.clone() });
    let deciding = policy.limit.decide(channel, descriptors, &core.clock);
    let config = policy.limit.config();
    match CallContext::scope(shared, deciding).await {
        LimitOutcome::Pass(verdict) => Ok(verdict),
        LimitOutcome::Failed { reply: None, .. } => Ok(None),
        LimitOutcome::Failed { reason, reply: verdict } => {
            let why = format!("rate limit {}: no answer: {}", config.name, reason.as_str());
            Err(Refused { error: refusal(ErrorKind::LimitFailed, why), verdict })
        }
        LimitOutcome::Over { reply, retry_after } => {
            let is_enforced = core.randomness.generator().f64() < config.enforced;
            inbound.over_limit(&config.name, is_enforced);
            if !is_enforced {
                return Ok(None);
            }
            let mut error = refusal(ErrorKind::RateLimited, format!("rate limit {}", config.name));
            error.place_mut().retry_after = retry_after;
            Err(Refused { error, verdict: Some(reply) })
        }
    }
}
