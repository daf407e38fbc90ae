//! The story of one inbound request, told in order.
//!
//! peer -> trace -> deadline -> access rules -> remote checks -> application -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: the application sees a
//! request only after every rule and check allowed it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use tower_service::Service;

use super::body::{counted, recorded};
use super::forward::{check_reply, local_reply};
use super::{ConnectionAddress, Inbound};
use crate::access::attributes::Attributes;
use crate::access::check::CheckOutcome;
use crate::access::rbac::Decision;
use crate::access::verdict::{Verdict, apply_to_response};
use crate::body::Body;
use crate::context::CallContext;
use crate::drain::Phase;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::outbound::{GrpcChannel, ServiceClient, headers};
use crate::policy::timeout;
use crate::route::matcher::{RequestHead, first_match};
use crate::route::normalize::{Normalized, PathNormalization};
use crate::snapshot::{CheckPolicy, ListenerPolicy, Snapshot};
use crate::telemetry::names::header::{PEER, REQUEST_ID};
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
        Ok(verdicts) => {
            let bytes = Arc::<AtomicU64>::default();
            record.count_request(Arc::clone(&bytes));
            let mut request = request.map(|body| counted(body, &bytes));
            tell_application(&mut request, &origin, &context);
            let mut response = answer(service, request, context, (&mut record, grpc)).await;
            for verdict in &verdicts {
                apply_to_response(verdict, response.headers_mut());
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
    let core = &inbound.core;
    if context.deadline.is_some_and(|deadline| deadline <= core.clock.now()) {
        return Err(refused(ErrorKind::Timeout, "the caller's deadline had passed on arrival".to_owned()));
    }
    let facts = Facts::of(inbound, origin, request, context)?;
    if let Decision::Deny { rule, reason } = policy.rules.decide(&facts.attributes(request.headers())) {
        inbound.decisions.denied.inc();
        return Err(refused(
            ErrorKind::Denied,
            format!("access rule {}: {}", rule.unwrap_or("default"), reason.as_str()),
        ));
    }
    let mut verdicts = Vec::new();
    for policy in &policy.checks {
        let head = RequestHead::new(&facts.method, request.uri(), request.headers());
        if !policy.matches.is_empty() && first_match(&policy.matches, head).is_none() {
            continue;
        }
        let outcome = ask(inbound, policy, &facts.attributes(request.headers()), (origin, context)).await;
        if !outcome.is_allowed() {
            inbound.decisions.check_denied.inc();
            return Err(check_refusal(&policy.check.config().name, outcome));
        }
        policy.check.apply_to_request(&outcome, request.headers_mut());
        verdicts.push(Arc::clone(outcome.verdict()));
    }
    inbound.decisions.allowed.inc();
    Ok(verdicts)
}

/// The policy server is a cluster like any other: balanced, retried, with breakers and telemetry.
async fn ask(
    inbound: &Arc<Inbound>,
    policy: &CheckPolicy,
    attributes: &Attributes<'_>,
    call: (&Origin, &CallContext),
) -> CheckOutcome {
    let ((_, peer), context) = call;
    let clock = &inbound.core.clock;
    // An answer about a caller is worth no longer than the caller's certificate.
    let expiry = peer
        .as_ref()
        .map(|peer| crate::time::after(clock.now(), peer.not_after.duration_since(clock.wall()).unwrap_or_default()));
    let channel = GrpcChannel::new(ServiceClient::to_cluster(Arc::clone(&inbound.core), Arc::clone(&policy.cluster)));
    // The answer is shared with others, so the deadline of this caller must not end the call.
    let shared = Arc::new(CallContext { deadline: None, ..context.clone() });
    CallContext::scope(shared, policy.check.check(channel, attributes, &**clock, expiry)).await
}

fn check_refusal(name: &str, outcome: CheckOutcome) -> Refused {
    let (kind, why) = match &outcome {
        CheckOutcome::Failed { reason, .. } => (ErrorKind::CheckFailed, reason.as_str()),
        _ => (ErrorKind::CheckDenied, "denied"),
    };
    Refused { error: refusal(kind, format!("check {name}: {why}")), verdict: Some(Arc::clone(outcome.verdict())) }
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
        Some(verdict) if !grpc => check_reply(&verdict),
        _ => local_reply(&refused.error, grpc),
    }
}

async fn answer<S>(
    mut service: S,
    request: Request<Body>,
    context: Arc<CallContext>,
    ends: (&mut Record, bool),
) -> Response<Body>
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
    let error = match AssertUnwindSafe(CallContext::scope(context, answering)).catch_unwind().await {
        Ok(Ok(response)) => return response,
        // An error of the mesh (of an onward call, say) answers with its own status.
        Ok(Err(error)) => match error.downcast::<Error>() {
            Ok(error) => *error,
            Err(error) => refusal(ErrorKind::Internal, format!("the application failed: {error}")),
        },
        Err(_) => refusal(ErrorKind::Internal, "the application panicked".to_owned()),
    };
    tracing::error!(error.type = error.kind().as_str(), reason = error.message(), "request failed");
    record.failed(&error, Some(error.message().to_owned()));
    record.facts.response_code = 0;
    local_reply(&error, grpc)
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
    record.line.host = host(request).into();
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
    from: (&Origin, Instant),
    rng: &mut fastrand::Rng,
) -> CallContext {
    let ((address, peer), now) = from;
    let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let incoming = if is_grpc(request.headers()) {
        text(headers::GRPC_TIMEOUT).and_then(timeout::decode_grpc_timeout)
    } else {
        text(headers::ENVOY_TIMEOUT).and_then(timeout::decode_envoy_timeout)
    };
    let request_id = headers::request_id(request.headers()).unwrap_or_else(|| headers::new_request_id(rng).into());
    CallContext {
        deadline: incoming.map(|limit| crate::time::after(now, limit)),
        peer: peer.as_ref().map(|peer| peer.id.as_str().into()),
        address: address.map(|address| address.remote.ip()),
        request_id: Some(request_id),
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

fn host(request: &Request<Body>) -> &str {
    let from_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or_else(from_header).unwrap_or_default()
}

/// What policies read of a request besides its headers. The path is normalised first, so that
/// `/public/../admin` is judged as the application will read it.
struct Facts<'a> {
    inbound: &'a Inbound,
    origin: &'a Origin,
    method: http::Method,
    path: String,
    query: Option<String>,
    host: String,
    protocol: &'static str,
    request_id: Arc<str>,
    time: std::time::SystemTime,
}

impl<'a> Facts<'a> {
    fn of(
        inbound: &'a Inbound,
        origin: &'a Origin,
        request: &mut Request<Body>,
        context: &CallContext,
    ) -> Result<Self, Refused> {
        normalise(request)?;
        Ok(Self {
            inbound,
            origin,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().map(str::to_owned),
            host: host(request).to_owned(),
            protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            request_id: context.request_id.clone().unwrap_or_default(),
            time: inbound.core.clock.wall(),
        })
    }

    fn attributes<'b>(&'b self, headers: &'b HeaderMap) -> Attributes<'b> {
        let (address, peer) = self.origin;
        let node = &self.inbound.core.telemetry.node;
        Attributes {
            principal: peer.as_ref().map(|peer| peer.id.as_str()),
            own_principal: peer.as_ref().map(|_| &*node.principal),
            service: &node.canonical_service,
            listener: &self.inbound.name,
            method: self.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
            host: &self.host,
            scheme: if peer.is_some() { "https" } else { "http" },
            protocol: self.protocol,
            headers,
            source_address: address.map(|address| address.remote),
            destination_address: address.map(|address| address.local),
            request_id: &self.request_id,
            time: self.time,
        }
    }
}

fn normalise(request: &mut Request<Body>) -> Result<(), Refused> {
    let bad = |why: String| refused(ErrorKind::BadRequest, why);
    let Some(target) = request.uri().path_and_query().map(|target| target.as_str().to_owned()) else { return Ok(()) };
    let normalised =
        PathNormalization::default().apply(&target).map_err(|reason| bad(format!("path refused: {reason:?}")))?;
    let Normalized::Target(new) = normalised else { return Ok(()) };
    if *new != *target {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(new.parse().map_err(|error| bad(format!("path refused: {error}")))?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| bad(format!("path refused: {error}")))?;
    }
    Ok(())
}
