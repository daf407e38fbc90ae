//! The story of one outbound connection, told in order.
//!
//! route or cluster -> deadline -> attempts (pick, place, connect, judge, again?) -> bytes.
//! Every decision is an engine's; this file only asks them in order. Never: writes a byte. Nothing is sent before the
//! connection is handed over, so that any attempt may be followed by another.
//! Invariant: one snapshot through all attempts, every attempt is judged exactly once at its endpoint, and a call
//! that fails is counted as a connection that was closed as soon as it was opened (Istio).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Uri};
use tokio::task::JoinHandle;

use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::member::Endpoint;
use crate::cluster::taken::Taken;
use crate::context::CallContext;
use crate::core::Core;
use crate::endpoint::raw::{Place as Room, Raw};
use crate::error::{Error, ErrorKind, Place, Sent};
use crate::outbound::affinity::Ties;
use crate::outbound::choice;
use crate::policy::retry::{Decision, Outcome, RequestFacts, RetryPolicy, RetryState, StopReason};
use crate::policy::timeout::{self, Limits};
use crate::route::affinity::Affinity;
use crate::route::hash_policy::{HashPolicy, Source};
use crate::route::matcher::RequestHead;
use crate::route::table::Miss;
use crate::snapshot::{Action, Snapshot, To};
use crate::stream::{Ends, MeshStream};
use crate::telemetry::peer::{self, Peer};
use crate::telemetry::{Reporter, Security, TcpRecord};

/// What a caller may say about one connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct DialOptions {
    /// Bounds the opening; the rule's timeout and an inherited deadline still apply.
    pub timeout: Option<Duration>,
    /// Opens it also when the request that is being served runs out of time: its deadline is not inherited.
    pub detached: bool,
}

/// Opens a connection to where the routes lead `to`, or to the cluster of that name.
pub(crate) async fn dial(core: &Arc<Core>, to: &str, options: DialOptions) -> Result<MeshStream, Error> {
    let snapshot = core.snapshot.load_full();
    let mut call = Dial::begin(core, snapshot, to, options);
    match call.run(to).await {
        Ok(opened) => Ok(call.hand_over(opened)),
        Err(error) => Err(call.fail(error)),
    }
}

/// One logical connection, from its name to its first byte.
struct Dial<'a> {
    core: &'a Arc<Core>,
    snapshot: Arc<Snapshot>,
    context: Option<Arc<CallContext>>,
    options: DialOptions,
    rng: fastrand::Rng,
    record: TcpRecord,
    place: Place,
    deadline: Option<Instant>,
}

/// Where it goes and under which terms; of a rule, or the defaults when a cluster was named.
struct Terms {
    cluster: Arc<Cluster>,
    subset: Option<usize>,
    hash: Option<u64>,
    timeout: Option<Duration>,
    attempt: Option<Duration>,
    header_max: Option<Duration>,
    retry: Arc<RetryPolicy>,
}

/// An endpoint, a place for one more connection to it, and the connection.
struct Opened {
    taken: Taken,
    room: Room,
    raw: Raw,
}

impl<'a> Dial<'a> {
    fn begin(core: &'a Arc<Core>, snapshot: Arc<Snapshot>, to: &str, options: DialOptions) -> Self {
        let context = CallContext::current();
        let mut rng = core.randomness.generator();
        let mut record = TcpRecord::begin(&core.telemetry, &core.clock, Reporter::Source);
        record.facts.source = Arc::clone(&core.telemetry.node);
        record.line.host = to.into();
        record.line.revision = Some(Arc::clone(&snapshot.revision_text));
        if let Some(context) = &context {
            let trace = context.trace.child(&mut rng);
            record.line.trace_id = Some(trace.trace_id);
            record.line.span_id = Some(trace.span_id);
            record.line.request_id.clone_from(&context.request_id);
        }
        Self { core, snapshot, context, options, rng, record, place: Place::default(), deadline: None }
    }

    /// The story.
    async fn run(&mut self, to: &str) -> Result<Opened, Error> {
        let core = self.core;
        let terms = self.terms(to)?;
        let start = core.clock.now();
        self.deadline = self.bound(&terms, start);
        terms.cluster.refuse_if_broken(start)?;
        let reach = terms.retry.reach(&HeaderMap::new(), self.context.as_ref().map_or(1, |context| context.attempt));
        let mut retry =
            RetryState::reaching(reach, (Arc::clone(&terms.retry), Arc::clone(&terms.cluster.budget)), start);
        let mut tried = Vec::<Arc<Endpoint>>::new();
        loop {
            let (mut taken, room) = self.pick(&terms, &tried).await?;
            let result = self.connect(&terms, &taken.endpoint).await;
            let (now, headers) = (core.clock.now(), HeaderMap::new());
            let outcome = outcome(&result, &headers);
            let decision = retry.decide(&outcome, &self.facts(), now, &mut self.rng);
            taken.judge(&outcome, now, &mut self.rng);
            tracing::debug!(cluster = %terms.cluster.name, endpoint = %taken.endpoint.name, attempt = self.place.attempts, ?decision, "connection attempt ended");
            match (decision, result) {
                (_, Ok(raw)) => return Ok(Opened { taken, room, raw }),
                (Decision::Retry { after }, Err(_)) => {
                    core.telemetry.retried(&terms.cluster.name);
                    tried.push(Arc::clone(&taken.endpoint));
                    drop((taken, room));
                    core.clock.sleep_until(crate::time::after(now, after)).await;
                }
                (Decision::Stop(reason), Err(error)) => {
                    self.note_stop(&terms.cluster, reason);
                    return Err(self.timed_out(error, now));
                }
            }
        }
    }

    /// By the routes, as a request without a path; else the cluster that is called so.
    fn terms(&mut self, to: &str) -> Result<Terms, Error> {
        let snapshot = Arc::clone(&self.snapshot);
        match snapshot.routes.lookup_connection(to) {
            Ok(rule) => self.by_rule(&rule.action),
            Err(Miss::NoHost) => self.by_name(&snapshot, to),
            Err(Miss::NoRule) => {
                let message = format!("no rule of {to:?} takes every request, and a connection meets no condition");
                Err(Error::new(ErrorKind::NoRoute, message))
            }
        }
    }

    fn by_rule(&mut self, action: &Action) -> Result<Terms, Error> {
        self.place.route = Some(action.name.to_string());
        self.record.line.route = Some(Arc::clone(&action.name));
        let To::Backends { split, is_sticky } = &action.to else {
            return Err(Error::new(ErrorKind::NoRoute, "the rule answers requests itself and leads to no endpoint"));
        };
        let of_rule = if *is_sticky { self.hash(&action.affinity.hash) } else { None };
        let target = match of_rule {
            Some(hash) => split.pick_for(hash, |target| target.seed),
            None => split.pick(&mut self.rng),
        };
        self.going_to(&target.cluster);
        Ok(Terms {
            cluster: Arc::clone(&target.cluster),
            subset: target.subset,
            hash: self.hash(Affinity::hash(Some(&action.affinity), &target.cluster.settings.affinity)),
            timeout: action.timeout,
            attempt: action.attempt_timeout,
            header_max: action.timeout_header_max,
            retry: Arc::clone(&action.retry),
        })
    }

    fn by_name(&mut self, snapshot: &Snapshot, to: &str) -> Result<Terms, Error> {
        let unknown = || format!("no route has the host, and no cluster the name, {to:?}");
        let cluster = snapshot.clusters.get(to).ok_or_else(|| Error::new(ErrorKind::NoRoute, unknown()))?;
        self.going_to(cluster);
        let defaults = &snapshot.defaults;
        Ok(Terms {
            cluster: Arc::clone(cluster),
            subset: None,
            hash: self.hash(&cluster.settings.affinity.hash),
            timeout: defaults.timeout,
            attempt: defaults.attempt_timeout,
            header_max: defaults.timeout_header_max,
            retry: Arc::clone(&defaults.retry),
        })
    }

    fn going_to(&mut self, cluster: &Cluster) {
        self.place.cluster = Some(cluster.name.to_string());
        self.record.line.cluster = Some(Arc::clone(&cluster.name));
        self.record.facts.service = Arc::clone(&cluster.settings.service);
    }

    /// A connection has a source to hash, and nothing else.
    fn hash(&mut self, policies: &[HashPolicy]) -> Option<u64> {
        let context = self.context.as_deref();
        let source = Source {
            principal: context.and_then(|context| context.peer.as_deref()),
            address: context.and_then(|context| context.address),
        };
        let (uri, headers) = (Uri::default(), HeaderMap::new());
        let head = RequestHead::new(&Method::CONNECT, &uri, &headers);
        HashPolicy::apply(policies, head, source, &mut self.rng).hash
    }

    /// By when it must be open: the earliest of what the application, our caller and the rule say.
    fn bound(&self, terms: &Terms, start: Instant) -> Option<Instant> {
        let context = self.context.as_deref().filter(|_| !self.options.detached);
        let limits = Limits {
            application: self.options.timeout,
            incoming: context.and_then(|context| context.remaining(start)),
            incoming_max: terms.header_max,
            route: terms.timeout,
        };
        limits.deadline(start)
    }

    /// An endpoint with room for one more connection. One that is full is passed over, at no cost: it is well.
    async fn pick(&mut self, terms: &Terms, tried: &[Arc<Endpoint>]) -> Result<(Taken, Room), Error> {
        let limits = &terms.cluster.settings.pool;
        let mut passed = tried.to_vec();
        loop {
            let wanted = Wanted {
                now: self.core.clock.now(),
                tried: &passed,
                hash: terms.hash,
                subset: terms.subset,
                last_wait: None,
            };
            let of = (&terms.cluster, &Ties::default());
            let taken = choice::endpoint(self.core, of, wanted, (self.deadline, &mut self.rng)).await?;
            if let Some(room) = taken.endpoint.live.pool.reserve(limits) {
                return Ok((taken, room));
            }
            let is_seen = |endpoint: &Arc<Endpoint>| Arc::ptr_eq(endpoint, &taken.endpoint);
            if passed[tried.len()..].iter().any(is_seen) {
                let message = format!("every endpoint has {} connections open, its limit", limits.max_connections);
                return Err(Error::new(ErrorKind::Overloaded, message));
            }
            passed.push(Arc::clone(&taken.endpoint));
        }
    }

    /// One attempt, on the mesh's own runtime, which carries the connection then. It ends with its caller.
    async fn connect(&mut self, terms: &Terms, endpoint: &Arc<Endpoint>) -> Result<Raw, Error> {
        self.place.attempts += 1;
        self.place.endpoint = Some(endpoint.name.to_string());
        self.record.line.attempts = Some(self.place.attempts);
        self.record.line.endpoint = Some(Arc::clone(&endpoint.name));
        let clock = &self.core.clock;
        let limit = timeout::attempt_limit(terms.attempt, timeout::time_left(self.deadline, clock.now()));
        let until = limit.map(|limit| crate::time::after(clock.now(), limit));
        let dialer = Arc::clone(self.core.dialer()?);
        let (address, transport) = (endpoint.address.clone(), terms.cluster.transport(endpoint, false).into_owned());
        let runtime = dialer.runtime.clone();
        let mut dialing = Dialing(runtime.spawn(async move { dialer.raw(&address, &transport).await }));
        let patience = async {
            match until {
                Some(until) => clock.sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut dialing.0 => ended.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Closed, "the mesh ended while it was dialling").with_source(error))
            }),
            () = patience => {
                Err(Error::new(ErrorKind::AttemptTimeout, format!("no connection to {} in time", endpoint.name)))
            }
        }
    }

    /// Nothing was sent: whatever was meant to be said may be said elsewhere.
    fn facts(&self) -> RequestFacts {
        RequestFacts {
            idempotent: true,
            body_replayable: true,
            committed: false,
            deadline: self.deadline,
            wall: self.core.clock.wall(),
        }
    }

    fn note_stop(&self, cluster: &Cluster, reason: StopReason) {
        if matches!(reason, StopReason::AttemptsExhausted | StopReason::BudgetEmpty) {
            self.core.telemetry.retry_refused(&cluster.name, reason.as_str());
        }
    }

    /// An attempt that was cut by the deadline of the whole is the timeout of the whole.
    fn timed_out(&self, error: Error, now: Instant) -> Error {
        let is_over = self.deadline.is_some_and(|deadline| deadline <= now);
        if error.kind() != ErrorKind::AttemptTimeout || !is_over {
            return error;
        }
        Error::new(ErrorKind::Timeout, "the time to open the connection was over").with_source(error)
    }

    fn hand_over(mut self, opened: Opened) -> MeshStream {
        let Opened { taken, room, raw: (io, peer) } = opened;
        let principal = peer.as_ref().map(|peer| peer.id.as_str());
        let workload = &taken.endpoint.workload;
        self.record.facts.security = if peer.is_some() { Security::MutualTls } else { Security::None };
        self.record.facts.destination = match principal {
            Some(_) => Arc::new(peer::trusted(Some(Peer::clone(workload)), principal)),
            None => Arc::clone(workload),
        };
        self.record.line.peer = principal.map(Into::into);
        self.record.line.peer_serial = peer.as_ref().map(|peer| peer.serial.as_str().into());
        self.record.opened();
        let remote = taken.endpoint.address.socket();
        let ends = Ends { peer: peer.map(Arc::new), local: None, remote };
        MeshStream::new(io, ends, self.record, (&self.core.drain, Box::new((taken, room))))
    }

    fn fail(mut self, mut error: Error) -> Error {
        let retry_after = error.place_mut().retry_after.take();
        *error.place_mut() = Place { retry_after, ..std::mem::take(&mut self.place) };
        self.record.refused(&error);
        error
    }
}

/// To the engines a connection that opened is a request that was answered.
fn outcome<'h>(result: &Result<Raw, Error>, headers: &'h HeaderMap) -> Outcome<'h> {
    match result {
        Ok(_) => Outcome::Response { status: 200, grpc_status: None, headers },
        Err(error) => Outcome::Failure { kind: error.kind(), sent: Sent::Never },
    }
}

/// An attempt under way; whoever goes away ends it.
struct Dialing(JoinHandle<Result<Raw, Error>>);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.abort();
    }
}
