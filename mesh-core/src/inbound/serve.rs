//! The story of one inbound request, told in order.
//!
//! peer -> trace -> deadline -> access rules -> remote checks -> application -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: the application sees a
//! request only after every rule and check allowed it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use tower_service::Service;

use super::body::{counted, recorded};
use super::forward::local_reply;
use super::{ConnectionAddress, Inbound};
use crate::access::attributes::Attributes;
use crate::access::check::CheckOutcome;
use crate::access::rbac::Decision;
use crate::access::verdict::Verdict;
use crate::body::Body;
use crate::context::CallContext;
use crate::drain::Phase;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::outbound::ServiceClient;
use crate::policy::timeout;
use crate::route::matcher::RequestHead;
use crate::snapshot::{CheckPolicy, ListenerPolicy, Snapshot};
use crate::telemetry::names::header::{PEER, REQUEST_ID};
use crate::telemetry::peer::{self, Peer};
use crate::telemetry::record::{Record, is_grpc};
use crate::telemetry::{Reporter, Security, TraceContext};

/// Where a request came from: the connection, and who is at its other end.
pub(crate) type Origin = (Option<ConnectionAddress>, Option<Arc<PeerIdentity>>);

/// Answers one request: refuses it, or lets `service` answer.
pub(crate) async fn serve<S>(inbound: &Arc<Inbound>, origin: Origin, mut request: Request<Body>, service: S) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Send,
    S::Future: Send,
{
    let core = &inbound.core;
    let snapshot = core.snapshot.load_full();
    let policy = inbound.policy(&snapshot);
    let in_flight = core.drain.request();
    let claimed = request.headers_mut().remove(PEER);
    let mut record = begin(inbound, &snapshot, &origin, (&request, claimed.as_ref()));
    let (version, grpc) = (request.version(), is_grpc(request.headers()));

    let mut rng = core.randomness.generator();
    let trace = TraceContext::join(request.headers(), &mut rng, snapshot.sample_percent);
    record.traced(&trace);
    let context = Arc::new(context(&request, trace, (&origin, core.clock.now()), &mut rng));
    record.line.request_id.clone_from(&context.request_id);

    let admitted = admit(inbound, &policy, &origin, &mut request, &context).await;
    let mut response = match admitted {
        Ok(headers) => {
            let bytes = Arc::<AtomicU64>::default();
            record.count_request(Arc::clone(&bytes));
            let mut request = request.map(|body| counted(body, &bytes));
            tell_application(&mut request, &origin, &context);
            let mut response = answer(service, request, context, (&mut record, grpc)).await;
            for verdict in headers {
                verdict.apply_to_response(response.headers_mut());
            }
            response
        }
        Err(refused) => refuse(refused, &mut record, grpc),
    };

    record.answered(response.status().as_u16(), response.headers());
    if claimed.is_some() && core.telemetry.exchanges_peers {
        response.headers_mut().insert(PEER, core.telemetry.node.to_header());
    }
    if core.drain.phase() != Phase::Serving && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| recorded(body, record, in_flight))
}

/// Why a request goes no further.
struct Refused {
    error: Error,
    /// A remote check's own answer, if it gave one.
    verdict: Option<Arc<Verdict>>,
}

/// Rules first (they cost nothing), then checks, in the order written; the first refusal ends it.
async fn admit(
    inbound: &Arc<Inbound>,
    policy: &ListenerPolicy,
    origin: &Origin,
    request: &mut Request<Body>,
    context: &CallContext,
) -> Result<Vec<Arc<Verdict>>, Refused> {
    let now = inbound.core.clock.now();
    if context.deadline.is_some_and(|deadline| deadline <= now) {
        return Err(refused(ErrorKind::Timeout, "the caller's deadline had passed on arrival".to_owned()));
    }
    let facts = Facts::of(inbound, origin, request, context);
    if let Decision::Deny { rule, reason } = policy.rules.decide(&facts.attributes(request.headers())) {
        let rule = rule.unwrap_or("default");
        return Err(refused(ErrorKind::Denied, format!("rule {rule}: {}", reason.as_str())));
    }
    let mut verdicts = Vec::new();
    for check in policy.checks.iter().filter(|check| check.applies(request)) {
        let verdict = ask(inbound, check, &facts.attributes(request.headers()), (origin, context)).await?;
        verdict.apply_to_request(request.headers_mut());
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

async fn ask(inbound: &Arc<Inbound>, policy: &CheckPolicy, attributes: &Attributes<'_>, call: (&Origin, &CallContext)) -> Result<Arc<Verdict>, Refused> {
    let ((_, peer), context) = call;
    let clock = &inbound.core.clock;
    // An answer about a caller is worth no longer than the caller's certificate.
    let expiry = peer.as_ref().map(|peer| {
        crate::time::after(clock.now(), peer.not_after.duration_since(clock.wall()).unwrap_or_default())
    });
    let channel = ServiceClient::to_cluster(Arc::clone(&inbound.core), Arc::clone(&policy.cluster));
    let asked = CallContext { deadline: None, ..context.clone() };
    let outcome = CallContext::scope(Arc::new(asked), policy.check.check(channel.grpc(), attributes, &**clock, expiry)).await;
    match outcome {
        CheckOutcome::Allow(verdict) => Ok(verdict),
        CheckOutcome::Deny(verdict) => {
            let error = refusal(ErrorKind::CheckDenied, format!("check {}: denied", policy.check.name()));
            Err(Refused { error, verdict: Some(verdict) })
        }
    }
}

fn refused(kind: ErrorKind, message: String) -> Refused {
    Refused { error: refusal(kind, message), verdict: None }
}

fn refusal(kind: ErrorKind, message: String) -> Error {
    Error::new(kind, message).with_side(Side::Inbound)
}

/// The peer sees a status; the log sees why.
fn refuse(refused: Refused, record: &mut Record, grpc: bool) -> Response<Body> {
    record.failed(&refused.error, Some(refused.error.message().to_owned()));
    record.facts.response_code = 0;
    match refused.verdict {
        Some(verdict) if !grpc => verdict.to_response(),
        _ => local_reply(&refused.error, grpc),
    }
}

async fn answer<S>(mut service: S, request: Request<Body>, context: Arc<CallContext>, ends: (&mut Record, bool)) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Send,
    S::Future: Send,
{
    let (record, grpc) = ends;
    let answering = async {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    };
    // A panic in a handler is that request's failure, not the connection's.
    let failure = match AssertUnwindSafe(CallContext::scope(context, answering)).catch_unwind().await {
        Ok(Ok(response)) => return response,
        Ok(Err(error)) => format!("the application failed: {error}"),
        Err(_) => "the application panicked".to_owned(),
    };
    tracing::error!(reason = failure, "request failed");
    let error = refusal(ErrorKind::Internal, failure);
    record.failed(&error, Some(error.message().to_owned()));
    record.facts.response_code = 0;
    local_reply(&error, grpc)
}
