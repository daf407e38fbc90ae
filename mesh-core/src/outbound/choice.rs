//! The endpoint of one attempt.
//!
//! Decides: nothing; the request's session does, else the balancer. Never: waits, except where a cluster has no
//! endpoint only because its source has yet to speak, or a name to be resolved, for the first time.
//! Invariant: the choice after that wait is made as the one before it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::taken::Taken;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::outbound::affinity::Ties;

/// An endpoint, at the latest at the deadline.
pub(crate) async fn endpoint(
    core: &Core,
    (cluster, ties): (&Arc<Cluster>, &Ties),
    wanted: Wanted<'_>,
    (deadline, rng): (Option<Instant>, &mut fastrand::Rng),
) -> Result<Taken, Error> {
    let now = wanted.now;
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Err(Error::new(ErrorKind::Timeout, "no time is left"));
    }
    let patience = || core.clock.sleep_until(deadline.unwrap_or_else(|| crate::time::after(now, RESOLVE_PATIENCE)));
    at_the_first_word(cluster, patience, |cluster, is_again| {
        let now = if is_again { core.clock.now() } else { now };
        choose(cluster, ties, Wanted { now, ..wanted }, rng)
    })
    .await
}

/// What `choose` says, or, where somebody had yet to speak for the first time, what it says once that has happened.
async fn at_the_first_word<C, P: Future<Output = ()>>(
    cluster: &Arc<Cluster>,
    patience: impl FnOnce() -> P,
    mut choose: impl FnMut(&Arc<Cluster>, bool) -> Result<C, Error>,
) -> Result<C, Error> {
    // Asked before the choice: a word that comes during it was not heard by it.
    let is_resolving = cluster.is_resolving();
    let chosen = choose(cluster, false);
    if chosen.is_ok() || !(is_resolving || cluster.has_left()) {
        return chosen;
    }
    let mut patience = pin!(patience());
    let (mut cluster, mut is_late) = (Arc::clone(cluster), false);
    loop {
        let word = cluster.next_word();
        let is_resolving = cluster.is_resolving();
        let chosen = choose(&cluster, true);
        if chosen.is_ok() || is_late {
            return chosen;
        }
        if is_resolving {
            tokio::select! {
                biased;
                () = word => {}
                () = &mut patience => is_late = true,
            }
            continue;
        }
        // A reload took the place of the cluster that was waited for: its successor is the one that is told.
        let Some(successor) = cluster.successor() else { return chosen };
        drop(word);
        cluster = successor;
    }
}

/// The endpoint of the request's session, else the balancer's.
fn choose(cluster: &Arc<Cluster>, ties: &Ties, wanted: Wanted<'_>, rng: &mut fastrand::Rng) -> Result<Taken, Error> {
    match ties.endpoint(cluster, &wanted)? {
        Some(taken) => Ok(taken),
        None => cluster.pick(wanted, rng),
    }
}

/// Without a deadline, how long to wait for a name that was never resolved: as long as a default connect.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::task::{Poll, Waker};

    use super::*;
    use crate::config::Endpoint;

    const NAMES: &str = "endpoints: [{ address: \"a.example:80\" }, { address: \"b.example:80\" }]";

    fn mesh(cluster: &str) -> crate::Mesh {
        crate::Mesh::from_yaml(&document(cluster), "a.yaml").unwrap()
    }

    fn document(cluster: &str) -> String {
        format!("version: 1\nclusters: [{{ name: a, {cluster} }}]")
    }

    fn cluster(mesh: &crate::Mesh) -> Arc<Cluster> {
        Arc::clone(&mesh.core().snapshot.load().clusters["a"])
    }

    fn pick(cluster: &Arc<Cluster>) -> Result<Taken, Error> {
        let wanted = Wanted { now: Instant::now(), tried: &[], hash: None, subset: None, last_wait: None };
        cluster.pick(wanted, &mut fastrand::Rng::new())
    }

    fn say(cluster: &Cluster, address: &str) {
        cluster.set_endpoints(vec![Arc::new(Endpoint::at(address.parse().unwrap()))], Instant::now());
    }

    fn name(cluster: &Cluster, host: &str, found: Result<&str, &str>) {
        let found = found.map(|address| vec![address.parse().unwrap()]).map_err(Arc::from);
        cluster.set_addresses(vec![(host.into(), found)], Instant::now());
    }

    /// What is chosen while `happens` happens just after the first look.
    async fn chosen(cluster: &Arc<Cluster>, happens: impl Fn()) -> Result<String, Error> {
        let choose = |cluster: &Arc<Cluster>, is_again: bool| {
            let chosen = pick(cluster);
            if !is_again {
                happens();
            }
            chosen
        };
        let taken = at_the_first_word(cluster, std::future::pending, choose).await?;
        Ok(taken.endpoint.address.to_string())
    }

    #[tokio::test]
    async fn a_first_word_that_comes_while_the_choice_is_made_is_heard() {
        let mesh = mesh("dns: { name: a.example, port: 80 }");
        let cluster = cluster(&mesh);
        assert_eq!(chosen(&cluster, || say(&cluster, "127.0.0.1:80")).await.unwrap(), "127.0.0.1:80");
    }

    #[tokio::test]
    async fn one_name_of_two_is_enough_also_if_it_comes_while_the_choice_is_made() {
        let mesh = mesh(NAMES);
        let cluster = cluster(&mesh);
        let happens = || name(&cluster, "a.example:80", Ok("127.0.0.1:80"));
        assert_eq!(chosen(&cluster, happens).await.unwrap(), "127.0.0.1:80");
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_does_not_end_the_wait_for_another() {
        let mesh = mesh(NAMES);
        let cluster = cluster(&mesh);
        let mut waiting = pin!(chosen(&cluster, || {}));
        let mut look = || waiting.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        name(&cluster, "a.example:80", Err("no such name"));
        assert!(look().is_pending(), "the other may yet be found");
        name(&cluster, "b.example:80", Ok("127.0.0.2:80"));
        assert!(matches!(look(), Poll::Ready(Ok(address)) if address == "127.0.0.2:80"));
    }

    #[tokio::test]
    async fn who_waits_at_a_cluster_that_a_reload_replaces_goes_on_at_its_successor() {
        let mesh = mesh("dns: { name: a.example, port: 80 }");
        let old = cluster(&mesh);
        let reload = || {
            let document = document("balancer: random, dns: { name: a.example, port: 80 }");
            mesh.reload(&document, "a.yaml").unwrap();
        };
        let mut waiting = pin!(chosen(&old, reload));
        let mut look = || waiting.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        say(&cluster(&mesh), "127.0.0.1:80");
        assert!(matches!(look(), Poll::Ready(Ok(address)) if address == "127.0.0.1:80"));
    }

    #[tokio::test]
    async fn nobody_waits_at_a_cluster_that_a_reload_removes_or_that_is_reached_otherwise_now() {
        for document in ["version: 1".to_owned(), document("protocol: http2, dns: { name: a.example, port: 80 }")] {
            let mesh = mesh("dns: { name: a.example, port: 80 }");
            let old = cluster(&mesh);
            let error = chosen(&old, || drop(mesh.reload(&document, "a.yaml"))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoEndpoint, "{document}");
        }
    }
}
