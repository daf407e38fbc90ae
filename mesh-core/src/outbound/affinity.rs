//! What binds one request to an endpoint, from its head to the head of its response.
//!
//! Decides: nothing; the rule's and the cluster's policies do, and a draw where they say nothing. Never: holds a request to an endpoint after
//! its first attempt, a retry goes where the balancer says (Envoy).
//! Invariant: computed once, before the first attempt, and told once, in the response.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderValue, SET_COOKIE};
use http::request::Parts;

use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::taken::Taken;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind};
use crate::route::affinity::Affinity;
use crate::route::hash_policy::{HashPolicy, Hashed, Source};
use crate::route::matcher::RequestHead;
use crate::route::session::Session;
use crate::route::split::Split;
use crate::snapshot::Target;

/// A request's ties.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    /// What the request hashes to.
    pub(crate) hash: Option<u64>,
    cookies: Vec<HeaderValue>,
    /// The rule of the session, the request's path, and what its session names.
    session: Option<(Session, String, Option<SocketAddr>)>,
}

impl Ties {
    /// The ties of a request, by its rule and its cluster.
    pub(crate) fn of(
        head: &Parts,
        (rule, cluster): (Option<&Affinity>, &Cluster),
        context: Option<&CallContext>,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let hashed = hashed(head, Affinity::hash(rule, &cluster.settings.affinity), context, rng);
        Self::hashed(head, (rule, cluster), hashed)
    }

    /// A backend of the rule, and the ties of the request that goes there.
    pub(crate) fn to<'t>(
        head: &Parts,
        (split, is_sticky): (&'t Split<Target>, bool),
        rule: &Affinity,
        context: Option<&CallContext>,
        rng: &mut fastrand::Rng,
    ) -> (&'t Target, Self) {
        if !is_sticky {
            let target = split.pick(rng);
            return (target, Self::of(head, (Some(rule), &target.cluster), context, rng));
        }
        let hashed = hashed(head, &rule.hash, context, rng);
        let target = match hashed.hash {
            Some(hash) => split.pick_for(hash, |target| target.seed),
            None => split.pick(rng),
        };
        (target, Self::hashed(head, (Some(rule), &target.cluster), hashed))
    }

    fn hashed(head: &Parts, (rule, cluster): (Option<&Affinity>, &Cluster), hashed: Hashed) -> Self {
        let of_cluster = &cluster.settings.affinity;
        let Hashed { hash, cookies } = hashed;
        let session = Affinity::session(rule, of_cluster).map(|session| {
            let path = head.uri.path();
            (session.clone(), path.to_owned(), session.endpoint(path, &head.headers))
        });
        Self { hash, cookies, session }
    }

    /// Whether the request names an endpoint that it belongs to: no copy of it goes to another.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.session, Some((_, _, Some(_))))
    }

    /// The endpoint of the request's session, for its first attempt.
    pub(crate) fn endpoint(&self, cluster: &Arc<Cluster>, wanted: &Wanted<'_>) -> Result<Option<Taken>, Error> {
        let Some((session, _, Some(address))) = &self.session else { return Ok(None) };
        if !wanted.tried.is_empty() {
            return Ok(None);
        }
        match cluster.take(*address, wanted) {
            None if session.is_strict => {
                let message = "the endpoint of the request's session cannot be used";
                Err(Error::new(ErrorKind::NoEndpoint, message))
            }
            taken => Ok(taken),
        }
    }

    /// Tells the client where it now belongs.
    pub(crate) fn tell(&self, endpoint: Option<SocketAddr>, headers: &mut HeaderMap) {
        for cookie in &self.cookies {
            headers.append(SET_COOKIE, cookie.clone());
        }
        let (Some((session, path, named)), Some(endpoint)) = (&self.session, endpoint) else { return };
        if *named == Some(endpoint) {
            return;
        }
        if let Some((name, value)) = session.header(path, endpoint) {
            // The application may set cookies of its own; the header is ours.
            if name == SET_COOKIE {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
    }
}

fn hashed(head: &Parts, policies: &[HashPolicy], context: Option<&CallContext>, rng: &mut fastrand::Rng) -> Hashed {
    let source = Source {
        principal: context.and_then(|context| context.peer.as_deref()),
        address: context.and_then(|context| context.address),
    };
    HashPolicy::apply(policies, RequestHead::new(&head.method, &head.uri, &head.headers), source, rng)
}
