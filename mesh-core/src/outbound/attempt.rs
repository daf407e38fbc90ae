//! One attempt: one request over one connection to one endpoint.
//!
//! Decides: how far a failed request got ([`Sent`]), and the one transparent retry of a stale pooled
//! connection. Never: retries anything else, or picks an endpoint.
//! Invariant: `Sent::Never` and `Sent::Unprocessed` are only said when they are proven.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use crate::body::Body;
use crate::cluster::group::Cluster;
use crate::cluster::member::Endpoint;
use crate::endpoint::connect::{Channel, Dialer, Transport};
use crate::endpoint::connection::Occupied;
use crate::endpoint::pool::{Ask, Lease, PoolLimits};
use crate::error::{Error, ErrorKind, Sent};
use crate::outbound::expect::{self, LetGo};
use crate::outbound::replay::{Replay, Watch};
use crate::outbound::upgrade::{self, Tunnel};

/// What an attempt sends: the parts shared by all attempts of a call.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a http::Method,
    /// Absolute: scheme, authority, path and query.
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a http::HeaderMap,
    pub(crate) extensions: &'a http::Extensions,
    pub(crate) body: &'a Replay,
    pub(crate) is_idempotent: bool,
}

/// How an endpoint is reached.
pub(crate) struct Way<'a> {
    dialer: &'a Arc<Dialer>,
    endpoint: &'a Arc<Endpoint>,
    transport: Cow<'a, Transport>,
    limits: PoolLimits,
}

impl<'a> Way<'a> {
    pub(crate) fn to(
        dialer: &'a Arc<Dialer>,
        cluster: &'a Cluster,
        endpoint: &'a Arc<Endpoint>,
        is_grpc: bool,
    ) -> Self {
        let transport = cluster.transport(endpoint, is_grpc);
        Self { dialer, endpoint, transport, limits: cluster.settings.pool }
    }

    /// Calendar time, to read a date that the peer names.
    pub(crate) fn wall(&self) -> SystemTime {
        self.dialer.clock.wall()
    }

    fn of(&'a self, outgoing: &Outgoing<'_>) -> Self {
        let transport = upgrade::transport(&self.transport, outgoing.headers);
        Self { dialer: self.dialer, endpoint: self.endpoint, transport, limits: self.limits }
    }

    fn ask(&self) -> Ask<'_> {
        Ask { dialer: self.dialer, address: &self.endpoint.address, transport: &self.transport, limits: &self.limits }
    }
}

/// An answer, and what keeps its connection.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) held: Held,
}

/// Gives an HTTP/1.1 connection back to its pool when the response has ended.
pub(crate) struct Held {
    pub(crate) connection: Occupied,
    channel: Option<http1::SendRequest<Body>>,
    body: Watch,
    let_go: Option<LetGo>,
    endpoint: Arc<Endpoint>,
    dialer: Arc<Dialer>,
    limits: PoolLimits,
}

/// Sends, within `deadline` if there is one.
pub(crate) async fn send(way: &Way<'_>, outgoing: &Outgoing<'_>, deadline: Option<Instant>) -> Result<Answer, Error> {
    let way = &way.of(outgoing);
    let Some(deadline) = deadline else { return send_unbounded(way, outgoing, &Progress::default()).await };
    let progress = Progress::default();
    let timeout = way.dialer.clock.sleep_until(deadline);
    tokio::select! {
        // What is here when the time is noticed to be over, is here.
        biased;
        answer = send_unbounded(way, outgoing, &progress) => answer,
        () = timeout => {
            let error = Error::new(ErrorKind::AttemptTimeout, format!("no response from {} in time", way.endpoint.name));
            Err(error.with_sent(progress.sent()))
        }
    }
}

/// Whether the request has been handed to a connection: what a timeout may claim about it.
#[derive(Default)]
struct Progress(std::sync::atomic::AtomicBool);

impl Progress {
    fn sent(&self) -> Sent {
        if self.0.load(std::sync::atomic::Ordering::Relaxed) { Sent::Maybe } else { Sent::Never }
    }

    fn handed_over(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

async fn send_unbounded(way: &Way<'_>, outgoing: &Outgoing<'_>, progress: &Progress) -> Result<Answer, Error> {
    let pool = &way.endpoint.live.pool;
    let Lease { channel, occupied, is_reused } = pool.acquire(way.ask()).await?;
    let connection = Arc::clone(&occupied);
    let failed = match over(way, (channel, occupied), outgoing, progress).await {
        Ok(answer) => return Ok(answer),
        Err(failed) => failed,
    };
    // Only a connection that has served before can be stale: a new one that fails is the endpoint's failure.
    if !is_reused || !failed.is_silent {
        return Err(failed.error);
    }
    if !may_be_repeated(&failed.error, outgoing) {
        return Err(stale(failed.error));
    }
    let lease =
        pool.acquire_fresh(way.ask(), &connection).await.map_err(|fresh| fresh.with_sent(failed.error.sent()))?;
    over(way, (lease.channel, lease.occupied), outgoing, progress).await.map_err(|failed| failed.error)
}

/// A request that failed on its connection.
struct Failed {
    error: Error,
    /// The peer sent not one byte in answer, as when it closed the connection while the request was on its way.
    is_silent: bool,
}

/// A connection that was idle may have been closed by the peer while the request was on its way.
fn may_be_repeated(error: &Error, outgoing: &Outgoing<'_>) -> bool {
    (error.sent() != Sent::Maybe || outgoing.is_idempotent) && outgoing.body.is_replayable()
}

/// The peer may have read the request before it closed: whoever knows the request has to decide.
fn stale(error: Error) -> Error {
    let (kind, sent) = (error.kind(), error.sent());
    let message = format!("stale connection: {}; the request may not be sent twice", error.message());
    Error::new(kind, message).with_sent(sent).with_source(error)
}

async fn over(
    way: &Way<'_>,
    lease: (Channel, Occupied),
    outgoing: &Outgoing<'_>,
    progress: &Progress,
) -> Result<Answer, Failed> {
    let (channel, occupied) = lease;
    let (mut response, channel, let_go) = match channel {
        Channel::Http1(sender) => {
            let (response, sender, let_go) = over_http1(way, (sender, &occupied), outgoing, progress).await?;
            (response, Some(sender), let_go)
        }
        Channel::Http2(sender) => (over_http2(way, (sender, &occupied), outgoing, progress).await?, None, None),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        occupied.upgraded();
        response.extensions_mut().insert(Tunnel::over(occupied.occupy().0));
    }
    let held = Held {
        connection: occupied,
        channel,
        let_go,
        body: outgoing.body.watch(),
        endpoint: Arc::clone(way.endpoint),
        dialer: Arc::clone(way.dialer),
        limits: way.limits,
    };
    Ok(Answer { response, held })
}

async fn over_http1(
    way: &Way<'_>,
    lease: (http1::SendRequest<Body>, &Occupied),
    outgoing: &Outgoing<'_>,
    progress: &Progress,
) -> Result<(Response<Incoming>, http1::SendRequest<Body>, Option<LetGo>), Failed> {
    let (mut sender, occupied) = lease;
    let endpoint = way.endpoint;
    let (request, let_go) = expect::hold_back(origin_form(outgoing).map_err(Failed::before)?, &way.dialer.clock);
    if !sender.is_ready() {
        settle(way, &mut sender, occupied).await?;
    }
    let received = occupied.received();
    progress.handed_over();
    let response = sender.try_send_request(request).await.map_err(|mut failed| {
        let was_kept = failed.take_message().is_some();
        let error = failure(failed.into_error(), was_kept, endpoint);
        let is_lost = matches!(error.kind(), ErrorKind::ConnectionClosed | ErrorKind::Reset);
        Failed { error, is_silent: is_lost && occupied.received() == received }
    })?;
    if says_close(response.headers()) {
        occupied.leave();
    }
    Ok((response, sender, let_go))
}

/// The response before has just ended and its connection task has yet to see it, or it never will.
async fn settle(way: &Way<'_>, sender: &mut http1::SendRequest<Body>, occupied: &Occupied) -> Result<(), Failed> {
    let gone = |error: Error| Failed { error, is_silent: true };
    let is_new = occupied.served() <= 1;
    let patience = way.dialer.clock.sleep_until(crate::time::after(way.dialer.clock.now(), SETTLE));
    tokio::select! {
        biased;
        ready = sender.ready() => ready.map_err(|error| gone(failure(error, true, way.endpoint))),
        () = patience, if !is_new => {
            let message = format!("{}: the connection does not become free", way.endpoint.name);
            Err(gone(Error::new(ErrorKind::ConnectionClosed, message)))
        }
    }
}

async fn over_http2(
    way: &Way<'_>,
    lease: (http2::SendRequest<Body>, &Occupied),
    outgoing: &Outgoing<'_>,
    progress: &Progress,
) -> Result<Response<Incoming>, Failed> {
    let (mut sender, occupied) = lease;
    let endpoint = way.endpoint;
    let request = absolute_form(outgoing, &way.transport).map_err(Failed::before)?;
    if let Err(error) = sender.ready().await {
        occupied.leave();
        return Err(Failed { error: failure(error, true, endpoint), is_silent: true });
    }
    progress.handed_over();
    sender.try_send_request(request).await.map_err(|mut failed| {
        let was_kept = failed.take_message().is_some();
        let error = failure(failed.into_error(), was_kept, endpoint);
        if sender.is_closed() {
            occupied.leave();
        }
        // A refused stream says nothing against its connection; a closed one, or a GOAWAY, does.
        let is_over = sender.is_closed() || occupied.is_leaving() || error.kind() == ErrorKind::ConnectionClosed;
        Failed { is_silent: is_over, error }
    })
}

impl Failed {
    /// The request cannot be sent at all.
    fn before(error: Error) -> Self {
        Self { error, is_silent: false }
    }
}

fn says_close(headers: &http::HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"))
}

fn origin_form(outgoing: &Outgoing<'_>) -> Result<Request<Body>, Error> {
    let target = outgoing.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = request(outgoing, Uri::try_from(target).map_err(bad_target)?, Version::HTTP_11);
    if let Some(authority) = outgoing.uri.authority()
        && let Ok(host) = http::HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    match upgrade::wanted(request.headers()) {
        Some(_) => drop(request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"))),
        None => drop(request.headers_mut().remove(header::UPGRADE)),
    }
    Ok(request)
}

fn absolute_form(outgoing: &Outgoing<'_>, transport: &Transport) -> Result<Request<Body>, Error> {
    let mut uri = outgoing.uri.clone();
    if transport.is_of_the_web() {
        // A logical name has no scheme of its own, and strict servers want the one of the connection (RFC 9110 7.4).
        let mut parts = uri.into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        uri = Uri::from_parts(parts).map_err(bad_parts)?;
    }
    let mut request = request(outgoing, uri, Version::HTTP_2);
    request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::UPGRADE);
    Ok(request)
}

fn request(outgoing: &Outgoing<'_>, uri: Uri, version: Version) -> Request<Body> {
    let mut request = Request::new(outgoing.body.attempt());
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = outgoing.headers.clone();
    *request.extensions_mut() = outgoing.extensions.clone();
    request
}

fn bad_parts(error: http::uri::InvalidUriParts) -> Error {
    Error::new(ErrorKind::BadRequest, "the request's target is malformed").with_source(error)
}

fn bad_target(error: http::uri::InvalidUri) -> Error {
    Error::new(ErrorKind::BadRequest, "the request target is not valid").with_source(error)
}

/// Reads a hyper error: what happened, and whether the peer can have acted.
fn failure(error: hyper::Error, was_kept: bool, endpoint: &Endpoint) -> Error {
    let (kind, sent) = if was_kept { (ErrorKind::ConnectionClosed, Sent::Never) } else { classify(&error) };
    Error::new(kind, format!("{}: {error}", endpoint.name)).with_sent(sent).with_source(error)
}

fn classify(error: &hyper::Error) -> (ErrorKind, Sent) {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return classify_h2(h2);
        }
        source = cause.source();
    }
    let kind = if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        ErrorKind::ConnectionClosed
    } else if error.is_parse() {
        ErrorKind::Protocol
    } else if error.is_user() || error.is_body_write_aborted() {
        ErrorKind::Cancelled
    } else {
        ErrorKind::Reset
    };
    (kind, Sent::Maybe)
}

/// RFC 9113 8.7: a stream above a GOAWAY's last id, or reset with REFUSED_STREAM, was not processed.
fn classify_h2(error: &h2::Error) -> (ErrorKind, Sent) {
    let is_refused = error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if is_refused || (error.is_remote() && error.is_go_away()) {
        return (ErrorKind::Reset, Sent::Unprocessed);
    }
    if error.is_io() { (ErrorKind::ConnectionClosed, Sent::Maybe) } else { (ErrorKind::Reset, Sent::Maybe) }
}

/// Reads what a response body's error means.
pub(crate) fn body_failure(error: crate::error::BoxError, endpoint: &str) -> Error {
    let kind = error.downcast_ref::<hyper::Error>().map_or(ErrorKind::Reset, |error| classify(error).0);
    Error::new(kind, format!("{endpoint}: the response body ended early: {error}"))
        .with_sent(Sent::Maybe)
        .with_source(error)
}

impl Held {
    /// The response has been read to its end: the connection may serve again.
    ///
    /// Unless the peer answered before it had read the request: what is left of it would be in the way of the next.
    pub(crate) fn release(mut self) {
        let Some(sender) = self.channel.take() else { return };
        let is_let_go = self.let_go.as_ref().is_none_or(LetGo::is_let_go);
        let is_taken = sender.is_ready() || !self.connection.is_write_blocked();
        if !is_let_go || !self.body.is_ended() || !is_taken {
            return;
        }
        let at = (self.dialer.moment(), &self.limits);
        self.endpoint.live.pool.put_back(sender, self.connection, at);
    }
}

/// A connection is ready within a turn of the event loop after its response was read (ours, for a loaded machine).
const SETTLE: std::time::Duration = std::time::Duration::from_millis(250);
