//! Open connections of one endpoint, kept for the next request.
//!
//! Decides: which open connection a request takes, and when one is too old. Never: sends a request,
//! or opens two HTTP/2 connections where one would do.
//! Invariant: a connection starts no further request once our certificate was renewed or either end's has
//! expired. So a rotation reaches the wire at once, and nothing in flight is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use crate::body::Body;
use crate::endpoint::connect::{Channel, ConnectionFacts, Dialer, Moment, Protocol, Transport};
use crate::error::Error;

/// The connections of one endpoint.
#[derive(Default)]
pub struct Pool {
    idle: std::sync::Mutex<Vec<Idle>>,
    shared: std::sync::Mutex<Option<(http2::SendRequest<Body>, Arc<Connection>)>>,
    /// Held while an HTTP/2 connection opens, so that a burst shares it.
    opening: tokio::sync::Mutex<()>,
    /// The endpoint is gone: nothing is kept any more.
    is_closed: AtomicBool,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Idle HTTP/1.1 connections kept per endpoint.
    pub max_idle: usize,
    /// An idle connection is closed after this long.
    pub idle_timeout: Duration,
}

/// One open connection.
pub struct Connection {
    /// What the handshake established.
    pub facts: ConnectionFacts,
    served: AtomicU32,
}

/// A connection taken for one request.
pub struct Lease {
    /// Sends the request.
    pub channel: Channel,
    /// The connection it goes over.
    pub connection: Arc<Connection>,
    /// Whether the connection had already served a request: only then can it be stale.
    pub is_reused: bool,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    connection: Arc<Connection>,
    since: Instant,
}

impl Pool {
    /// An open connection, or a new one.
    pub async fn acquire(
        &self,
        dialer: &Arc<Dialer>,
        address: SocketAddr,
        target: (&Transport, PoolLimits),
    ) -> Result<Lease, Error> {
        let (transport, _) = target;
        if let Some(lease) = self.reuse(dialer.moment(), target) {
            return Ok(lease);
        }
        let may_share =
            transport.protocol != Protocol::Http1 && (transport.tls.is_some() || transport.protocol == Protocol::Http2);
        let _opening = if may_share { Some(self.opening.lock().await) } else { None };
        if may_share && let Some(lease) = self.reuse(dialer.moment(), target) {
            return Ok(lease);
        }
        self.open(dialer, address, transport).await
    }

    /// A fresh connection whatever is pooled: the one transparent retry after a stale connection.
    pub async fn open(&self, dialer: &Arc<Dialer>, address: SocketAddr, transport: &Transport) -> Result<Lease, Error> {
        let (channel, facts) = dialer.dial(address, transport).await?;
        let connection = Arc::new(Connection { facts, served: AtomicU32::new(1) });
        if let Channel::Http2(sender) = &channel
            && !self.is_closed.load(Ordering::Relaxed)
        {
            *lock(&self.shared) = Some((sender.clone(), Arc::clone(&connection)));
        }
        Ok(Lease { channel, connection, is_reused: false })
    }

    fn reuse(&self, moment: Moment, target: (&Transport, PoolLimits)) -> Option<Lease> {
        let (transport, limits) = target;
        let mut shared = lock(&self.shared);
        if let Some((sender, connection)) = &*shared {
            if sender.is_closed() || connection.is_retired(moment) {
                *shared = None;
            } else {
                let is_reused = connection.served.fetch_add(1, Ordering::Relaxed) > 0;
                return Some(Lease {
                    channel: Channel::Http2(sender.clone()),
                    connection: Arc::clone(connection),
                    is_reused,
                });
            }
        }
        drop(shared);
        if transport.protocol == Protocol::Http2 {
            return None;
        }
        let mut idle = lock(&self.idle);
        while let Some(Idle { sender, connection, since }) = idle.pop() {
            let is_fresh = moment.now.saturating_duration_since(since) < limits.idle_timeout;
            if is_fresh && !connection.is_retired(moment) && sender.is_ready() {
                connection.served.fetch_add(1, Ordering::Relaxed);
                return Some(Lease { channel: Channel::Http1(sender), connection, is_reused: true });
            }
        }
        None
    }

    /// Takes back an HTTP/1.1 connection that can serve a further request.
    pub fn put_back(&self, sender: http1::SendRequest<Body>, connection: Arc<Connection>, at: (Moment, PoolLimits)) {
        let (moment, limits) = at;
        if sender.is_closed() || connection.is_retired(moment) {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < limits.max_idle && !self.is_closed.load(Ordering::Relaxed) {
            idle.push(Idle { sender, connection, since: moment.now });
        }
    }

    /// Forgets the shared connection if it is still this one: the peer asked to leave, or it is stale.
    pub fn forget(&self, connection: &Arc<Connection>) {
        let mut shared = lock(&self.shared);
        if shared.as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, connection)) {
            *shared = None;
        }
    }

    /// The endpoint left its cluster: idle connections close now, the others when their requests have ended.
    pub fn close(&self) {
        let mut idle = lock(&self.idle);
        self.is_closed.store(true, Ordering::Relaxed);
        idle.clear();
        drop(idle);
        *lock(&self.shared) = None;
    }

    /// Closes what is idle for too long, closed by the peer, or retired.
    pub fn sweep(&self, moment: Moment, limits: PoolLimits) {
        lock(&self.idle).retain(|idle| {
            !idle.sender.is_closed()
                && !idle.connection.is_retired(moment)
                && moment.now.saturating_duration_since(idle.since) < limits.idle_timeout
        });
        let mut shared = lock(&self.shared);
        if shared.as_ref().is_some_and(|(sender, connection)| sender.is_closed() || connection.is_retired(moment)) {
            *shared = None;
        }
    }

    /// Open connections that wait or can take a request.
    pub fn size(&self) -> usize {
        lock(&self.idle).len() + usize::from(lock(&self.shared).is_some())
    }
}

impl Connection {
    fn is_retired(&self, moment: Moment) -> bool {
        let is_renewed = self.facts.peer.is_some() && self.facts.generation != moment.generation;
        is_renewed || self.facts.retire_at.is_some_and(|retire_at| moment.now >= retire_at)
    }
}

/// A panic while the lock was held leaves nothing half-done here: go on.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
