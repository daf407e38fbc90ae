//! The endpoint of one attempt.
//!
//! Decides: nothing; the request's session does, else the balancer. Never: waits, except where a cluster has no
//! endpoint only because its source has yet to speak, or a name to be resolved, for the first time.
//! Invariant: the choice after that wait is made as the one before it.

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
    let chosen = choose(cluster, ties, wanted, rng);
    if chosen.is_ok() || !cluster.is_resolving() {
        return chosen;
    }
    let patience = core.clock.sleep_until(deadline.unwrap_or_else(|| crate::time::after(now, RESOLVE_PATIENCE)));
    tokio::select! {
        () = cluster.resolved() => {}
        () = patience => {}
    }
    choose(cluster, ties, Wanted { now: core.clock.now(), ..wanted }, rng)
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
