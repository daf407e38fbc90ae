//! The story of one inbound request, told in order.
//!
//! peer -> trace -> deadline -> admission (rules, limits, room, checks) -> application -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: the application sees a
//! request only after every rule and check allowed it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use tower_service::Service;

use super::admission::{Admitted, Refused, admit, refusal};
use super::body::{Lengths, counted, recorded};
use super::facts::authority;
use super::forward::{check_reply, grpc_reply, local_reply, overloaded_reply};
use super::judging::Told;
use super::load::{self, Reporting};
use super::{ConnectionAddress, Inbound, health};
use crate::access::verdict::apply_to_response;
use crate::body::Body;
use crate::cluster::health::notice;
use crate::context::CallContext;
use crate::drain::Phase;
use crate::error::{BoxError, Error, ErrorKind};
use crate::identity::tls::PeerIdentity;
use crate::outbound::headers;
use crate::policy::criticality::Criticality;
use crate::policy::timeout;
use crate::snapshot::{ListenerPolicy, Snapshot};
use crate::telemetry::names::header::{CRITICALITY, PEER, REFUSED, REQUEST_ID, SHOULD_RETRY};
use crate::telemetry::peer::{self, Peer};
use crate::telemetry::record::{Record, is_grpc};
use crate::telemetry::{Reporter, Security, TraceContext};

/// Where a request came from: the connection, and who is at its other end.
pub(crate) type Origin = (Option<ConnectionAddress>, Option<Arc<PeerIdentity>>);

/// Answers one request: refuses it, or lets `service` answer.
pub(crate) async fn serve<S>(
    inbound: &Arc<Inbound>,
    origin: Origin,
    mut request: Request<Body>,
    service: S,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Send,
    S::Future: Send,
{
    let core = &inbound.core;
    let snapshot = core.snapshot.load_full();
    let policy = inbound.policy(&snapshot);
    if let Some(word) = health::answer(inbound, &policy, &request) {
        return word;
    }
    let in_flight = core.drain.request();
    let claimed = request.headers_mut().remove(PEER);
    let mut record = begin(inbound, &snapshot, &origin, (&request, claimed.as_ref()));
    let (version, grpc) = (request.version(), is_grpc(request.headers()));
    let reporting = Reporting::of(core, policy.load_reports, request.headers(), (grpc, origin.1.is_some()));

    let mut rng = core.randomness.generator();
    let trace = TraceContext::join(request.headers(), &mut rng, snapshot.sample_percent);
    record.traced(&trace);
    let margin = snapshot.defaults.deadline_margin;
    let mut context = context(&request, trace, (&origin, core.clock.now(), margin), &mut rng);
    context.criticality = Some(criticality(request.headers_mut(), &origin, &policy));
    let gave_up = context.gave_up.clone();
    let context = Arc::new(context);
    record.line.request_id.clone_from(&context.request_id);

    let admitted = admit(inbound, &policy, &origin, &mut request, &context).await;
    if let Some(told) = request.extensions_mut().remove::<Told>() {
        told.write(&mut record.line);
    }
    let (mut response, inside) = match admitted {
        Ok(Admitted { inside, verdicts }) => {
            let bytes = request
                .extensions_mut()
                .remove::<Lengths>()
                .map_or_else(Arc::<AtomicU64>::default, |told| told.request);
            record.count_request(Arc::clone(&bytes));
            let mut request = request.map(|body| counted(body, &bytes));
            tell_application(&mut request, &origin, &context);
            let started = core.clock.now();
            let mut response = match answer(service, request, context).await {
                Ok(mut response) => {
                    take_our_words(response.headers_mut());
                    // Only what the application did tells how much of it there is room for; no word of ours does.
                    if let Some(inside) = inside.as_ref().filter(|_| !load::is_failure(&response, grpc)) {
                        inside.answered(started, core.clock.now());
                    }
                    response
                }
                Err(error) => fail(&error, &mut record, grpc),
            };
            for verdict in &verdicts {
                apply_to_response(verdict, response.headers_mut());
            }
            (response, inside)
        }
        Err(refused) => (refuse(refused, &mut record, grpc), None),
    };

    record.answered(response.status().as_u16(), response.headers());
    reporting.head(response.status().as_u16(), response.headers_mut());
    if gave_up.is_set() && is_failure(&response) {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if claimed.is_some() && core.telemetry.exchanges_peers {
        response.headers_mut().insert(PEER, core.telemetry.node.to_header());
    }
    health::tell(inbound, claimed.is_some() || origin.1.is_some(), response.headers_mut());
    let is_upgrade = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    if core.drain.phase() != Phase::Serving && version < Version::HTTP_2 && !is_upgrade {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let lengths = response.extensions_mut().remove::<Lengths>();
    response.map(|body| recorded(body, (record, (in_flight, inside)), reporting, lengths))
}

/// What the caller says, no higher than it may. The header goes no further: the context carries it on.
fn criticality(headers: &mut HeaderMap, origin: &Origin, policy: &ListenerPolicy) -> Criticality {
    let said = headers.remove(CRITICALITY);
    let said = said.as_ref().and_then(|value| value.to_str().ok()).and_then(Criticality::named);
    let cap = if origin.1.is_some() { Criticality::CriticalPlus } else { policy.max_criticality };
    Criticality::capped(said, None, cap)
}

/// Whether the caller may want to try again.
fn is_failure(response: &Response<Body>) -> bool {
    let is_grpc_failure = response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() != b"0");
    response.status().is_server_error() || is_grpc_failure
}

/// The peer sees a status; the log sees why.
fn refuse(refused: Refused, record: &mut Record, grpc: bool) -> Response<Body> {
    record.failed(&refused.error, Some(refused.error.message().to_owned()));
    record.facts.response_code = 0;
    let mut reply = match refused.verdict {
        Some(verdict) if !grpc => check_reply(&verdict),
        Some(verdict) if verdict.grpc_status.is_some() => grpc_reply(&refused.error, &verdict),
        _ if refused.error.kind() == ErrorKind::Overloaded => overloaded_reply(&refused.error, grpc),
        _ => local_reply(&refused.error, grpc),
    };
    if let Some(wait) = refused.error.place().retry_after {
        // Rounded up: who comes back earlier is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    reply
}

/// The application's answer, or why it gave none.
async fn answer<S>(mut service: S, request: Request<Body>, context: Arc<CallContext>) -> Result<Response<Body>, Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Send,
    S::Future: Send,
{
    let answering = async {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    };
    // A panic in a handler is that request's failure, not the connection's.
    match AssertUnwindSafe(CallContext::scope(context, answering)).catch_unwind().await {
        Ok(Ok(response)) => Ok(response),
        // An error of the mesh (of an onward call, say) answers with its own status.
        Ok(Err(error)) => Err(match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => refusal(ErrorKind::Internal, format!("the application failed: {error}")),
        }),
        Err(_) => Err(refusal(ErrorKind::Internal, "the application panicked".to_owned())),
    }
}

fn fail(error: &Error, record: &mut Record, grpc: bool) -> Response<Body> {
    tracing::error!(error.type = error.kind().as_str(), reason = error.message(), "request failed");
    record.failed(error, Some(error.message().to_owned()));
    record.facts.response_code = 0;
    local_reply(error, grpc)
}

/// What one end of the mesh says to the other is ours to say: from an application it could make a peer repeat what
/// was done, or leave us.
fn take_our_words(headers: &mut HeaderMap) {
    headers.remove(REFUSED);
    headers.remove(SHOULD_RETRY);
    notice::hide(headers);
}

/// The record of a request that arrived: both ends, as far as they are known now.
fn begin(
    inbound: &Inbound,
    snapshot: &Snapshot,
    origin: &Origin,
    request: (&Request<Body>, Option<&HeaderValue>),
) -> Record {
    let (request, claimed) = request;
    let core = &inbound.core;
    let (address, peer) = origin;
    let mut record = Record::begin(
        &core.telemetry,
        &core.clock,
        Reporter::Destination,
        (request.method(), request.uri(), request.headers()),
    );
    let principal = peer.as_ref().map(|peer| peer.id.as_str());
    let claimed = claimed.filter(|_| core.telemetry.exchanges_peers).and_then(Peer::from_header);
    let node = &core.telemetry.node;
    record.facts.source = Arc::new(peer::trusted(claimed, principal));
    record.facts.destination = Arc::clone(node);
    record.facts.service = Arc::clone(&core.telemetry.service);
    record.facts.security = if peer.is_some() { Security::MutualTls } else { Security::None };
    record.line.host = authority(request).into();
    record.line.listener = Some(Arc::clone(&inbound.name));
    record.line.revision = Some(Arc::clone(&snapshot.revision_text));
    record.line.endpoint = address.map(|address| address.remote.to_string().into());
    record.line.peer = principal.map(Into::into);
    record.line.peer_serial = peer.as_ref().map(|peer| peer.serial.as_str().into());
    record.line.principal = core.telemetry.principal();
    record
}

/// What this request hands on to the requests it causes.
fn context(
    request: &Request<Body>,
    trace: TraceContext,
    from: (&Origin, Instant, Duration),
    rng: &mut fastrand::Rng,
) -> CallContext {
    let ((address, peer), now, margin) = from;
    let incoming = headers::deadline_of(request.headers()).map(|limit| timeout::with_margin(limit, margin));
    let request_id = headers::request_id(request.headers()).unwrap_or_else(|| headers::new_request_id(rng).into());
    CallContext {
        deadline: incoming.map(|limit| crate::time::after(now, limit)),
        peer: peer.as_ref().map(|peer| peer.id.as_str().into()),
        address: address.map(|address| address.remote.ip()),
        request_id: Some(request_id),
        attempt: headers::attempt_of(request.headers()),
        ..CallContext::new(trace)
    }
}

/// The application learns who called; a request id it can log; nothing a peer could have forged.
fn tell_application(request: &mut Request<Body>, origin: &Origin, context: &Arc<CallContext>) {
    let (address, peer) = origin;
    request.extensions_mut().insert(Arc::clone(context));
    if let Some(address) = address {
        request.extensions_mut().insert(*address);
    }
    if let Some(peer) = peer {
        request.extensions_mut().insert(PeerIdentity::clone(peer));
    }
    if let Some(id) = context.request_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
        request.headers_mut().insert(REQUEST_ID, id);
    }
}
