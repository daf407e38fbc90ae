//! Connections of one endpoint, kept for the next request.
//!
//! Decides: nothing; the stock does. It dials, and lets requests wait under their own deadlines. Never: sends a
//! request. Invariant: a dial belongs to the pool: it goes on when the request that began it goes away, and the
//! others that wait for it get the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Shared;
use hyper::client::conn::http1;
use tokio::sync::oneshot;

use super::address::Address;
use super::connect::{Channel, Dialer, KeepAlive, Moment, Opened, Protocol, Transport, Wiring};
use super::connection::{Connection, Occupied};
use super::gate::{Gate, Waiting};
use super::stock::{Claim, Standing, Step, Stock, Want};
use crate::body::Body;
use crate::error::{Error, ErrorKind};

/// The end of a dial, for all who wait for it. The connection is in the stock by then.
pub(super) type Dialed = Shared<Pin<Box<dyn Future<Output = Ended> + Send>>>;

type Ended = Result<(), Arc<Error>>;

/// The connections of one endpoint.
#[derive(Default)]
pub struct Pool(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stock: std::sync::Mutex<Stock>,
    gate: Arc<Gate>,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Idle HTTP/1.1 connections kept per endpoint.
    pub max_idle: usize,
    /// An idle connection is closed after this long.
    pub idle_timeout: Duration,
    /// Connections open at once.
    pub max_connections: usize,
    /// Requests that may wait for one.
    pub max_pending: usize,
    /// Requests that one connection serves; 0 = no limit.
    pub max_requests: u32,
    /// A connection retires at this age, spread by 10 %; zero = never.
    pub max_age: Duration,
    /// Requests at once on an HTTP/2 connection, if its peer allows as many.
    pub max_streams: u32,
    /// How a dead HTTP/2 peer is found out.
    pub keepalive: KeepAlive,
}

/// A connection taken for one request.
pub struct Lease {
    /// Sends the request.
    pub channel: Channel,
    /// Its place on the connection it goes over.
    pub occupied: Occupied,
    /// Whether the connection had already served a request: only then can it be stale.
    pub is_reused: bool,
}

/// What a request needs a connection for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Opens connections.
    pub dialer: &'a Arc<Dialer>,
    /// Where to.
    pub address: &'a Address,
    /// How.
    pub transport: &'a Transport,
    /// How many.
    pub limits: &'a PoolLimits,
}

impl Pool {
    /// An open connection, or a new one, or a place in the queue.
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Lease, Error> {
        self.find(ask, None).await
    }

    /// The one transparent retry after `stale` failed: a connection that cannot be stale for the same reason.
    pub async fn acquire_fresh(&self, ask: Ask<'_>, stale: &Connection) -> Result<Lease, Error> {
        stale.leave();
        self.find(ask, Some(stale.serial)).await
    }

    async fn find(&self, ask: Ask<'_>, after: Option<u64>) -> Result<Lease, Error> {
        let gate = &self.0.gate;
        if let Some(lease) = self.0.stock().at_once(&want(ask, after, Standing::default()), gate) {
            return Ok(lease);
        }
        let mut search = Search::default();
        loop {
            let freed = gate.freed();
            tokio::pin!(freed);
            // Registered before the look, so that nothing freed meanwhile is missed.
            freed.as_mut().enable();
            if let Some(lease) = self.go_on(ask, after, &mut search)? {
                return Ok(lease);
            }
            tokio::select! {
                end = ended(&mut search.dial) => {
                    search.dial = None;
                    search.ended += 1;
                    end.map_err(|error| copy_of(&error))?;
                }
                () = freed => {}
                () = ask.dialer.clock.sleep_until(ask.dialer.clock.now() + LOOK_AGAIN) => {}
            }
        }
    }

    /// One look at the stock, and what follows from it: who looks next finds a dial that it can join.
    fn go_on<'a>(&'a self, ask: Ask<'_>, after: Option<u64>, search: &mut Search<'a>) -> Result<Option<Lease>, Error> {
        let gate = &self.0.gate;
        let mut stock = self.0.stock();
        match stock.step(&want(ask, after, search.standing()), gate) {
            Step::Take(lease) => {
                // There may be room for the next as well.
                if search.queued.take().is_some() {
                    gate.free();
                }
                return Ok(Some(lease));
            }
            Step::InVain => return Err(closed_at_once(ask)),
            Step::Join(end) => search.dial = Some(end),
            Step::Dial { id, is_shared } => {
                search.claim = (!is_shared).then(Arc::default);
                let (tell, told) = oneshot::channel();
                let end = told.map(|end| end.unwrap_or_else(|_| Err(Arc::new(lost()))));
                let end = (Box::pin(end) as Pin<Box<dyn Future<Output = _> + Send>>).shared();
                if is_shared {
                    stock.joinable(id, ask.transport.protocol, end.clone());
                }
                // A runtime that has ended drops what it is given at once, and what is dropped looks into the stock.
                drop(stock);
                self.dial(ask, id, search.claim.as_ref(), tell);
                search.dial = Some(end);
            }
            Step::Full => return Err(full(ask)),
            Step::Queue(place) => search.queued = Some(place),
            Step::Wait => {}
        }
        Ok(None)
    }

    /// Without a claim the connection is for all who join.
    fn dial(&self, ask: Ask<'_>, serial: u64, claim: Option<&Arc<Claim>>, tell: oneshot::Sender<Ended>) {
        let claimed = claim.map(Arc::downgrade);
        let dialing = Dialing { inner: Arc::clone(&self.0), serial, protocol: ask.transport.protocol, claimed };
        let (dialer, limits) = (Arc::clone(ask.dialer), *ask.limits);
        let (address, transport) = (ask.address.clone(), ask.transport.clone());
        ask.dialer.runtime.spawn(async move {
            let wiring = Wiring { keepalive: limits.keepalive, gate: Arc::clone(&dialing.inner.gate) };
            let ended = match dialer.dial(&address, &transport, wiring).await {
                Ok(opened) if opened.pulse.is_leaving() => {
                    let message = format!("{address} takes no request: it is leaving");
                    Err(Arc::new(Error::new(ErrorKind::Connect, message)))
                }
                Ok(opened) => {
                    dialing.done(opened, &dialer, &limits);
                    Ok(())
                }
                Err(error) => Err(Arc::new(error)),
            };
            // Whoever is told finds the place given back.
            drop(dialing);
            let _ = tell.send(ended);
        });
    }

    /// Takes back an HTTP/1.1 connection whose response has been read to its end.
    pub fn put_back(&self, sender: http1::SendRequest<Body>, occupied: Occupied, at: (Moment, &PoolLimits)) {
        self.0.stock().put_back(sender, &occupied, at);
    }

    /// The endpoint left its cluster: idle connections close now, the others when their requests have ended.
    pub fn close(&self) {
        self.0.stock().close();
    }

    /// Closes what is idle for too long, closed by the peer, or retired.
    pub fn sweep(&self, moment: Moment, limits: &PoolLimits) {
        self.0.stock().sweep(moment, limits);
    }

    /// Counts a connection in that is not the pool's own, if there is room beside those being opened.
    pub(super) fn room_for_one(&self, limits: &PoolLimits) -> Option<Arc<Gate>> {
        let stock = self.0.stock();
        if !stock.has_room(&self.0.gate, limits) {
            return None;
        }
        self.0.gate.opened();
        Some(Arc::clone(&self.0.gate))
    }

    /// Open connections that wait or can take a request.
    pub fn size(&self) -> usize {
        self.0.stock().len()
    }

    /// Open connections, those in use included.
    pub fn open(&self) -> usize {
        self.0.gate.alive()
    }

    /// Requests that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.0.gate.waiting()
    }
}

/// A request on its way to a connection.
#[derive(Default)]
struct Search<'a> {
    /// Its place in the queue.
    queued: Option<Waiting<'a>>,
    /// The dial it waits for.
    dial: Option<Dialed>,
    /// On the connection of that dial, if it began it for itself alone.
    claim: Option<Arc<Claim>>,
    /// Dials that ended well.
    ended: u32,
}

impl Search<'_> {
    fn standing(&self) -> Standing<'_> {
        Standing {
            is_queued: self.queued.is_some(),
            is_dialing: self.dial.is_some(),
            is_in_vain: self.is_in_vain(),
            claim: self.claim.as_ref(),
        }
    }

    /// Its dials end well, and there is no connection: the peer closes what it has just accepted.
    fn is_in_vain(&self) -> bool {
        let most = if self.claim.is_some() { 1 } else { MAX_DIALS };
        self.dial.is_none() && self.ended >= most
    }
}

fn want<'a>(ask: Ask<'a>, after: Option<u64>, standing: Standing<'a>) -> Want<'a> {
    Want { moment: ask.dialer.moment(), limits: ask.limits, transport: ask.transport, after, standing }
}

fn closed_at_once(ask: Ask<'_>) -> Error {
    Error::new(ErrorKind::Connect, format!("{} closes connections as soon as they are open", ask.address))
}

impl Inner {
    /// A panic while the lock was held leaves nothing half-done here: go on.
    fn stock(&self) -> std::sync::MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A dial under way; however it ends, its place is given back.
struct Dialing {
    inner: Arc<Inner>,
    serial: u64,
    protocol: Protocol,
    claimed: Option<Weak<Claim>>,
}

impl Dialing {
    fn done(&self, opened: Opened, dialer: &Dialer, limits: &PoolLimits) {
        let now = dialer.clock.now();
        let old_at = old_at(now, limits.max_age, &mut dialer.randomness.generator());
        // From one count into the other under one lock: in both it would take two places.
        let mut stock = self.inner.stock();
        stock.dialed(self.serial);
        let connection = Connection::new(&opened, &self.inner.gate, (self.serial, now, old_at));
        stock.add(opened.channel, connection, (now, limits, self.protocol));
        if let Some(claim) = &self.claimed {
            stock.claim_last(claim.clone());
        }
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.inner.stock().dialed(self.serial);
        self.inner.gate.free();
    }
}

/// When a connection opened at `now` is old: its age, less up to a tenth, so that connections opened together do
/// not all end together. Origin: gRPC's MAX_CONNECTION_AGE, which spreads by 10 %.
fn old_at(now: Instant, max_age: Duration, rng: &mut fastrand::Rng) -> Option<Instant> {
    (!max_age.is_zero()).then(|| crate::time::after(now, max_age.mul_f64(1.0 - 0.1 * rng.f64())))
}

async fn ended(dial: &mut Option<Dialed>) -> Result<(), Arc<Error>> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

fn copy_of(error: &Arc<Error>) -> Error {
    Error::new(error.kind(), error.message()).with_source(Arc::clone(error))
}

fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the dial was given up: the mesh has ended, or the task failed")
}

fn full(ask: Ask<'_>) -> Error {
    let PoolLimits { max_connections, max_pending, .. } = ask.limits;
    let message = format!(
        "{} has {max_connections} connections, its limit, and {max_pending} requests wait for one already",
        ask.address
    );
    Error::new(ErrorKind::Overloaded, message)
}

/// Dials that one request joins: others may take all places of a connection, but not for ever (ours).
const MAX_DIALS: u32 = 8;

/// Some changes wake nobody: a reload that raises a limit, a peer that falls silent.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;

    use super::*;
    use crate::endpoint::connect::{Connector, Io};
    use crate::time::{Randomness, SystemClock};

    #[derive(Default)]
    struct Network(std::sync::Mutex<Vec<tokio::io::DuplexStream>>);

    impl Connector for Network {
        /// Port 1 refuses, port 2 never answers, port 3 takes the connection, port 4 closes it at once.
        fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
            let (near, far) = tokio::io::duplex(64);
            if address.port() != 4 {
                self.0.lock().unwrap().push(far);
            }
            let near = Some(near);
            Box::pin(async move {
                match address.port() {
                    1 => Err(io::Error::other(format!("no route to {}", address.ip()))),
                    2 => std::future::pending().await,
                    _ => near.map(|near| Box::new(near) as Box<dyn Io>).ok_or_else(|| io::Error::other("closed")),
                }
            })
        }
    }

    async fn acquire(addresses: &[&str], connect_timeout: Duration) -> (Result<Lease, Error>, Duration) {
        acquire_on(tokio::runtime::Handle::current(), addresses, connect_timeout).await
    }

    async fn acquire_on(
        runtime: tokio::runtime::Handle,
        addresses: &[&str],
        connect_timeout: Duration,
    ) -> (Result<Lease, Error>, Duration) {
        let dialer = Arc::new(Dialer {
            connector: Arc::<Network>::default(),
            clock: Arc::new(SystemClock),
            runtime,
            identity: None,
            randomness: Randomness::seeded(1),
        });
        let transport = Transport { protocol: Protocol::Http1, tls: None, key: "plain".into(), connect_timeout };
        let limits = PoolLimits {
            max_idle: 1,
            idle_timeout: Duration::from_secs(60),
            max_connections: 1,
            max_pending: 0,
            max_requests: 0,
            max_age: Duration::ZERO,
            max_streams: 1,
            keepalive: KeepAlive {
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(5),
                while_idle: false,
            },
        };
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let address = Address::any_of(&addresses).unwrap();
        let began = Instant::now();
        let ask = Ask { dialer: &dialer, address: &address, transport: &transport, limits: &limits };
        let lease = Pool::default().acquire(ask).await;
        (lease, began.elapsed())
    }

    #[tokio::test]
    async fn o63_an_error_names_every_address_with_its_cause() {
        let (refused, _) = acquire(&["[::1]:1", "127.0.0.1:1"], LONG).await;
        let error = refused.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
        for part in ["[::1]:1: no route to ::1", "127.0.0.1:1: no route to 127.0.0.1"] {
            assert!(error.message().contains(part), "{error}");
        }
        let (silent, _) = acquire(&["[::1]:1", "127.0.0.1:2"], Duration::from_millis(50)).await;
        let error = silent.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectTimeout);
        assert!(error.message().contains("[::1]:1: no route to ::1"), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        let (lease, after) = acquire(&["[::1]:2", "127.0.0.1:3"], LONG).await;
        assert!(lease.is_ok());
        assert!(after >= Duration::from_millis(249), "{after:?}");
        assert!(after < LONG / 4, "not as long as a connect may take: {after:?}");
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next() {
        assert!(acquire(&["[::1]:1", "127.0.0.1:3"], LONG).await.0.is_ok());
    }

    #[tokio::test]
    async fn a_peer_that_closes_what_it_accepts_is_not_dialled_for_ever() {
        for _ in 0..10 {
            match acquire(&["127.0.0.1:4"], LONG).await.0 {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Connect),
                // It may be handed out before its end was seen.
                Ok(lease) => assert!(!lease.is_reused),
            }
        }
    }

    #[test]
    fn a_dial_on_a_runtime_that_has_ended_fails_and_stops_nobody() {
        let (told, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let ended = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let handle = ended.handle().clone();
            drop(ended);
            let ours = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (lease, _) = ours.block_on(acquire_on(handle, &["127.0.0.1:3"], LONG));
            told.send(lease.map(drop).unwrap_err().kind())
        });
        assert_eq!(outcome.recv_timeout(LONG).expect("it fails at once"), ErrorKind::Closed);
    }

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn connections_opened_together_do_not_retire_together() {
        let (now, age) = (Instant::now(), Duration::from_secs(100));
        let mut rng = fastrand::Rng::with_seed(3);
        let ages: Vec<_> = (0..100).map(|_| old_at(now, age, &mut rng).unwrap() - now).collect();
        assert!(ages.iter().all(|old| *old <= age && *old >= age.mul_f64(0.9)), "{ages:?}");
        assert!(ages.iter().max().unwrap().as_secs_f64() - ages.iter().min().unwrap().as_secs_f64() > 5.0);
        assert_eq!(old_at(now, Duration::ZERO, &mut rng), None);
    }
}
