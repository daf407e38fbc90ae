//! The story of one outbound request, told in order.
//!
//! route -> deadline -> cluster -> admission -> attempts (pick, send, judge, again?) -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: one snapshot through
//! all attempts, and every attempt is judged exactly once at its endpoint.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};

use crate::body::Body;
use crate::cluster::balancing::BalancerKind;
use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::health::notice;
use crate::cluster::member::Endpoint;
use crate::cluster::taken::Taken;
use crate::context::CallContext;
use crate::core::Core;
use crate::endpoint::connect::Dialer;
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::outbound::affinity::Ties;
use crate::outbound::attempt::{self, Outgoing};
use crate::outbound::body::{Open, ResponseBody};
use crate::outbound::kept::split_draw;
use crate::outbound::peek::Received;
use crate::outbound::race::Lead;
use crate::outbound::replay::Replay;
use crate::outbound::trail::{FIRST, Level, Noted, RETRY, Trail, Why};
use crate::outbound::{CallOptions, CallReport, REPLAY_LIMIT, headers, overload};
use crate::policy::concurrency::Permit;
use crate::policy::criticality::Criticality;
use crate::policy::hedge::{HedgeState, Hedging};
use crate::policy::retry::{Decision, Outcome, Reach, RequestFacts, RetryPolicy, RetryState, StopReason};
use crate::policy::timeout::{self, Limits};
use crate::route::affinity::Affinity;
use crate::route::matcher::RequestHead;
use crate::route::table::Miss;
use crate::snapshot::Snapshot;
use crate::telemetry::names::header::{LOAD_FORMAT, PEER, SHOULD_RETRY};
use crate::telemetry::names::label;
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
pub(super) struct Call<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) snapshot: Arc<Snapshot>,
    context: Option<Arc<CallContext>>,
    pub(super) head: http::request::Parts,
    pub(super) body: Replay,
    options: CallOptions,
    pub(super) rng: fastrand::Rng,
    pub(super) record: Record,
    place: Place,
    pub(super) deadline: Option<Instant>,
    class: Criticality,
    pub(super) admitted: Option<Permit>,
    pub(super) cluster: Option<Arc<Cluster>>,
    /// What binds it to an endpoint.
    pub(super) ties: Ties,
    pub(super) trail: Trail,
}

/// Where a call goes and under which terms; of a rule, or the defaults when a cluster was named.
pub(super) struct Terms {
    pub(super) cluster: Arc<Cluster>,
    subset: Option<usize>,
    hash: Option<u64>,
    route: Option<Duration>,
    attempt: Option<Duration>,
    header_max: Option<Duration>,
    pub(super) retry: Arc<RetryPolicy>,
    hedge: Option<Arc<Hedging>>,
}

impl Terms {
    /// What an attempt wants of the cluster.
    pub(super) fn wanted<'t>(&self, now: Instant, tried: &'t [Arc<Endpoint>]) -> Wanted<'t> {
        Wanted { now, tried, hash: self.hash, subset: self.subset }
    }
}

/// What all attempts of a call share.
pub(super) struct Step<'a> {
    pub(super) terms: &'a Terms,
    pub(super) retry: &'a RetryState,
    dialer: &'a Arc<Dialer>,
    pub(super) is_idempotent: bool,
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
        let trail = Trail::begin(snapshot.explain, &options, &mut head.headers, (core.clock.now(), &mut rng));
        headers::prepare(&mut head.headers, &trace, context.as_deref(), &mut rng);
        if core.telemetry.exchanges_peers {
            head.headers.insert(PEER, core.telemetry.node_header.clone());
        }
        record.line.request_id = headers::request_id(&head.headers);
        let class = overload::classify(&mut head.headers, &options, context.as_deref());
        Self {
            core,
            snapshot,
            context,
            head,
            body,
            options,
            rng,
            record,
            place: Place::default(),
            deadline: None,
            class,
            admitted: None,
            cluster: None,
            ties: Ties::default(),
            trail,
        }
    }

    /// The story.
    async fn run(&mut self, cluster: Option<&str>) -> Result<(Received, Taken), Error> {
        let core = self.core;
        let terms = self.route(cluster)?;
        let start = core.clock.now();
        self.deadline = self.bound(&terms, start);
        let cluster = &terms.cluster;
        cluster.refuse_if_broken(start)?;
        self.admitted = Some(self.admit(cluster)?);
        let dialer = core.dialer()?;
        let is_idempotent = self.is_idempotent(&terms);
        let reach = terms.retry.reach(&self.head.headers, self.callers_attempt());
        let mut retry = RetryState::reaching(reach, (Arc::clone(&terms.retry), Arc::clone(&cluster.budget)), start);
        let hedging = self.hedging(&terms, (is_idempotent, reach));
        let mut hedge = hedging.and_then(|hedging| HedgeState::start(hedging, &cluster.budget, start));
        let (mut tried, mut kind) = (Vec::<Arc<Endpoint>>::new(), FIRST);
        loop {
            let now = core.clock.now();
            let taken = self.pick(cluster, terms.wanted(now, &tried)).await?;
            let step = Step { terms: &terms, retry: &retry, dialer, is_idempotent };
            let lead = Lead { taken, kind, now };
            let (mut taken, result) = match &mut hedge {
                Some(hedge) => self.race(&step, lead, (hedge, &mut tried)).await?,
                None => self.attempt(&step, lead, (&tried, hedging)).await,
            };

            let now = core.clock.now();
            let outcome = outcome(&result);
            let decision = retry.decide(&outcome, &self.facts(is_idempotent), now, &mut self.rng);
            taken.judge(&outcome, now, &mut self.rng);
            self.trail.decided(&decision);
            tracing::debug!(cluster = %cluster.name, endpoint = %taken.endpoint.name, attempt = self.place.attempts, ?decision, "attempt ended");
            match (decision, result) {
                (Decision::Retry { after }, discarded) => {
                    core.telemetry.retried(&cluster.name);
                    tried.push(Arc::clone(&taken.endpoint));
                    kind = RETRY;
                    // Neither connection nor place in the load count is held while waiting.
                    drop((discarded, taken));
                    core.clock.sleep_until(crate::time::after(now, after)).await;
                }
                (Decision::Stop(reason), result) => {
                    self.note_stop(&retry, reason);
                    return result.map(|answer| (answer, taken)).map_err(|error| self.timed_out(error, now));
                }
            }
        }
    }

    /// A place under the cluster's limit, if there is one for this class.
    fn admit(&self, cluster: &Cluster) -> Result<Permit, Error> {
        cluster.limit.admit_class(self.class).map_err(|full| {
            self.core.telemetry.shed("outbound", (label::CLUSTER, &cluster.name), self.class.as_str());
            overload::overloaded(full.max, self.class)
        })
    }

    /// Tells the limit how an attempt went that started and ended then.
    pub(super) fn measure(&self, outcome: &Outcome<'_>, times: (Instant, Instant)) {
        if let Some(permit) = &self.admitted {
            permit.measure(outcome, times);
        }
    }

    /// By when it must be answered: the earliest of what the application, our caller and the rule say.
    fn bound(&self, terms: &Terms, start: Instant) -> Option<Instant> {
        let context = self.context.as_deref().filter(|_| !self.options.detached);
        let inherited = context.and_then(|context| context.remaining(start));
        let told = headers::deadline_of(&self.head.headers);
        let limits = Limits {
            application: self.options.timeout,
            incoming: inherited.into_iter().chain(told).min(),
            incoming_max: terms.header_max,
            route: terms.route,
        };
        limits.deadline(start)
    }

    fn is_idempotent(&self, terms: &Terms) -> bool {
        let head = &self.head;
        self.options.idempotent.unwrap_or_else(|| terms.retry.is_idempotent(&head.method, &head.headers))
    }

    /// Which attempt of our caller this call is made for.
    pub(super) fn callers_attempt(&self) -> u32 {
        self.context.as_deref().map_or(1, |context| context.attempt)
    }

    /// Copies are for requests that may be sent twice, can be, that the retry policy reaches in full, and that
    /// belong to no endpoint.
    fn hedging<'t>(&self, terms: &'t Terms, (is_idempotent, reach): (bool, Reach)) -> Option<&'t Arc<Hedging>> {
        let may_repeat = (is_idempotent || terms.retry.non_idempotent) && reach == Reach::Everything;
        terms.hedge.as_ref().filter(|_| may_repeat && self.body.is_shareable() && !self.ties.is_bound())
    }

    /// One attempt, with no copy beside it.
    async fn attempt(
        &mut self,
        step: &Step<'_>,
        lead: Lead,
        (tried, hedging): (&[Arc<Endpoint>], Option<&Arc<Hedging>>),
    ) -> (Taken, Result<Received, Error>) {
        let Lead { taken, kind, now: sent_at } = lead;
        let place = self.trail.sent(kind, (&step.terms.cluster, &taken.endpoint), &step.terms.wanted(sent_at, tried));
        let until = self.prepare(step, &taken.endpoint, sent_at);
        let outgoing = self.outgoing(step.is_idempotent);
        let way = attempt::Way::to(step.dialer, &step.terms.cluster, &taken.endpoint, is_grpc(&self.head.headers));
        let result = match overload::send(&way, &outgoing, until).await {
            Ok(answer) if step.terms.retry.buffer_response > 0 => {
                let patience = until.map(|until| self.core.clock.sleep_until(until));
                Received::hold(answer, step.terms.retry.buffer_response, patience, &taken.endpoint.name).await
            }
            Ok(answer) => Ok(answer.into()),
            Err(error) => Err(error),
        };
        let now = self.core.clock.now();
        if let Some(hedging) = hedging.filter(|_| result.is_ok()) {
            hedging.observe(now.saturating_duration_since(sent_at), now);
        }
        self.measure(&outcome(&result), (sent_at, now));
        self.trail.ended(&Noted { place, endpoint: &taken.endpoint, sent_at }, &outcome(&result), now);
        (taken, result)
    }

    /// An attempt at this endpoint begins; says until when.
    pub(super) fn prepare(&mut self, step: &Step<'_>, endpoint: &Endpoint, now: Instant) -> Option<Instant> {
        self.place.attempts += 1;
        self.record.line.attempts = Some(self.place.attempts);
        self.came_from(endpoint);
        let before = self.callers_attempt();
        headers::tell_attempt(&mut self.head.headers, self.place.attempts, before);
        let limit = timeout::attempt_limit(step.terms.attempt, timeout::time_left(self.deadline, now));
        headers::tell_deadline(&mut self.head.headers, limit);
        limit.map(|limit| crate::time::after(now, limit))
    }

    pub(super) fn facts(&self, idempotent: bool) -> RequestFacts {
        RequestFacts {
            idempotent,
            body_replayable: self.body.is_replayable(),
            committed: false,
            deadline: self.deadline,
            wall: self.core.clock.wall(),
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
            self.going_to(cluster, None);
            self.trail.why = Why::Named;
            let defaults = &snapshot.defaults;
            return Ok(Terms {
                cluster: Arc::clone(cluster),
                subset: None,
                hash: self.ties.hash,
                route: defaults.timeout,
                attempt: defaults.attempt_timeout,
                header_max: defaults.timeout_header_max,
                retry: Arc::clone(&defaults.retry),
                hedge: None,
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
        let target = action.split.pick(&mut self.rng);
        let (cluster, subset) = (Arc::clone(&target.cluster), target.subset);
        self.going_to(&cluster, Some(&action.affinity));
        if let Some(rewrite) = &action.rewrite {
            rewrite.apply(&mut self.head.uri, &mut self.head.headers, prefix).map_err(|error| {
                Error::new(ErrorKind::BadRequest, format!("the rewritten target is not valid: {error}"))
            })?;
        }
        if self.trail.level > Level::Off {
            self.trail.why = split_draw(&action.split, target);
        }
        Ok(Terms {
            cluster,
            subset,
            hash: self.ties.hash,
            route: action.timeout,
            attempt: action.attempt_timeout,
            header_max: action.timeout_header_max,
            retry: Arc::clone(&action.retry),
            hedge: action.hedge.clone(),
        })
    }

    /// An endpoint; only a cluster whose names were never resolved yet is worth a wait.
    async fn pick(&mut self, cluster: &Arc<Cluster>, wanted: Wanted<'_>) -> Result<Taken, Error> {
        let now = wanted.now;
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Error::new(ErrorKind::Timeout, "no time is left"));
        }
        let chosen = self.choose(cluster, wanted);
        if chosen.is_ok() || !cluster.is_resolving() {
            return chosen;
        }
        let patience =
            self.core.clock.sleep_until(self.deadline.unwrap_or_else(|| crate::time::after(now, RESOLVE_PATIENCE)));
        tokio::select! {
            () = cluster.resolved() => {}
            () = patience => {}
        }
        self.choose(cluster, Wanted { now: self.core.clock.now(), ..wanted })
    }

    /// The endpoint of the request's session, else the balancer's.
    fn choose(&mut self, cluster: &Arc<Cluster>, wanted: Wanted<'_>) -> Result<Taken, Error> {
        match self.ties.endpoint(cluster, &wanted)? {
            Some(taken) => Ok(taken),
            None => cluster.pick(wanted, &mut self.rng),
        }
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

    /// The ties are those of the request as it came, before it is rewritten.
    fn going_to(&mut self, cluster: &Arc<Cluster>, rule: Option<&Affinity>) {
        self.ties = Ties::of(&self.head, (rule, cluster), self.context.as_deref(), &mut self.rng);
        if self.trail.level > Level::Off {
            self.trail.budget_before = Some(cluster.budget.balance(self.core.clock.now()));
        }
        if cluster.settings.balancing.kind == BalancerKind::WeightedRoundRobin {
            self.head.headers.insert(LOAD_FORMAT, HeaderValue::from_static("TEXT"));
        }
        self.cluster = Some(Arc::clone(cluster));
        self.place.cluster = Some(cluster.name.to_string());
        self.record.line.cluster = Some(Arc::clone(&cluster.name));
        self.record.facts.service = Arc::clone(&cluster.settings.service);
    }

    /// The endpoint that metrics and log name: that of the latest attempt, or of the answer.
    pub(super) fn came_from(&mut self, endpoint: &Endpoint) {
        self.place.endpoint = Some(endpoint.name.to_string());
        self.record.line.endpoint = Some(Arc::clone(&endpoint.name));
        self.record.facts.destination = Arc::clone(&endpoint.workload);
    }

    /// Envoy marks a response that came after the last permitted retry. Who waits for us must not try again
    /// what was tried enough.
    fn note_stop(&mut self, retry: &RetryState, reason: StopReason) {
        if retry.gave_up(reason) {
            self.give_up();
        }
        if matches!(reason, StopReason::AttemptsExhausted | StopReason::BudgetEmpty) && self.place.attempts > 0 {
            self.record.facts.flags = Cow::Borrowed("URX");
            self.core.telemetry.retry_refused(self.place.cluster.as_deref().unwrap_or_default(), reason.as_str());
        }
    }

    fn give_up(&self) {
        if let Some(context) = self.context.as_deref().filter(|_| !self.options.detached) {
            context.gave_up.set();
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

    fn respond(mut self, done: (Received, Taken)) -> Response<Body> {
        let (received, taken) = done;
        let explained = self.explain(&outcome_of(&received));
        let Received { response, held, .. } = received;
        let (mut head, body) = response.into_parts();
        if head.headers.remove(SHOULD_RETRY).is_some_and(|value| value.as_bytes() == b"false") {
            self.give_up();
        }
        let peer = held.connection.facts.peer.as_ref();
        let principal: Option<Arc<str>> = peer.map(|peer| peer.id.as_str().into());
        self.record.answered(head.status.as_u16(), &head.headers);
        self.record.facts.security =
            if peer.is_some() { crate::telemetry::Security::MutualTls } else { crate::telemetry::Security::None };
        self.record.line.peer.clone_from(&principal);
        self.record.line.peer_serial = peer.map(|peer| peer.serial.as_str().into());
        notice::hide(&mut head.headers);
        self.ties.tell(taken.endpoint.address.socket(), &mut head.headers);
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
            explained,
        });
        let timeout = self.deadline.map(|deadline| self.core.clock.sleep_until(deadline));
        let open = Open { record: Some(self.record), held, taken, admitted: self.admitted };
        Response::from_parts(head, ResponseBody::wrap(body, open, timeout))
    }

    fn fail(mut self, mut error: Error) -> Error {
        self.explain_failure(&error);
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

pub(super) fn outcome(result: &Result<Received, Error>) -> Outcome<'_> {
    match result {
        Ok(received) => outcome_of(received),
        Err(error) => Outcome::Failure { kind: error.kind(), sent: error.sent() },
    }
}

fn outcome_of(received: &Received) -> Outcome<'_> {
    Outcome::of_head(received.response.status().as_u16(), received.said())
}

/// Without a deadline, how long to wait for a name that was never resolved: as long as a default connect.
const RESOLVE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
