//! How the endpoints of a cluster stand at the moment of a pick, for whoever asks why one was chosen.
//!
//! Decides: nothing; it looks where the picker is about to look. Never: used on the way of a call that
//! nobody explains.

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::member::Endpoint;
use crate::cluster::picker::Candidate as _;
use crate::telemetry::explained::Candidate;

impl Cluster {
    /// The first few endpoints of the subset that is wanted, with what they cost, and why some cannot be chosen.
    pub fn candidates(&self, wanted: &Wanted<'_>) -> Vec<Candidate> {
        let pickers = self.pickers.load();
        let members = pickers.endpoints().iter().filter(|endpoint| pickers.is_within(wanted.subset, endpoint));
        members.take(SHOWN).map(|endpoint| candidate(endpoint, wanted.tried, wanted.now)).collect()
    }
}

fn candidate(endpoint: &Endpoint, tried: &[Arc<Endpoint>], now: Instant) -> Candidate {
    let live = &endpoint.live;
    let is_tried = tried.iter().any(|other| Arc::ptr_eq(&other.live, live));
    let skipped = match () {
        () if endpoint.weight == 0 => Some("drained"),
        () if is_tried => Some("tried"),
        () if live.outlier.is_ejected() => Some("ejected"),
        () if live.breaker.is_open(now) => Some("breaker_open"),
        () if !endpoint.is_available(now) => Some("unavailable"),
        () => None,
    };
    Candidate {
        endpoint: Arc::clone(&endpoint.name),
        cost_ms: (live.load.cost(now) / 1e3).round() / 1e3,
        in_flight: live.load.in_flight(),
        weight: endpoint.weight,
        breaker: live.breaker.state(now).as_str(),
        skipped,
    }
}

/// Endpoints shown of a pick: a person reads no more.
const SHOWN: usize = 16;
