//! What a pool has and what it may do next.
//!
//! Decides: which open connection a request takes, whether one more is opened, who waits and who is turned away.
//! Never: waits or dials. Invariant: no more connections than `max_connections`, those being opened included, and no
//! dial where one that is under way will do. What a step gives, a connection or a place, is taken when it returns.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use super::connect::{Channel, Moment, Protocol, Transport};
use super::connection::{Connection, Occupied};
use super::gate::{Gate, Waiting};
use super::pool::{Dialed, Lease, PoolLimits};
use crate::body::Body;

/// Open connections, and those on their way.
#[derive(Default)]
pub(super) struct Stock {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    dials: Vec<Dial>,
    /// The last that could have spoken either version chose HTTP/1.1.
    chose_http1: bool,
    /// Streams that the last HTTP/2 connection allowed.
    expected_streams: Option<u32>,
    serial: u64,
    /// The endpoint is gone: nothing is kept any more.
    is_closed: bool,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    connection: Arc<Connection>,
    since: Instant,
    claimed: Option<Weak<Claim>>,
}

struct Shared {
    sender: http2::SendRequest<Body>,
    connection: Arc<Connection>,
}

struct Dial {
    id: u64,
    /// `None` where a connection serves one request.
    joinable: Option<Joinable>,
}

struct Joinable {
    protocol: Protocol,
    end: Dialed,
    joined: u32,
}

/// What a request wants of a pool.
pub(super) struct Want<'a> {
    pub(super) moment: Moment,
    pub(super) limits: &'a PoolLimits,
    pub(super) transport: &'a Transport,
    /// A pooled connection was stale: not that one again, and none that may be stale for the same reason.
    pub(super) after: Option<u64>,
    pub(super) standing: Standing<'a>,
}

/// How far a request has come.
#[derive(Default, Clone, Copy)]
pub(super) struct Standing<'a> {
    pub(super) is_queued: bool,
    /// It waits for a dial already.
    pub(super) is_dialing: bool,
    /// Its dials end well, and there is no connection.
    pub(super) is_in_vain: bool,
    /// On a connection that it dialled for itself.
    pub(super) claim: Option<&'a Arc<Claim>>,
}

/// On a new connection that serves one request at a time: whoever began its dial is first, while he is there.
#[derive(Debug, Default)]
pub(super) struct Claim;

/// What a request does next.
pub(super) enum Step<'a> {
    /// Go.
    Take(Lease),
    /// Open a connection, whose place is taken under this number; others may join if it can carry them.
    Dial { id: u64, is_shared: bool },
    /// Wait for a dial under way.
    Join(Dialed),
    /// Wait in the queue, at this place.
    Queue(Waiting<'a>),
    /// Go on waiting.
    Wait,
    /// Dialling does not help.
    InVain,
    /// The queue is full.
    Full,
}

impl Standing<'_> {
    /// It stands in the queue, or what it dialled for itself is open.
    fn is_called(&self) -> bool {
        self.is_queued || self.claim.is_some()
    }
}

impl Want<'_> {
    /// Nobody overtakes the queue.
    fn must_queue(&self, gate: &Gate) -> bool {
        gate.waiting() > 0 && !self.standing.is_called() && !self.standing.is_dialing
    }

    fn may_share(&self, stock: &Stock) -> bool {
        match self.transport.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => self.transport.tls.is_some() && !stock.chose_http1,
        }
    }

    fn may_have(&self, idle: &Idle) -> bool {
        let claim = idle.claimed.as_ref().and_then(Weak::upgrade);
        let is_free = claim.is_none_or(|claim| self.standing.claim.is_some_and(|ours| Arc::ptr_eq(ours, &claim)));
        is_free && self.takes(&idle.connection)
    }

    fn takes(&self, connection: &Connection) -> bool {
        let speaks = match self.transport.protocol {
            Protocol::Http1 => !connection.is_http2,
            Protocol::Http2 => connection.is_http2,
            Protocol::Auto => true,
        };
        let is_new_enough = match self.after {
            None => true,
            Some(failed) if connection.is_http2 => connection.serial > failed,
            Some(_) => connection.served() == 0,
        };
        speaks && is_new_enough
    }
}

impl Stock {
    /// A connection that can be had at once.
    pub(super) fn at_once(&mut self, want: &Want<'_>, gate: &Gate) -> Option<Lease> {
        if want.must_queue(gate) { None } else { self.take(want) }
    }

    pub(super) fn step<'a>(&mut self, want: &Want<'_>, gate: &'a Gate) -> Step<'a> {
        if let Some(lease) = self.at_once(want, gate) {
            return Step::Take(lease);
        }
        if want.standing.is_in_vain {
            return Step::InVain;
        }
        if want.standing.is_dialing {
            return Step::Wait;
        }
        let is_shared = want.may_share(self);
        let per_dial = self.expected_streams.unwrap_or(u32::MAX).min(want.limits.max_streams).max(1);
        if is_shared && let Some(end) = self.join(want.transport.protocol, per_dial) {
            return Step::Join(end);
        }
        if !want.must_queue(gate) && self.has_room(gate, want.limits) {
            return Step::Dial { id: self.dialing(), is_shared };
        }
        if want.standing.is_queued {
            return Step::Wait;
        }
        let is_full = !want.standing.is_called() && gate.waiting() >= want.limits.max_pending;
        if is_full { Step::Full } else { Step::Queue(gate.wait()) }
    }

    /// Whether one more connection may be opened.
    pub(super) fn has_room(&self, gate: &Gate, limits: &PoolLimits) -> bool {
        gate.alive() + self.dials.len() < limits.max_connections
    }

    fn take(&mut self, want: &Want<'_>) -> Option<Lease> {
        let is_usable = |connection: &Connection| connection.is_usable(want.moment, want.limits);
        // What is dropped here makes room for another, once nobody uses it any more.
        self.shared.retain(|shared| !shared.sender.is_closed() && is_usable(&shared.connection));
        let has_room = |connection: &Connection| connection.in_flight() < connection.capacity(want.limits);
        let fits = |shared: &&Shared| want.takes(&shared.connection) && has_room(&shared.connection);
        if let Some(shared) = self.shared.iter().find(fits) {
            let (occupied, is_reused) = shared.connection.occupy();
            return Some(Lease { channel: Channel::Http2(shared.sender.clone()), occupied, is_reused });
        }
        if want.transport.protocol == Protocol::Http2 {
            return None;
        }
        self.idle.retain(|idle| {
            !idle.sender.is_closed() && is_usable(&idle.connection) && idle.is_fresh(want.moment.now, want.limits)
        });
        // A ready one, else one whose last response has just ended: it is ready in a moment.
        let ready = self.idle.iter().rposition(|idle| idle.sender.is_ready() && want.may_have(idle));
        let found = ready.or_else(|| self.idle.iter().rposition(|idle| want.may_have(idle)))?;
        let Idle { sender, connection, .. } = self.idle.remove(found);
        let (occupied, is_reused) = connection.occupy();
        Some(Lease { channel: Channel::Http1(sender), occupied, is_reused })
    }

    fn join(&mut self, protocol: Protocol, per_dial: u32) -> Option<Dialed> {
        let mut open = self.dials.iter_mut().filter_map(|dial| dial.joinable.as_mut());
        let dial = open.find(|dial| dial.protocol == protocol && dial.joined < per_dial)?;
        dial.joined += 1;
        Some(dial.end.clone())
    }

    /// A place for one more connection, under the next number.
    fn dialing(&mut self) -> u64 {
        self.serial += 1;
        self.dials.push(Dial { id: self.serial, joinable: None });
        self.serial
    }

    /// The connection of this dial can carry several requests: others may wait for its end.
    pub(super) fn joinable(&mut self, id: u64, protocol: Protocol, end: Dialed) {
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.id == id) {
            dial.joinable = Some(Joinable { protocol, end, joined: 1 });
        }
    }

    /// A dial has ended, however.
    pub(super) fn dialed(&mut self, id: u64) {
        self.dials.retain(|dial| dial.id != id);
    }

    /// A new connection, for whoever is first.
    pub(super) fn add(&mut self, channel: Channel, connection: Arc<Connection>, by: (Instant, &PoolLimits, Protocol)) {
        let (now, limits, protocol) = by;
        if protocol == Protocol::Auto {
            self.chose_http1 = !connection.is_http2;
        }
        match channel {
            Channel::Http1(sender) => self.idle.push(Idle { sender, connection, since: now, claimed: None }),
            Channel::Http2(sender) => {
                self.expected_streams = Some(connection.capacity(limits));
                self.shared.push(Shared { sender, connection });
            }
        }
    }

    /// The connection added last is for the holder of this claim first.
    pub(super) fn claim_last(&mut self, claim: Weak<Claim>) {
        if let Some(idle) = self.idle.last_mut() {
            idle.claimed = Some(claim);
        }
    }

    /// An HTTP/1.1 connection whose response has ended.
    pub(super) fn put_back(
        &mut self,
        sender: http1::SendRequest<Body>,
        occupied: &Occupied,
        at: (Moment, &PoolLimits),
    ) {
        let (moment, limits) = at;
        let is_good = !sender.is_closed() && occupied.is_usable(moment, limits);
        if is_good && !self.is_closed && self.idle.len() < limits.max_idle {
            let connection = Arc::clone(occupied);
            self.idle.push(Idle { sender, connection, since: moment.now, claimed: None });
        }
    }

    /// Closes what is idle for too long, closed by the peer, retired, or more than is kept.
    pub(super) fn sweep(&mut self, moment: Moment, limits: &PoolLimits) {
        self.idle.retain(|idle| {
            let is_stuck = !idle.is_claimed() && !idle.sender.is_ready() && idle.age(moment.now) > STUCK;
            !is_stuck
                && !idle.sender.is_closed()
                && idle.connection.is_usable(moment, limits)
                && idle.is_fresh(moment.now, limits)
        });
        // A connection whose caller left while it was opened may be one too many.
        let mut surplus = self.idle.len().saturating_sub(limits.max_idle);
        self.idle.retain(|idle| {
            let goes = surplus > 0 && !idle.is_claimed() && idle.age(moment.now) > STUCK;
            surplus -= usize::from(goes);
            !goes
        });
        self.shared.retain(|shared| {
            let is_idle = shared.connection.idle_for(moment.now).is_some_and(|idle| idle >= limits.idle_timeout);
            !is_idle && !shared.sender.is_closed() && shared.connection.is_usable(moment, limits)
        });
    }

    /// The endpoint left its cluster: idle connections close now, the others when their requests have ended.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.idle.clear();
        self.shared.clear();
    }

    /// Open connections that wait or can take a request.
    pub(super) fn len(&self) -> usize {
        self.idle.len() + self.shared.len()
    }
}

impl Idle {
    /// Whoever began its dial is about to take it.
    fn is_claimed(&self) -> bool {
        self.claimed.as_ref().is_some_and(|claim| claim.strong_count() > 0)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn is_fresh(&self, now: Instant, limits: &PoolLimits) -> bool {
        self.age(now) < limits.idle_timeout
    }
}

/// A connection that is not ready so long after its response ended has a peer that does not read (ours).
const STUCK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::connect::KeepAlive;

    #[test]
    fn who_looks_while_another_is_about_to_dial_or_to_queue_finds_its_place_taken() {
        let keepalive =
            KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(5), while_idle: false };
        let limits = PoolLimits {
            max_idle: 1,
            idle_timeout: Duration::from_secs(60),
            max_connections: 1,
            max_pending: 1,
            max_requests: 0,
            max_age: Duration::ZERO,
            max_streams: 1,
            keepalive,
        };
        let connect_timeout = Duration::from_secs(1);
        let transport = Transport { protocol: Protocol::Http2, tls: None, key: "plain".into(), connect_timeout };
        let moment = Moment { now: Instant::now(), generation: 0 };
        let want = Want { moment, limits: &limits, transport: &transport, after: None, standing: Standing::default() };
        let (mut stock, gate) = (Stock::default(), Gate::default());
        assert!(matches!(stock.step(&want, &gate), Step::Dial { id: 1, is_shared: true }));
        let second = stock.step(&want, &gate);
        assert!(matches!(second, Step::Queue(_)), "one connection is all there may be");
        assert!(matches!(stock.step(&want, &gate), Step::Full), "and one place in the queue");
        drop(second);
        stock.dialed(1);
        assert!(matches!(stock.step(&want, &gate), Step::Dial { id: 2, .. }), "a dial that ended gives its place back");
    }
}
