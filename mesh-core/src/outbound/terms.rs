//! Where a call goes, and under which terms.
//!
//! Decides: nothing; the routes do, and a draw of the rule's split. Never: sends. Invariant: what binds the
//! request to an endpoint is read from it as it came, before it is rewritten.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{Response, Uri};

use crate::body::Body;
use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::member::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::outbound::affinity::Ties;
use crate::outbound::call::Call;
use crate::outbound::headers;
use crate::outbound::kept::split_draw;
use crate::outbound::on_behalf::OnBehalf;
use crate::outbound::trail::{Level, Why};
use crate::policy::fault::Fault;
use crate::policy::hedge::Hedging;
use crate::policy::retry::RetryPolicy;
use crate::route::matcher::RequestHead;
use crate::route::table::Miss;
use crate::snapshot::{Mirror, Snapshot, To};

/// Where a call goes and under which terms; of a rule, or the defaults when a cluster was named.
pub(super) struct Terms {
    pub(super) cluster: Arc<Cluster>,
    subset: Option<usize>,
    hash: Option<u64>,
    last_wait: Option<Duration>,
    /// Bounds the whole request.
    pub(super) route: Option<Duration>,
    /// Bounds each attempt.
    pub(super) attempt: Option<Duration>,
    /// Most that a caller's header may ask for.
    pub(super) header_max: Option<Duration>,
    pub(super) retry: Arc<RetryPolicy>,
    pub(super) hedge: Option<Arc<Hedging>>,
    pub(super) fault: Option<Fault>,
    /// Who gets copies.
    pub(super) mirrors: Arc<[Mirror]>,
}

/// The retry policy of a request to a cluster that was named, where the mesh-wide one is not meant.
#[derive(Clone)]
pub(crate) struct OwnRetry(pub(crate) Arc<RetryPolicy>);

/// A request to a cluster that was named, and that lasts: the mesh-wide timeouts are not for it.
#[derive(Clone)]
pub(crate) struct Lasting;

/// Of a request to a cluster that was named: see [`Wanted::last_wait`].
#[derive(Clone, Copy)]
pub(crate) struct LastWait(pub(crate) Duration);

/// What a rule does with a call.
pub(super) enum Routed {
    /// It goes to a cluster.
    Onward(Terms),
    /// The rule answers itself.
    Answered(Response<Body>),
}

impl Terms {
    /// What an attempt wants of the cluster.
    pub(super) fn wanted<'t>(&self, now: Instant, tried: &'t [Arc<Endpoint>]) -> Wanted<'t> {
        Wanted { now, tried, hash: self.hash, subset: self.subset, last_wait: self.last_wait }
    }
}

impl Call<'_> {
    /// Which rule, which of its clusters, and how the request changes on the way.
    pub(super) fn route(&mut self, cluster: Option<&str>) -> Result<Routed, Error> {
        let snapshot = Arc::clone(&self.snapshot);
        if let Some(name) = cluster {
            return self.named(&snapshot, name).map(Routed::Onward);
        }
        let authority = self.head.uri.authority().map_or("", |authority| authority.as_str());
        if authority.is_empty() {
            return Err(Error::new(
                ErrorKind::BadRequest,
                "the request names no host: use an absolute URI or a Host header",
            ));
        }
        let caller = self.head.extensions.get::<OnBehalf>().cloned();
        let own = self.record.line.principal.clone();
        let principal = caller.as_ref().map_or(own.as_deref(), |caller| caller.principal.as_deref());
        let head = RequestHead::new(&self.head.method, &self.head.uri, &self.head.headers).asked_by(principal);
        let matched = snapshot.routes.lookup(authority, head).map_err(|miss| {
            let what = if miss == Miss::NoHost { "no route has the host" } else { "no rule matches" };
            Error::new(ErrorKind::NoRoute, format!("{what}: {} {authority}{}", self.head.method, self.head.uri.path()))
        })?;
        let (action, taken) = (&matched.rule.action, matched.taken());
        self.place.route = Some(action.name.to_string());
        self.record.line.route = Some(Arc::clone(&action.name));
        self.response_changes.clone_from(&action.response_headers);
        let split = match &action.to {
            To::Backends { split, is_sticky } => (split, *is_sticky),
            To::Answer(answer) => {
                let uri = as_asked(&self.head.uri, caller.as_ref());
                let answered = answer.respond(&uri, taken.prefix).map(Routed::Answered);
                return answered.map_err(|error| Error::new(ErrorKind::BadRequest, format!("no answer fits: {error}")));
            }
        };
        let context = self.context.as_deref();
        let (target, ties) = Ties::to(&self.head, split, &action.affinity, context, &mut self.rng);
        let (cluster, subset) = (Arc::clone(&target.cluster), target.subset);
        self.going_to(&cluster, ties);
        if let Some(rewrite) = &action.rewrite {
            rewrite.apply(&mut self.head.uri, &mut self.head.headers, taken).map_err(|error| {
                Error::new(ErrorKind::BadRequest, format!("the rewritten target is not valid: {error}"))
            })?;
        }
        action.request_headers.apply(&mut self.head.headers);
        if self.trail.level > Level::Off {
            self.trail.why = split_draw(split.0, target);
        }
        Ok(Routed::Onward(Terms {
            cluster,
            subset,
            hash: self.ties.hash,
            last_wait: None,
            route: action.timeout,
            attempt: action.attempt_timeout,
            header_max: action.timeout_header_max,
            retry: Arc::clone(&action.retry),
            hedge: action.hedge.clone(),
            fault: action.fault,
            mirrors: Arc::clone(&action.mirrors),
        }))
    }

    /// The cluster was named: no route is looked up.
    fn named(&mut self, snapshot: &Snapshot, name: &str) -> Result<Terms, Error> {
        let cluster = snapshot
            .clusters
            .get(name)
            .ok_or_else(|| Error::new(ErrorKind::NoCluster, format!("no cluster is called {name:?}")))?;
        let ties = Ties::of(&self.head, (None, cluster), self.context.as_deref(), &mut self.rng);
        self.going_to(cluster, ties);
        self.trail.why = Why::Named;
        let defaults = &snapshot.defaults;
        let own = self.head.extensions.get::<OwnRetry>().map(|own| &own.0);
        let lasts = self.head.extensions.get::<Lasting>().is_some();
        Ok(Terms {
            cluster: Arc::clone(cluster),
            subset: None,
            hash: self.ties.hash,
            last_wait: self.head.extensions.get::<LastWait>().map(|wait| wait.0),
            route: defaults.timeout.filter(|_| !lasts),
            attempt: defaults.attempt_timeout.filter(|_| !lasts),
            header_max: defaults.timeout_header_max,
            retry: Arc::clone(own.unwrap_or(&defaults.retry)),
            hedge: None,
            fault: None,
            mirrors: Arc::default(),
        })
    }

    /// The ties are those of the request as it came, before it is rewritten.
    fn going_to(&mut self, cluster: &Arc<Cluster>, ties: Ties) {
        self.ties = ties;
        if self.trail.level > Level::Off {
            self.trail.budget_before = Some(cluster.budget.balance(self.core.clock.now()));
        }
        self.hides_load = headers::ask_for_load(&mut self.head.headers, cluster);
        self.cluster = Some(Arc::clone(cluster));
        self.place.cluster = Some(cluster.name.to_string());
        self.record.line.cluster = Some(Arc::clone(&cluster.name));
        self.record.facts.service = Arc::clone(&cluster.settings.service);
    }
}

/// The target as the caller wrote it: a forwarding listener knows whether that was over TLS, the target does not.
fn as_asked<'u>(uri: &'u Uri, caller: Option<&OnBehalf>) -> Cow<'u, Uri> {
    let Some(caller) = caller else { return Cow::Borrowed(uri) };
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(if caller.is_secure { Scheme::HTTPS } else { Scheme::HTTP });
    Uri::from_parts(parts).map_or(Cow::Borrowed(uri), Cow::Owned)
}
