//! A connection without HTTP: bytes to an endpoint whose identity was verified.
//!
//! Decides: whether one more connection may be open to the endpoint. Never: waits for room: a bare connection is not
//! given back to anybody, so nobody knows when there will be some.
//! Invariant: it counts against `max_connections` like those of the pool, as long as its place is held.

use std::sync::Arc;

use super::address::Address;
use super::connect::{Dialer, Io, Transport, sockets};
use super::eyeballs::Race;
use super::gate::Gate;
use super::pool::{Pool, PoolLimits};
use super::tls::{Secured, secure};
use crate::error::Error;
use crate::identity::tls::PeerIdentity;

/// Bytes to a peer, and who the peer is; `None` in plaintext.
pub type Raw = (Box<dyn Io>, Option<PeerIdentity>);

/// A connection's place among those to its endpoint, given back when dropped.
pub struct Place(Arc<Gate>);

impl Pool {
    /// A place for a connection that is not the pool's own; `None`: the endpoint has as many as it may.
    pub fn reserve(&self, limits: &PoolLimits) -> Option<Place> {
        let gate = self.room_for_one(limits)?;
        Some(Place(gate))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl Dialer {
    /// Opens a connection within the transport's timeout, and speaks nothing over it but TLS.
    pub async fn raw(&self, address: &Address, transport: &Transport) -> Result<Raw, Error> {
        let deadline = crate::time::after(self.clock.now(), transport.connect_timeout);
        let mut race = Race::new(sockets(address));
        let timeout = self.clock.sleep_until(deadline);
        tokio::select! {
            biased;
            opened = self.open_raw(address, transport, &mut race) => return opened,
            () = timeout => {}
        }
        Err(transport.timed_out(address, &race))
    }

    async fn open_raw(&self, address: &Address, transport: &Transport, race: &mut Race) -> Result<Raw, Error> {
        let stream = self.reach(address, race).await?;
        let Some(tls) = &transport.tls else { return Ok((stream, None)) };
        // ALPN names HTTP; what is spoken here has no name that both ends would know.
        let Secured { stream, peer, .. } = secure(address, &tls.offering(Vec::new()), stream).await?;
        Ok((Box::new(stream), peer))
    }
}
