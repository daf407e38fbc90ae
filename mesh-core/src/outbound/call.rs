//! The story of one outbound request, told in order.
//!
//! route -> deadline -> cluster -> admission -> attempts (pick, send, judge, again?) -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: one snapshot through
//! all attempts, and every attempt is judged exactly once at its endpoint.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Request, Response};

use crate::body::Body;
use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::health::notice;
use crate::cluster::member::Endpoint;
use crate::cluster::taken::Taken;
use crate::context::CallContext;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::outbound::attempt::{self, Answer, Outgoing};
use crate::outbound::body::{Open, ResponseBody};
use crate::outbound::replay::Replay;
use crate::outbound::{CallOptions, CallReport, REPLAY_LIMIT, headers};
use crate::policy::concurrency::Permit;
use crate::policy::retry::{Decision, Outcome, RequestFacts, RetryPolicy, RetryState, StopReason, is_idempotent};
use crate::policy::timeout::{self, Limits};
use crate::route::matcher::RequestHead;
use crate::route::table::Miss;
use crate::snapshot::Snapshot;
use crate::telemetry::names::header::PEER;
use crate::telemetry::peer::{self, Peer};
use crate::telemetry::record::{Record, is_grpc};
use crate::telemetry::{Reporter, TraceContext};

/// Sends `request`, to `cluster` if one is given, else where the routes say.
pub(crate) async fn call(
    core: &Arc<Core>,
    cluster: Option<&str>,
    request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let snapshot = core.snapshot.load_full();
    let mut call = Call::begin(core, snapshot, request);
    match call.run(cluster).await {
        Ok(done) => Ok(call.respond(done)),
        Err(error) => Err(call.fail(error)),
    }
}

/// One logical request, from its route to the head of its response.
struct Call<'a> {
    core: &'a Arc<Core>,
    snapshot: Arc<Snapshot>,
    head: http::request::Parts,
    body: Replay,
    options: CallOptions,
    rng: fastrand::Rng,
    record: Record,
    place: Place,
    deadline: Option<Instant>,
    admitted: Option<Permit>,
}

/// Where a call goes and under which terms; of a rule, or the defaults when a cluster was named.
struct Terms {
    cluster: Arc<Cluster>,
    subset: Option<usize>,
    route: Option<std::time::Duration>,
    attempt: Option<std::time::Duration>,
    retry: Arc<RetryPolicy>,
}

impl<'a> Call<'a> {
    fn begin(core: &'a Arc<Core>, snapshot: Arc<Snapshot>, request: Request<Body>) -> Self {
        let (mut head, body) = request.into_parts();
        headers::make_absolute(&mut head);
        let options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
        let context = head.extensions.get::<Arc<CallContext>>().cloned().or_else(CallContext::current);
        let mut rng = core.randomness.generator();
        let trace = match &context {
            Some(context) => context.trace.child(&mut rng),
            None => TraceContext::join(&head.headers, &mut rng, snapshot.sample_percent),
        };
        let body = Replay::new(body, REPLAY_LIMIT);
        let mut record =
            Record::begin(&core.telemetry, &core.clock, Reporter::Source, (&head.method, &head.uri, &head.headers));
        record.count_request(body.counter());
        record.traced(&trace);
        record.facts.source = Arc::clone(&core.telemetry.node);
        record.line.revision = Some(Arc::clone(&snapshot.revision_text));
        record.line.principal = core.telemetry.principal();
        headers::prepare(&mut head.headers, &trace, context.as_deref(), &mut rng);
        if core.telemetry.exchanges_peers {
            head.headers.insert(PEER, core.telemetry.node_header.clone());
        }
        record.line.request_id = headers::request_id(&head.headers);
        let deadline = context.and_then(|context| context.deadline);
        Self { core, snapshot, head, body, options, rng, record, place: Place::default(), deadline, admitted: None }
    }

    /// The story.
    async fn run(&mut self, cluster: Option<&str>) -> Result<(Answer, Taken), Error> {
        let core = self.core;
        let terms = self.route(cluster)?;
        let start = core.clock.now();
        let limits = Limits { application: self.options.timeout, route: terms.route, ..Limits::default() };
        self.deadline = timeout::earlier(self.deadline, limits.deadline(start));
        let cluster = &terms.cluster;
        cluster.refuse_if_broken(start)?;
        self.admitted = Some(cluster.limit.admit().map_err(|full| overloaded(full.max))?);
        let dialer = core.dialer()?;
        let idempotent = self.options.idempotent.unwrap_or_else(|| is_idempotent(&self.head.method));
        let mut retry = RetryState::start(Arc::clone(&terms.retry), Arc::clone(&cluster.budget), start);
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        loop {
            let now = core.clock.now();
            let wanted = Wanted { now, tried: &tried, hash: None, subset: terms.subset };
            let mut taken = self.pick(cluster, wanted).await?;
            self.chosen(&taken.endpoint);
            let limit = timeout::attempt_limit(terms.attempt, timeout::time_left(self.deadline, now));
            headers::tell_deadline(&mut self.head.headers, limit);
            let outgoing = self.outgoing(idempotent);
            let way = attempt::Way::to(dialer, cluster, &taken.endpoint, is_grpc(&self.head.headers));
            let result = attempt::send(&way, &outgoing, limit.map(|limit| crate::time::after(now, limit))).await;

            let now = core.clock.now();
            let facts = RequestFacts {
                idempotent,
                body_replayable: self.body.is_replayable(),
                committed: false,
                deadline: self.deadline,
                wall: core.clock.wall(),
            };
            let outcome = outcome(&result);
            let decision = retry.decide(&outcome, &facts, now, &mut self.rng);
            taken.judge(&outcome, now, &mut self.rng);
            tracing::debug!(cluster = %cluster.name, endpoint = %taken.endpoint.name, attempt = self.place.attempts, ?decision, "attempt ended");
            match (decision, result) {
                (Decision::Retry { after }, discarded) => {
                    core.telemetry.retried(&cluster.name);
                    tried.push(Arc::clone(&taken.endpoint));
                    // Neither connection nor place in the load count is held while waiting.
                    drop((discarded, taken));
                    core.clock.sleep_until(crate::time::after(now, after)).await;
                }
                (Decision::Stop(reason), Ok(answer)) => {
                    self.note_stop(reason);
                    return Ok((answer, taken));
                }
                (Decision::Stop(reason), Err(error)) => {
                    self.note_stop(reason);
                    return Err(self.timed_out(error, now));
                }
            }
        }
    }

    /// Which rule, which of its clusters, and how the request changes on the way.
    fn route(&mut self, cluster: Option<&str>) -> Result<Terms, Error> {
        let snapshot = Arc::clone(&self.snapshot);
        if let Some(name) = cluster {
            let cluster = snapshot
                .clusters
                .get(name)
                .ok_or_else(|| Error::new(ErrorKind::NoCluster, format!("no cluster is called {name:?}")))?;
            self.going_to(cluster);
            let defaults = &snapshot.defaults;
            return Ok(Terms {
                cluster: Arc::clone(cluster),
                subset: None,
                route: defaults.timeout,
                attempt: defaults.attempt_timeout,
                retry: Arc::clone(&defaults.retry),
            });
        }
        let authority = self.head.uri.authority().map_or("", |authority| authority.as_str());
        if authority.is_empty() {
            return Err(Error::new(
                ErrorKind::BadRequest,
                "the request names no host: use an absolute URI or a Host header",
            ));
        }
        let head = RequestHead::new(&self.head.method, &self.head.uri, &self.head.headers);
        let matched = snapshot.routes.lookup(authority, head).map_err(|miss| {
            let what = if miss == Miss::NoHost { "no route has the host" } else { "no rule matches" };
            Error::new(ErrorKind::NoRoute, format!("{what}: {} {authority}{}", self.head.method, self.head.uri.path()))
        })?;
        let (action, prefix) = (&matched.rule.action, matched.prefix_len);
        self.place.route = Some(action.name.to_string());
        self.record.line.route = Some(Arc::clone(&action.name));
        if let Some(rewrite) = &action.rewrite {
            rewrite.apply(&mut self.head.uri, &mut self.head.headers, prefix).map_err(|error| {
                Error::new(ErrorKind::BadRequest, format!("the rewritten target is not valid: {error}"))
            })?;
        }
        let target = action.split.pick(&mut self.rng);
        let (cluster, subset) = (Arc::clone(&target.cluster), target.subset);
        self.going_to(&cluster);
        Ok(Terms {
            cluster,
            subset,
            route: action.timeout,
            attempt: action.attempt_timeout,
            retry: Arc::clone(&action.retry),
        })
    }

    /// An endpoint; only a cluster whose names were never resolved yet is worth a wait.
    async fn pick(&mut self, cluster: &Arc<Cluster>, wanted: Wanted<'_>) -> Result<Taken, Error> {
        let now = wanted.now;
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Error::new(ErrorKind::Timeout, "no time is left"));
        }
        let picked = cluster.pick(wanted, &mut self.rng);
        if picked.is_ok() || !cluster.is_resolving() {
            return picked;
        }
        let patience =
            self.core.clock.sleep_until(self.deadline.unwrap_or_else(|| crate::time::after(now, RESOLVE_PATIENCE)));
        tokio::select! {
            () = cluster.resolved() => {}
            () = patience => {}
        }
        cluster.pick(Wanted { now: self.core.clock.now(), ..wanted }, &mut self.rng)
    }

    fn outgoing(&self, is_idempotent: bool) -> Outgoing<'_> {
        let head = &self.head;
        Outgoing {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            extensions: &head.extensions,
            body: &self.body,
            is_idempotent,
        }
    }

    fn going_to(&mut self, cluster: &Cluster) {
        self.place.cluster = Some(cluster.name.to_string());
        self.record.line.cluster = Some(Arc::clone(&cluster.name));
        self.record.facts.service = Arc::clone(&cluster.settings.service);
    }

    fn chosen(&mut self, endpoint: &Endpoint) {
        self.place.attempts += 1;
        self.place.endpoint = Some(endpoint.name.to_string());
        self.record.line.attempts = Some(self.place.attempts);
        self.record.line.endpoint = Some(Arc::clone(&endpoint.name));
        self.record.facts.destination = Arc::clone(&endpoint.workload);
    }

    /// Envoy marks a response that came after the last permitted retry.
    fn note_stop(&mut self, reason: StopReason) {
        if matches!(reason, StopReason::AttemptsExhausted | StopReason::BudgetEmpty) && self.place.attempts > 0 {
            self.record.facts.flags = Cow::Borrowed("URX");
            self.core.telemetry.retry_refused(self.place.cluster.as_deref().unwrap_or_default(), reason.as_str());
        }
    }

    /// An attempt that was cut by the request's own deadline is the request's timeout.
    fn timed_out(&self, error: Error, now: Instant) -> Error {
        let is_over = self.deadline.is_some_and(|deadline| deadline <= now);
        if error.kind() != ErrorKind::AttemptTimeout || !is_over {
            return error;
        }
        let sent = error.sent();
        Error::new(ErrorKind::Timeout, "the request's deadline passed").with_sent(sent).with_source(error)
    }

    fn respond(mut self, done: (Answer, Taken)) -> Response<Body> {
        let (Answer { response, held }, taken) = done;
        let (mut head, body) = response.into_parts();
        let peer = held.connection.facts.peer.as_ref();
        let principal: Option<Arc<str>> = peer.map(|peer| peer.id.as_str().into());
        self.record.answered(head.status.as_u16(), &head.headers);
        self.record.facts.security =
            if peer.is_some() { crate::telemetry::Security::MutualTls } else { crate::telemetry::Security::None };
        self.record.line.peer.clone_from(&principal);
        self.record.line.peer_serial = peer.map(|peer| peer.serial.as_str().into());
        notice::hide(&mut head.headers);
        let claimed = head.headers.remove(PEER).as_ref().and_then(Peer::from_header);
        if claimed.is_some() || principal.is_some() {
            let known = claimed.or_else(|| Some(Peer::clone(&taken.endpoint.workload)));
            self.record.facts.destination = Arc::new(peer::trusted(known, principal.as_deref()));
        }
        head.extensions.insert(CallReport {
            attempts: self.place.attempts,
            cluster: self.record.line.cluster.clone().unwrap_or_default(),
            endpoint: Arc::clone(&taken.endpoint.name),
            route: self.record.line.route.clone().unwrap_or_default(),
            revision: self.snapshot.revision,
            peer: principal,
        });
        let timeout = self.deadline.map(|deadline| self.core.clock.sleep_until(deadline));
        let open = Open { record: Some(self.record), held, taken, admitted: self.admitted };
        Response::from_parts(head, ResponseBody::wrap(body, open, timeout))
    }

    fn fail(mut self, mut error: Error) -> Error {
        let retry_after = error.place_mut().retry_after.take();
        *error.place_mut() = Place { retry_after, ..std::mem::take(&mut self.place) };
        self.record.failed(&error, Some(error.message().to_owned()));
        if error.sent() == Sent::Never {
            self.core.telemetry.refused(error.kind());
        }
        self.record.end();
        error
    }
}

fn overloaded(max: u32) -> Error {
    Error::new(ErrorKind::Overloaded, format!("the cluster has {max} requests in flight, its limit"))
}

pub(super) fn outcome(result: &Result<Answer, Error>) -> Outcome<'_> {
    match result {
        Ok(answer) => {
            let headers = answer.response.headers();
            Outcome::Response { status: answer.response.status().as_u16(), grpc_status: grpc_status(headers), headers }
        }
        Err(error) => Outcome::Failure { kind: error.kind(), sent: error.sent() },
    }
}

/// A gRPC status in the head is that of a trailers-only response: the call is over.
fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status").and_then(|status| status.to_str().ok()).and_then(|status| status.parse().ok())
}

/// Without a deadline, how long to wait for a name that was never resolved: as long as a default connect.
const RESOLVE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
