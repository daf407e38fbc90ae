//! The story of one outbound request, told in order.
//!
//! route -> deadline -> faults -> cluster -> admission -> copies -> attempts (pick, send, judge, again?) -> response.
//! Every decision is an engine's; this file only asks them in order. Invariant: one snapshot through
//! all attempts, and every attempt is judged exactly once at its endpoint.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use http_body::Body as _;

use crate::body::Body;
use crate::cluster::group::Cluster;
use crate::cluster::health::notice;
use crate::cluster::member::Endpoint;
use crate::cluster::taken::Taken;
use crate::context::CallContext;
use crate::core::Core;
use crate::endpoint::connect::Dialer;
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::load_report;
use crate::outbound::affinity::Ties;
use crate::outbound::attempt::{self, Outgoing};
use crate::outbound::body::{Open, ResponseBody};
use crate::outbound::mirror::Copies;
use crate::outbound::peek::Received;
use crate::outbound::race::Lead;
use crate::outbound::replay::Replay;
use crate::outbound::terms::{Routed, Terms};
use crate::outbound::trail::{FIRST, Noted, RETRY, Trail};
use crate::outbound::{CallOptions, CallReport, REPLAY_LIMIT, choice, fault, headers, overload};
use crate::policy::concurrency::Permit;
use crate::policy::criticality::Criticality;
use crate::policy::hedge::{HedgeState, Hedging};
use crate::policy::retry::{Decision, Outcome, Reach, RequestFacts, RetryState, StopReason};
use crate::policy::timeout::{self, Limits};
use crate::route::header_changes::HeaderChanges;
use crate::snapshot::Snapshot;
use crate::telemetry::names::header::{PEER, SHOULD_RETRY};
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
    let done = call.run(cluster).await;
    call.send_copies();
    match done {
        Ok(Done::Received(received, taken)) => Ok(call.respond((*received, taken))),
        Ok(Done::Answered(response)) => Ok(call.answer(response)),
        Err(error) => Err(call.fail(error)),
    }
}

/// One logical request, from its route to the head of its response.
pub(super) struct Call<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) context: Option<Arc<CallContext>>,
    pub(super) head: http::request::Parts,
    pub(super) body: Replay,
    options: CallOptions,
    pub(super) rng: fastrand::Rng,
    pub(super) record: Record,
    pub(super) place: Place,
    pub(super) deadline: Option<Instant>,
    class: Criticality,
    pub(super) admitted: Option<Permit>,
    pub(super) cluster: Option<Arc<Cluster>>,
    /// What binds it to an endpoint.
    pub(super) ties: Ties,
    /// Whether the endpoint's load report is for the balancer alone.
    pub(super) hides_load: bool,
    /// What its rule does to the headers of the response.
    pub(super) response_changes: Option<Arc<HeaderChanges>>,
    pub(super) trail: Trail,
    /// Copies for other clusters that wait for the end of its body.
    pub(super) copies: Option<Copies>,
}

/// How a call ended.
enum Done {
    /// An endpoint answered.
    Received(Box<Received>, Taken),
    /// A rule did.
    Answered(Response<Body>),
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
            hides_load: false,
            response_changes: None,
            trail,
            copies: None,
        }
    }

    /// The story.
    async fn run(&mut self, cluster: Option<&str>) -> Result<Done, Error> {
        let core = self.core;
        let terms = match self.route(cluster)? {
            Routed::Onward(terms) => terms,
            Routed::Answered(response) => return Ok(Done::Answered(response)),
        };
        terms.cluster.refuse_unless_http()?;
        self.deadline = self.bound(&terms, core.clock.now());
        let cluster = &terms.cluster;
        if let Some(response) = self.meet_fault(&terms).await? {
            return Ok(Done::Answered(response));
        }
        let start = core.clock.now();
        cluster.refuse_if_broken(start)?;
        self.admitted = Some(self.admit(cluster)?);
        let dialer = core.dialer()?;
        self.mirror(&terms.mirrors, terms.route);
        let is_idempotent = self.is_idempotent(&terms);
        let reach = terms.retry.reach(&self.head.headers, self.callers_attempt());
        let mut retry = RetryState::reaching(reach, (Arc::clone(&terms.retry), Arc::clone(&cluster.budget)), start);
        let hedging = self.hedging(&terms, (is_idempotent, reach));
        let mut hedge = hedging.and_then(|hedging| HedgeState::start(hedging, &cluster.budget, start));
        let (mut tried, mut kind) = (Vec::<Arc<Endpoint>>::new(), FIRST);
        loop {
            let wanted = terms.wanted(core.clock.now(), &tried);
            let taken = choice::endpoint(core, (cluster, &self.ties), wanted, (self.deadline, &mut self.rng)).await?;
            // The pick may have waited for names; the attempt's own time begins here.
            let now = core.clock.now();
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
                    let done = result.map(|answer| Done::Received(Box::new(answer), taken));
                    return done.map_err(|error| self.timed_out(error, now));
                }
            }
        }
    }

    /// What the rule lets befall the request on purpose.
    async fn meet_fault(&mut self, terms: &Terms) -> Result<Option<Response<Body>>, Error> {
        let Some(injected) = terms.fault.map(|fault| fault.draw(&mut self.rng)) else { return Ok(None) };
        // Envoy's flags; what happens to the request afterwards may name another.
        match (injected.delay, injected.abort) {
            (_, Some(_)) => self.record.facts.flags = Cow::Borrowed("FI"),
            (Some(_), None) => self.record.facts.flags = Cow::Borrowed("DI"),
            (None, None) => {}
        }
        let about = (&*terms.cluster.name, is_grpc(&self.head.headers));
        fault::inject(self.core, injected, about, self.deadline).await
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
        if self.hides_load {
            load_report::hide(&mut head.headers);
        }
        if let Some(changes) = &self.response_changes {
            changes.apply(&mut head.headers);
        }
        self.ties.tell(taken.endpoint.address.socket(), &mut head.headers);
        let claimed = head.headers.remove(PEER).as_ref().and_then(Peer::from_header);
        if claimed.is_some() || principal.is_some() {
            let known = claimed.or_else(|| Some(Peer::clone(&taken.endpoint.workload)));
            self.record.facts.destination = Arc::new(peer::trusted(known, principal.as_deref()));
        }
        let endpoint = Arc::clone(&taken.endpoint.name);
        head.extensions.insert(CallReport { endpoint, peer: principal, explained, ..self.report() });
        let timeout = self.deadline.map(|deadline| self.core.clock.sleep_until(deadline));
        let open =
            Open { record: Some(self.record), held, taken, admitted: self.admitted, hides_load: self.hides_load };
        Response::from_parts(head, ResponseBody::wrap(body, open, timeout))
    }

    /// The response that a rule gives itself.
    fn answer(mut self, mut response: Response<Body>) -> Response<Body> {
        if let Some(changes) = &self.response_changes {
            changes.apply(response.headers_mut());
        }
        let outcome =
            Outcome::Response { status: response.status().as_u16(), grpc_status: None, headers: response.headers() };
        let explained = self.explain(&outcome);
        self.record.answered(response.status().as_u16(), response.headers());
        self.record.add_response_bytes(response.body().size_hint().exact().unwrap_or_default() as usize);
        response.extensions_mut().insert(CallReport { explained, ..self.report() });
        self.record.end();
        response
    }

    fn report(&self) -> CallReport {
        CallReport {
            attempts: self.place.attempts,
            cluster: self.record.line.cluster.clone().unwrap_or_default(),
            endpoint: Arc::default(),
            route: self.record.line.route.clone().unwrap_or_default(),
            revision: self.snapshot.revision,
            peer: None,
            explained: None,
        }
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
