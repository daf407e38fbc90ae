//! One open connection and what may still be asked of it.
//!
//! Decides: whether a further request may start on it. Never: sends one.
//! Invariant: a request starts only on a connection whose certificates hold, that is not too old, not leaving and
//! not silent; and an HTTP/1.1 connection that nobody holds is closed, whatever its peer leaves unread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::connect::{ConnectionFacts, Moment, Opened};
use super::gate::Gate;
use super::pool::PoolLimits;
use super::pulse::Pulse;

/// One open connection.
pub struct Connection {
    /// What the handshake established.
    pub facts: ConnectionFacts,
    /// Counted from the first connection to the endpoint.
    pub(super) serial: u64,
    pub(super) is_http2: bool,
    pulse: Arc<Pulse>,
    gate: Arc<Gate>,
    task: tokio::task::AbortHandle,
    opened: Instant,
    /// No request starts after this: a certificate has expired, or the connection is old enough.
    retire_at: Option<Instant>,
    served: AtomicU32,
    in_flight: AtomicU32,
    /// Nanoseconds from `opened` to the moment the last request ended.
    idle_at: AtomicU64,
    is_left: AtomicBool,
    is_upgraded: AtomicBool,
}

/// A request's place on a connection, given back when dropped.
pub struct Occupied(Arc<Connection>);

impl Connection {
    pub(super) fn new(opened: &Opened, gate: &Arc<Gate>, born: (u64, Instant, Option<Instant>)) -> Arc<Self> {
        gate.opened();
        let (serial, now, old_at) = born;
        Arc::new(Self {
            facts: opened.facts.clone(),
            serial,
            is_http2: opened.is_http2(),
            pulse: Arc::clone(&opened.pulse),
            gate: Arc::clone(gate),
            task: opened.task.clone(),
            opened: now,
            retire_at: opened.facts.retire_at.into_iter().chain(old_at).min(),
            served: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            idle_at: AtomicU64::new(0),
            is_left: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
        })
    }

    /// Takes a place. The second value says whether a request was served here before.
    pub(crate) fn occupy(self: &Arc<Self>) -> (Occupied, bool) {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            self.pulse.became_busy();
        }
        let is_reused = self.served.fetch_add(1, Ordering::AcqRel) > 0;
        (Occupied(Arc::clone(self)), is_reused)
    }

    /// Requests started so far.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Acquire)
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether a further request may start, as far as age, certificates and the peer's word go.
    pub(super) fn is_usable(&self, moment: Moment, limits: &PoolLimits) -> bool {
        let is_renewed = self.facts.peer.is_some() && self.facts.generation != moment.generation;
        let is_retired = self.retire_at.is_some_and(|retire_at| moment.now >= retire_at);
        let is_worn = limits.max_requests != 0 && self.served() >= limits.max_requests;
        !(is_renewed || is_retired || is_worn || self.is_leaving() || self.is_silent(moment.now, limits))
    }

    /// Whether a PING went unanswered: one was due after `interval`, its answer `timeout` later.
    fn is_silent(&self, now: Instant, limits: &PoolLimits) -> bool {
        let is_asked = self.is_http2 && (limits.keepalive.while_idle || self.in_flight() > 0);
        is_asked && self.pulse.silence(now) > limits.keepalive.interval + limits.keepalive.timeout
    }

    /// Whether one of the two ends said that nothing new starts here.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_left.load(Ordering::Acquire) || self.pulse.is_leaving()
    }

    /// No further request starts here; what is in flight may finish.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
    }

    /// Requests it may carry at once.
    pub(super) fn capacity(&self, limits: &PoolLimits) -> u32 {
        if self.is_http2 { limits.max_streams.min(self.pulse.max_streams()) } else { 1 }
    }

    /// Since when it has been idle; `None` while it is not.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let since = self.opened + Duration::from_nanos(self.idle_at.load(Ordering::Acquire));
        (self.in_flight() == 0).then(|| now.saturating_duration_since(since))
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.pulse.received()
    }

    /// Whether the peer does not take what was written.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.pulse.is_write_blocked()
    }

    /// It carries another protocol now, whose two ends close it.
    pub(crate) fn upgraded(&self) {
        self.leave();
        self.is_upgraded.store(true, Ordering::Release);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An HTTP/2 connection says GOAWAY by itself once nobody can send on it.
        let is_stuck = self.is_http2 && self.pulse.is_write_blocked();
        if (!self.is_http2 || is_stuck) && !*self.is_upgraded.get_mut() {
            self.task.abort();
        }
        self.gate.closed();
    }
}

impl std::ops::Deref for Occupied {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            let idle_at = self.0.pulse.now().saturating_duration_since(self.0.opened).as_nanos() as u64;
            self.0.idle_at.store(idle_at, Ordering::Release);
        }
        self.0.gate.free();
    }
}
