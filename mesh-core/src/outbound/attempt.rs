//! One attempt: one request over one connection to one endpoint.
//!
//! Decides: how far a failed request got ([`Sent`]), and the one transparent retry of a stale pooled
//! connection. Never: retries anything else, or picks an endpoint.
//! Invariant: `Sent::Never` and `Sent::Unprocessed` are only said when they are proven.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, Uri, Version, header};
use hyper::body::Incoming;

use crate::body::Body;
use crate::cluster::group::Cluster;
use crate::cluster::member::Endpoint;
use crate::endpoint::connect::{Channel, Dialer, Transport};
use crate::endpoint::pool::{Connection, Lease, PoolLimits};
use crate::error::{Error, ErrorKind, Sent};
use crate::outbound::replay::Replay;

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
    transport: &'a Transport,
    limits: PoolLimits,
}

impl<'a> Way<'a> {
    pub(crate) fn to(
        dialer: &'a Arc<Dialer>,
        cluster: &'a Cluster,
        endpoint: &'a Arc<Endpoint>,
        is_grpc: bool,
    ) -> Self {
        Self { dialer, endpoint, transport: cluster.transport(endpoint, is_grpc), limits: cluster.settings.pool }
    }
}

/// An answer, and what keeps its connection.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) held: Held,
}

/// Gives an HTTP/1.1 connection back to its pool when the response has ended.
pub(crate) struct Held {
    pub(crate) connection: Arc<Connection>,
    channel: Option<hyper::client::conn::http1::SendRequest<Body>>,
    endpoint: Arc<Endpoint>,
    dialer: Arc<Dialer>,
    limits: PoolLimits,
}

/// Sends, within `deadline` if there is one.
pub(crate) async fn send(way: &Way<'_>, outgoing: &Outgoing<'_>, deadline: Option<Instant>) -> Result<Answer, Error> {
    let Some(deadline) = deadline else { return send_unbounded(way, outgoing, &Progress::default()).await };
    let progress = Progress::default();
    let timeout = way.dialer.clock.sleep_until(deadline);
    tokio::select! {
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
    let endpoint = way.endpoint;
    let lease = endpoint.live.pool.acquire(way.dialer, endpoint.address, (way.transport, way.limits)).await?;
    let is_reused = lease.is_reused;
    match over(way, lease, outgoing, progress).await {
        Err(error) if is_reused && may_be_stale(&error, outgoing) => {
            let lease = endpoint
                .live
                .pool
                .open(way.dialer, endpoint.address, way.transport)
                .await
                .map_err(|fresh| fresh.with_sent(error.sent()))?;
            over(way, lease, outgoing, progress).await
        }
        result => result,
    }
}

/// A connection that was idle may have been closed by the peer while the request was on its way.
fn may_be_stale(error: &Error, outgoing: &Outgoing<'_>) -> bool {
    let is_harmless =
        error.sent() != Sent::Maybe || (outgoing.is_idempotent && error.kind() == ErrorKind::ConnectionClosed);
    is_harmless && outgoing.body.is_replayable()
}

async fn over(way: &Way<'_>, lease: Lease, outgoing: &Outgoing<'_>, progress: &Progress) -> Result<Answer, Error> {
    let endpoint = way.endpoint;
    let Lease { channel, connection, .. } = lease;
    let (response, channel) = match channel {
        Channel::Http1(mut sender) => {
            let request = origin_form(outgoing)?;
            progress.handed_over();
            let response = sender.try_send_request(request).await.map_err(|mut failed| {
                let was_kept = failed.take_message().is_some();
                failure(failed.into_error(), was_kept, endpoint)
            })?;
            (response, Some(sender))
        }
        Channel::Http2(mut sender) => {
            let request = absolute_form(outgoing)?;
            let ready = sender.ready().await;
            if let Err(error) = ready {
                endpoint.live.pool.forget(&connection);
                return Err(failure(error, true, endpoint));
            }
            progress.handed_over();
            let response = sender.try_send_request(request).await.map_err(|mut failed| {
                let was_kept = failed.take_message().is_some();
                let error = failure(failed.into_error(), was_kept, endpoint);
                if error.sent() != Sent::Maybe || sender.is_closed() {
                    endpoint.live.pool.forget(&connection);
                }
                error
            })?;
            (response, None)
        }
    };
    let held = Held {
        connection,
        channel,
        endpoint: Arc::clone(endpoint),
        dialer: Arc::clone(way.dialer),
        limits: way.limits,
    };
    Ok(Answer { response, held })
}

fn origin_form(outgoing: &Outgoing<'_>) -> Result<Request<Body>, Error> {
    let target = outgoing.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = request(outgoing, Uri::try_from(target).map_err(bad_target)?, Version::HTTP_11);
    if let Some(authority) = outgoing.uri.authority()
        && let Ok(host) = http::HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(request)
}

fn absolute_form(outgoing: &Outgoing<'_>) -> Result<Request<Body>, Error> {
    let mut request = request(outgoing, outgoing.uri.clone(), Version::HTTP_2);
    request.headers_mut().remove(header::HOST);
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
    pub(crate) fn release(mut self) {
        let Some(mut sender) = self.channel.take() else { return };
        let (endpoint, connection, limits) = (Arc::clone(&self.endpoint), Arc::clone(&self.connection), self.limits);
        let moment = self.dialer.moment();
        if sender.is_ready() {
            endpoint.live.pool.put_back(sender, connection, (moment, limits));
            return;
        }
        // The connection task has yet to see the end of the body; that takes one turn of the loop.
        self.dialer.runtime.spawn(async move {
            if sender.ready().await.is_ok() {
                endpoint.live.pool.put_back(sender, connection, (moment, limits));
            }
        });
    }
}
