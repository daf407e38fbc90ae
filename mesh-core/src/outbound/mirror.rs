//! Copies of a request for other clusters, sent beside it.
//!
//! Decides: what a copy carries, and that only a body held in memory is copied. Never: makes the caller wait, fails its
//! request, spends its deadline, its retries or their budget; a copy is tried once.
//! Invariant: every copy that a draw demanded is counted once, by what became of it, unless the caller walked away
//! before its body was known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::BodyExt;

use crate::body::Body;
use crate::cluster::group::{Cluster, Wanted};
use crate::core::Core;
use crate::error::BoxError;
use crate::outbound::affinity::Ties;
use crate::outbound::call::Call;
use crate::outbound::{REPLAY_LIMIT, attempt_once, choice, headers, overload, upgrade};
use crate::policy::criticality::Criticality;
use crate::route::host::split_port;
use crate::snapshot::Mirror;
use crate::telemetry::names::header::{ATTEMPT_COUNT, CRITICALITY, PREVIOUS_ATTEMPTS};

/// Copies that were drawn and not sent yet.
pub(super) struct Copies {
    clusters: Vec<Arc<Cluster>>,
    head: http::request::Parts,
    limit: Duration,
}

impl Call<'_> {
    /// Draws the copies of this request, and sends them where its body is in memory. A streamed body is known only
    /// when it was sent: its copies wait for the end of the call.
    pub(super) fn mirror(&mut self, mirrors: &[Mirror], route: Option<Duration>) {
        let drawn = mirrors.iter().filter(|mirror| mirror.share.draw(&mut self.rng));
        let clusters: Vec<_> = drawn.map(|mirror| Arc::clone(&mirror.cluster)).collect();
        if clusters.is_empty() {
            return;
        }
        let Some(head) = copied(&self.head) else {
            return clusters.iter().for_each(|cluster| self.core.telemetry.mirrored(&cluster.name, "upgrade"));
        };
        self.copies = Some(Copies { clusters, head, limit: route.unwrap_or(LIMIT) });
        if self.body.is_shareable() {
            self.send_copies();
        }
    }

    /// Sends the copies that are left.
    pub(super) fn send_copies(&mut self) {
        let Some(Copies { clusters, head, limit }) = self.copies.take() else { return };
        let body = self.body.whole().filter(|body| body.len() <= REPLAY_LIMIT);
        for cluster in clusters {
            let Some(body) = &body else {
                self.core.telemetry.mirrored(&cluster.name, "body_not_held");
                continue;
            };
            send(self.core, cluster, (head.clone(), body.clone()), limit);
        }
    }
}

/// The head of a copy. `None`: the request asks for another protocol, which has two ends and no third.
fn copied(head: &http::request::Parts) -> Option<http::request::Parts> {
    if upgrade::wanted(&head.headers).is_some() {
        return None;
    }
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = shadow(&head.uri)?;
    copy.headers = head.headers.clone();
    for name in [ATTEMPT_COUNT, PREVIOUS_ATTEMPTS, headers::GRPC_TIMEOUT, headers::ENVOY_TIMEOUT, header::EXPECT] {
        copy.headers.remove(name);
    }
    if let Some(host) = copy.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        copy.headers.insert(header::HOST, host);
    }
    copy.headers.insert(CRITICALITY, HeaderValue::from_static(Criticality::Sheddable.as_str()));
    Some(copy)
}

/// `host:port` becomes `host-shadow:port`, so that logs tell copies from requests [Envoy].
fn shadow(uri: &Uri) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let authority = parts.authority.as_ref()?.as_str();
    let (host, port) = split_port(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
    if host.starts_with('[') {
        // An address in brackets takes no suffix.
        return Some(uri.clone());
    }
    let shadow = match port {
        Some(port) => format!("{host}-shadow:{port}"),
        None => format!("{host}-shadow"),
    };
    parts.authority = Authority::try_from(shadow).ok().or(parts.authority);
    Uri::from_parts(parts).ok()
}

fn send(core: &Arc<Core>, cluster: Arc<Cluster>, copy: (http::request::Parts, Bytes), limit: Duration) {
    let Some(place) = cluster.copies.take() else { return core.telemetry.mirrored(&cluster.name, "no_place") };
    let Ok(runtime) = core.runtime() else { return core.telemetry.mirrored(&cluster.name, "failed") };
    let core = Arc::clone(core);
    runtime.spawn(async move {
        let (mut head, body) = copy;
        let until = crate::time::after(core.clock.now(), limit);
        headers::tell_deadline(&mut head.headers, Some(limit));
        let result = deliver(&core, &cluster, Request::from_parts(head, Body::from(body)), until).await;
        if let Err(error) = &result {
            tracing::debug!(cluster = %cluster.name, %error, "a copy failed");
        }
        core.telemetry.mirrored(&cluster.name, if result.is_ok() { "answered" } else { "failed" });
        drop(place);
    });
}

/// One attempt under the cluster's own terms, as the lowest class; the answer is read and thrown away.
async fn deliver(
    core: &Arc<Core>,
    cluster: &Arc<Cluster>,
    request: Request<Body>,
    until: Instant,
) -> Result<(), BoxError> {
    let now = core.clock.now();
    cluster.refuse_if_broken(now)?;
    let class = Criticality::Sheddable;
    let _admitted = cluster.limit.admit_class(class).map_err(|full| overload::overloaded(full.max, class))?;
    let wanted = Wanted { now, tried: &[], hash: None, subset: None, last_wait: None };
    let mut rng = core.randomness.generator();
    let taken = choice::endpoint(core, (cluster, &Ties::default()), wanted, (Some(until), &mut rng)).await?;
    let response = attempt_once(core, (cluster, taken), request, (Some(until), Some(until))).await?;
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame?.data_ref().map_or(0, Bytes::len);
        if read > MAX_DISCARDED {
            break;
        }
    }
    Ok(())
}

/// How long a copy may take where its rule has no limit: the default of requests.
const LIMIT: Duration = Duration::from_secs(15);
/// Of a longer answer the rest is not read; its connection is closed (ours).
const MAX_DISCARDED: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_that_it_is_one() {
        for (uri, expected) in [
            ("http://a/x?y", "http://a-shadow/x?y"),
            ("http://a.test:8080/", "http://a.test-shadow:8080/"),
            ("http://user@a/", "http://a-shadow/"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ] {
            assert_eq!(shadow(&uri.parse().unwrap()).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_copy_has_no_deadline_and_counts_no_attempts_of_the_request() {
        let request = Request::get("http://a/")
            .header("grpc-timeout", "1S")
            .header("x-envoy-expected-rq-timeout-ms", "5")
            .header("x-envoy-attempt-count", "2")
            .header("x-mesh-criticality", "critical_plus")
            .header("x-user", "jason");
        let copy = copied(&request.body(()).unwrap().into_parts().0).unwrap();
        let mut names: Vec<_> = copy.headers.keys().map(header::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-mesh-criticality", "x-user"]);
        assert_eq!(copy.headers["x-mesh-criticality"], "sheddable");
        let upgrade = Request::get("http://a/").header("upgrade", "websocket").body(()).unwrap();
        assert!(copied(&upgrade.into_parts().0).is_none());
    }
}
