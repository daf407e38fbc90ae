//! Rate limits that are counted elsewhere, on the way in: first those that a server assigned, then those that are asked.
//!
//! Decides: nothing itself; it asks the limits that are about a request, in order. Never: asks further after a
//! refusal. Invariant: a request that nobody could answer for is refused as an outage, never as over a limit.

use std::future::Future;
use std::sync::Arc;

use http::Request;

use super::Inbound;
use super::admission::{Refused, refusal, refused};
use super::facts::Facts;
use super::quota_stream;
use crate::access::attributes::Attributes;
use crate::access::descriptor::Descriptor;
use crate::access::global_limit::LimitOutcome;
use crate::access::quota_limit::QuotaLimit;
use crate::access::verdict::{Verdict, apply_to_request};
use crate::body::Body;
use crate::context::{CallContext, GaveUp};
use crate::core::Core;
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
    for limit in policy.quota_limits.iter().filter(|limit| facts.meets(&limit.matches, request)) {
        take(inbound, limit, &facts.attributes(request.headers()))?;
    }
    let mut verdicts = Vec::new();
    for limit in &policy.global_limits {
        if !facts.meets(&limit.matches, request) {
            continue;
        }
        let attributes = facts.attributes(request.headers());
        let descriptors = limit.limit.describe(&attributes);
        // Boxed: requests that no limit is asked about would else carry the call with them.
        let deciding = Box::pin(decide(inbound, limit, &descriptors, context));
        let Some(verdict) = deciding.await? else { continue };
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
    for limit in policy.quota_limits.iter().filter(|limit| limit.matches.is_empty()) {
        take(inbound, limit, attributes)?;
    }
    for limit in policy.global_limits.iter().filter(|limit| limit.matches.is_empty()) {
        decide(inbound, limit, &limit.limit.describe(attributes), context).await?;
    }
    Ok(())
}

/// Takes a place of the request's bucket. The first request begins the stream that tells the server.
fn take(inbound: &Inbound, limit: &QuotaLimit, attributes: &Attributes<'_>) -> Result<(), Refused> {
    let Some(bucket) = limit.bucket(attributes) else { return Ok(()) };
    let (core, name) = (&inbound.core, &limit.quota.config().name);
    let taken = limit.take(&bucket, (core.clock.now(), &mut core.randomness.generator()));
    quota_stream::follow(core, &limit.quota);
    let Err(over) = taken else { return Ok(()) };
    inbound.over_limit(name, over.is_enforced);
    if !over.is_enforced {
        return Ok(());
    }
    let mut error = refusal(ErrorKind::RateLimited, format!("rate limit {name}"));
    error.place_mut().retry_after = over.retry_after;
    Err(Refused { error, verdict: Some(over.reply) })
}

/// Nobody waits for an answer after the caller's deadline. A question for a lease goes on without him.
async fn in_time(
    deciding: impl Future<Output = LimitOutcome>,
    core: &Core,
    context: &CallContext,
) -> Result<LimitOutcome, Refused> {
    let Some(deadline) = context.deadline else { return Ok(deciding.await) };
    tokio::select! {
        biased;
        outcome = deciding => Ok(outcome),
        () = core.clock.sleep_until(deadline) => {
            Err(refused(ErrorKind::Timeout, "the caller's deadline passed while a rate limit was asked".to_owned()))
        }
    }
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
    let deciding = CallContext::scope(shared, policy.limit.decide(channel, descriptors, &core.clock));
    let config = policy.limit.config();
    match in_time(deciding, core, context).await? {
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
