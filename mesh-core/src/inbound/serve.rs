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
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use tower_service::Service;

use super::body::{counted, recorded};
use super::forward::{check_reply, local_reply, overloaded_reply};
use super::gate::Inside;
use super::load::Reporting;
use super::{ConnectionAddress, Inbound, health};
use crate::access::attributes::Attributes;
use crate::access::authorization::Ruling;
use crate::access::check::CheckOutcome;
use crate::access::rbac::Decision;
use crate::access::verdict::{Verdict, apply_to_response};
use crate::body::Body;
use crate::context::{CallContext, GaveUp};
use crate::drain::Phase;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::outbound::{GrpcChannel, ServiceClient, headers};
use crate::policy::criticality::Criticality;
use crate::policy::timeout;
use crate::policy::waiting::Arrival;
use crate::route::matcher::{RequestHead, first_match};
use crate::route::normalize::{Normalized, PathNormalization};
use crate::snapshot::{CheckPolicy, ListenerPolicy, Snapshot};
use crate::telemetry::names::header::{CRITICALITY, PEER, REQUEST_ID, SHOULD_RETRY};
use crate::telemetry::names::label;
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
    let reporting = Reporting::of(core, policy.load_reports, request.headers(), grpc);

    let mut rng = core.randomness.generator();
    let trace = TraceContext::join(request.headers(), &mut rng, snapshot.sample_percent);
    record.traced(&trace);
    let margin = snapshot.defaults.deadline_margin;
    let mut context = context(&request, trace, (&origin, core.clock.now(), margin), &mut rng);
    context.criticality = Some(criticality(request.headers_mut(), &origin, &policy));
    let gave_up = context.gave_up.clone();
    let context = Arc::new(context);
    record.line.request_id.clone_from(&context.request_id);

    let mut inside = None;
    let admitted = match pass_gate(inbound, &context).await {
        Ok(passed) => {
            inside = passed;
            admit(inbound, &policy, &origin, &mut request, &context).await
        }
        Err(turned_away) => Err(turned_away),
    };
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

    if let Some(inside) = inside.as_ref().filter(|_| !response.status().is_server_error()) {
        inside.answered(core.clock.now());
    }
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
    response.map(|body| recorded(body, (record, (in_flight, inside)), reporting))
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
    limit(inbound, policy, (&facts, request))?;
    judge(policy, &facts.attributes(request.headers())).inspect_err(|_| inbound.decisions.denied.inc())?;
    let mut verdicts = Vec::new();
    for check in &policy.checks {
        if !is_asked(check, policy, (&facts, request)) {
            continue;
        }
        let policy = check;
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
fn judge(policy: &ListenerPolicy, attributes: &Attributes<'_>) -> Result<(), Refused> {
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

/// A check asks about the requests it matches, or those an authorization policy hands to it.
fn is_asked(check: &CheckPolicy, policy: &ListenerPolicy, about: (&Facts<'_>, &Request<Body>)) -> bool {
    let (facts, request) = about;
    if check.is_provider_only {
        let name = &check.check.config().name;
        return policy.authorization.providers(&facts.attributes(request.headers())).any(|(asked, _)| asked == name);
    }
    let head = RequestHead::new(&facts.method, request.uri(), request.headers());
    check.matches.is_empty() || first_match(&check.matches, head).is_some()
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
    // Nor does its failure say that what the application does was tried enough.
    let shared = Arc::new(CallContext { deadline: None, gave_up: GaveUp::default(), ..context.clone() });
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
    let mut reply = match refused.verdict {
        Some(verdict) if !grpc => check_reply(&verdict),
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
            remote_address: None,
            sni: None,
            claims: None,
            is_tcp: false,
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
