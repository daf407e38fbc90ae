//! The endpoint of one attempt.
//!
//! Decides: nothing; the request's session does, else the balancer. Never: waits, except where a cluster has no
//! endpoint only because its source has yet to speak, or a name to be resolved, for the first time.
//! Invariant: the choice after that wait is made as the one before it.

use std::future::Future;
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
    let time = |is_again: bool| if is_again { core.clock.now() } else { now };
    let choose = |is_again| choose(cluster, ties, Wanted { now: time(is_again), ..wanted }, rng);
    at_the_first_word(cluster, patience, choose).await
}

/// What `choose` says, or, where the source of the cluster had yet to speak, what it says once it has.
async fn at_the_first_word<C, P: Future<Output = ()>>(
    cluster: &Cluster,
    patience: impl FnOnce() -> P,
    mut choose: impl FnMut(bool) -> Result<C, Error>,
) -> Result<C, Error> {
    // Asked before the choice: a word that comes during it was not heard by it.
    let is_resolving = cluster.is_resolving();
    let chosen = choose(false);
    if chosen.is_ok() || !is_resolving {
        return chosen;
    }
    tokio::select! {
        () = cluster.resolved() => {}
        () = patience() => {}
    }
    choose(true)
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
    use super::*;
    use crate::config::Endpoint;

    #[tokio::test]
    async fn a_first_word_that_comes_while_the_choice_is_made_is_heard() {
        let document = "version: 1\nclusters: [{ name: a, dns: { name: a.example, port: 80 } }]";
        let mesh = crate::Mesh::from_yaml(document, "a.yaml").unwrap();
        let cluster = Arc::clone(&mesh.core().snapshot.load().clusters["a"]);
        let now = Instant::now();
        let chosen = at_the_first_word(&cluster, std::future::pending, |_| {
            let wanted = Wanted { now, tried: &[], hash: None, subset: None, last_wait: None };
            let chosen = cluster.pick(wanted, &mut fastrand::Rng::new());
            cluster.set_endpoints(vec![Arc::new(Endpoint::at("127.0.0.1:80".parse().unwrap()))], now);
            chosen
        });
        assert_eq!(chosen.await.unwrap().endpoint.address.to_string(), "127.0.0.1:80");
    }
}
