//! The story of one outbound request, told in order.
//!
//! route -> deadline -> cluster -> admission -> attempts (pick, send, record, retry?) -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: one snapshot through
//! all attempts, and every attempt is recorded exactly once at its endpoint.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response, Uri, header};
use hyper::body::Incoming;

use crate::body::Body;
use crate::cluster::group::{Cluster, Taken};
use crate::context::CallContext;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::outbound::attempt::{self, Answer, Outgoing};
use crate::outbound::body::ResponseBody;
use crate::outbound::record::Record;
use crate::outbound::replay::Replay;
use crate::outbound::{CallOptions, CallReport};
use crate::policy::concurrency::Permit;
use crate::policy::retry::{Decision, Outcome, RequestFacts, RetryState, StopReason, is_idempotent};
use crate::policy::timeout;
use crate::route::rewrite;
use crate::snapshot::{Action, Snapshot};
use crate::telemetry::names;

/// Sends `request`, to `cluster` if one is given, else where the routes say.
pub(crate) async fn call(core: &Arc<Core>, cluster: Option<&str>, request: Request<Body>) -> Result<Response<Body>, Error> {
    let snapshot = core.snapshot.load_full();
    let mut call = Call::begin(core, snapshot, request)?;
    match call.run(cluster).await {
        Ok(response) => Ok(call.respond(response)),
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
    deadline: Option<Instant>,
    admitted: Option<Permit>,
}

/// The attempt that is the answer.
struct Final {
    answer: Answer,
    endpoint: Arc<Endpoint>,
    taken: Taken,
}

impl<'a> Call<'a> {
    fn begin(core: &'a Arc<Core>, snapshot: Arc<Snapshot>, request: Request<Body>) -> Result<Self, Error> {
        let (mut head, body) = request.into_parts();
        head.uri = absolute(&head.uri, &head.headers)?;
        let options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
        let parent = head.extensions.get::<Arc<CallContext>>().cloned().or_else(CallContext::current);
        let mut rng = core.randomness.generator();
        let trace = match &parent {
            Some(parent) => parent.trace.child(&mut rng),
            None => crate::telemetry::TraceContext::join(&head.headers, &mut rng, snapshot.sample_percent),
        };
        trace.inject(&mut head.headers);
        let body = Replay::new(body, REPLAY_LIMIT);
        let record = Record::begin(core, &snapshot, (&head, &trace), body.counter());
        let inherited = parent.and_then(|parent| parent.deadline);
        Ok(Self { core, snapshot, head, body, options, rng, record, deadline: inherited, admitted: None })
    }

    /// The story.
    async fn run(&mut self, cluster: Option<&str>) -> Result<Final, Error> {
        let action = self.route(cluster)?;
        let start = self.core.clock.now();
        self.deadline = timeout::earlier(self.deadline, timeout::Limits { route: action.timeout, caller: self.options.timeout }.deadline(start));
        let cluster = Arc::clone(action.split.pick(&mut self.rng));
        self.record.cluster(&cluster);
        self.admitted = Some(cluster.live.limit.admit().map_err(|refused| overloaded(&cluster, refused))?);
        let dialer = self.core.dialer()?;
        let mut retry = RetryState::start(Arc::clone(&action.retry), Arc::clone(&cluster.live.budget), start);
        let idempotent = self.options.idempotent.unwrap_or_else(|| is_idempotent(&self.head.method));
        let mut tried = Vec::new();
        loop {
            let now = self.core.clock.now();
            self.expired(now)?;
            let (endpoint, taken) = cluster.pick(now, &mut self.rng, &mut tried).await_names(&cluster, self.deadline, &*self.core.clock).await?;
            self.record.attempt(&endpoint);
            self.announce_deadline(now, action.attempt_timeout);
            let attempt_deadline = timeout::earlier(self.deadline, action.attempt_timeout.map(|limit| crate::time::after(now, limit)));
            let outgoing = Outgoing { method: &self.head.method, uri: &self.head.uri, headers: &self.head.headers, extensions: &self.head.extensions, body: &self.body, is_idempotent: idempotent };
            let route = attempt::Route { dialer, endpoint: &endpoint, transport: cluster.transport(&endpoint), limits: cluster.pool };
            let result = attempt::send(&route, &outgoing, attempt_deadline).await;
            let now = self.core.clock.now();
            let facts = RequestFacts { idempotent, body_replayable: self.body.is_replayable(), committed: false, deadline: self.deadline, wall: self.core.clock.wall() };
            let decision = retry.decide(&outcome(&result), &facts, now, &mut self.rng);
            tracing::debug!(cluster = %cluster.name, endpoint = %endpoint.name, decision = ?decision, "attempt ended");
            match (decision, result) {
                (Decision::Retry { after }, result) => {
                    taken.discard(&outcome(&result), now, &mut self.rng);
                    self.record.retry(&cluster);
                    drop(result);
                    self.core.clock.sleep_until(crate::time::after(now, after)).await;
                }
                (Decision::Stop(_), Ok(answer)) => return Ok(Final { answer, endpoint, taken }),
                (Decision::Stop(reason), Err(error)) => {
                    taken.discard(&Outcome::Failure { kind: error.kind(), sent: error.sent() }, now, &mut self.rng);
                    return Err(self.last_word(error, reason, now));
                }
            }
        }
    }
}
