//! The endpoint of a session, found by its address.
//!
//! Decides: whether the endpoint that a client's session names takes the request. Never: changes what a
//! session names, or leads a request out of the subset that its rule names. Invariant: only an endpoint of
//! this cluster that may be used now; a weight of 0, which ends new traffic, does not end sessions (gRFC A60).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use super::group::{Cluster, Wanted};
use super::member::Endpoint;
use super::picker::Candidate;
use super::taken::Taken;

/// The endpoints of a picker by address; made when the first session asks.
#[derive(Default)]
pub(super) struct ByAddress(OnceLock<HashMap<SocketAddr, Arc<Endpoint>>>);

impl ByAddress {
    /// The endpoint at `address`, of those that `all` names.
    fn find(&self, address: SocketAddr, all: impl FnOnce() -> Vec<Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let by_address = |endpoint: Arc<Endpoint>| Some((endpoint.address.socket()?, endpoint));
        self.0.get_or_init(|| all().into_iter().filter_map(by_address).collect()).get(&address).cloned()
    }
}

impl Cluster {
    /// The endpoint at this address, if there is one in the subset that is wanted and it may be used.
    pub fn take(self: &Arc<Self>, address: SocketAddr, wanted: &Wanted<'_>) -> Option<Taken> {
        self.note_use();
        let now = wanted.now;
        let endpoint = self.by_address.load().find(address, || self.endpoints())?;
        if !self.is_within(wanted.subset, &endpoint) {
            return None;
        }
        // Who is leaving keeps its sessions until it is gone (gRFC A60).
        if !endpoint.is_available(now) && !endpoint.is_leaving(now) {
            return None;
        }
        let leave = self.leave(now).ok()?;
        let permit = endpoint.live.breaker.admit(now).ok()?;
        Some(Taken::new(self, endpoint, (permit, leave), now))
    }
}
