//! A member of a cluster: an address and what we have learned of it.
//!
//! Decides: nothing. An [`Endpoint`] is what a document says of an address; [`Live`] is what we have
//! learned of it, which outlives the document.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::cluster::locality::Proximity;
use crate::cluster::outlier::OutlierState;
use crate::config::cluster::Endpoint as Written;
use crate::endpoint::load::Load;
use crate::endpoint::pool::Pool;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::telemetry::Peer;

/// An endpoint of one cluster.
pub struct Endpoint {
    /// How logs and metrics call it: the address as written.
    pub name: Arc<str>,
    /// Where it is.
    pub address: SocketAddr,
    /// What a hash knows it by, if not by its address.
    pub hash_key: Option<Arc<str>>,
    /// Its share among its peers.
    pub weight: u32,
    /// How near it is to us.
    pub proximity: Proximity,
    /// Whether it speaks mutual TLS.
    pub is_mutual: bool,
    /// The workload behind it, as far as the document says.
    pub workload: Arc<Peer>,
    /// All a document, or another source, says of it.
    pub written: Arc<Written>,
    /// What we have learned of it.
    pub live: Arc<Live>,
}

/// Live state of an address, carried over from document to document.
pub struct Live {
    /// Requests in flight, response times.
    pub load: Arc<Load>,
    /// Its error breaker.
    pub breaker: Arc<CircuitBreaker>,
    /// Its standing with outlier detection.
    pub outlier: Arc<OutlierState>,
    /// Its connections.
    pub pool: Pool,
}
