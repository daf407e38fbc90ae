//! A question to one endpoint over a connection of its own.
//!
//! Decides: nothing about the answer. Never: uses or fills the pool: a check that goes over a pooled connection
//! does not see that no new one can be opened.
//! Invariant: the connection is closed when the answer was read, or given up.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::Address;
use super::connect::{Channel, Dialer, Io, KeepAlive, Opened, Transport, Wiring};
use super::tls::secure;
use crate::body::Body;
use crate::error::{Error, ErrorKind};

/// A request that belongs to nobody's call.
pub struct Ask<'a> {
    /// Its method.
    pub method: Method,
    /// Its path and query, or `*`.
    pub path: &'a Uri,
    /// Its authority.
    pub host: &'a HeaderValue,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The beginning of the body.
    pub body: Bytes,
}

/// Asks, and reads the answer.
pub async fn ask(
    dialer: &Arc<Dialer>,
    address: &Address,
    (transport, keepalive): (&Transport, KeepAlive),
    ask: Ask<'_>,
) -> Result<Answer, Error> {
    let wiring = Wiring { keepalive, gate: Arc::default() };
    let Opened { channel, .. } = dialer.dial(address, transport, wiring).await?;
    let failed = |error: hyper::Error| {
        Error::new(ErrorKind::Reset, format!("{address} did not answer: {error}")).with_source(error)
    };
    let response = match channel {
        Channel::Http1(mut sender) => sender.send_request(origin_form(ask)?).await.map_err(failed)?,
        Channel::Http2(mut sender) => sender.send_request(absolute_form(ask, transport)?).await.map_err(failed)?,
    };
    read(response.map(Body::from)).await
}

async fn read(response: Response<Body>) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    // A long page is no error: what it begins with is not of interest.
    let body = body.collect_up_to(MAX_ANSWER).await.unwrap_or_default();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn origin_form(ask: Ask<'_>) -> Result<Request<Body>, Error> {
    let host = ask.host.clone();
    let mut request = request(ask.path.clone(), ask);
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

fn absolute_form(ask: Ask<'_>, transport: &Transport) -> Result<Request<Body>, Error> {
    let bad = |error: http::Error| Error::new(ErrorKind::BadRequest, "the question has no target").with_source(error);
    let target = ask.path.path_and_query().map_or("/", |target| target.as_str());
    let authority = ask.host.as_bytes();
    let scheme = if transport.is_of_the_web() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build().map_err(bad)?;
    Ok(request(uri, ask))
}

fn request(uri: Uri, ask: Ask<'_>) -> Request<Body> {
    let mut request = Request::new(if ask.body.is_empty() { Body::empty() } else { Body::from(ask.body) });
    *request.method_mut() = ask.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = ask.headers;
    request
}

/// Connects, sends, and reads until `receive` came.
pub async fn converse(
    dialer: &Arc<Dialer>,
    address: &Address,
    transport: &Transport,
    (send, receive): (&[u8], &[u8]),
) -> io::Result<bool> {
    let mut stream = stream(dialer, address, transport).await?;
    stream.write_all(send).await?;
    stream.flush().await?;
    let mut seen = Vec::new();
    while !contains(&seen, receive) {
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).await?;
        if read == 0 || seen.len() > MAX_ANSWER {
            return Ok(false);
        }
        seen.extend_from_slice(&chunk[..read]);
    }
    Ok(true)
}

/// Bytes to the peer, over TLS if the transport says so: its identity is verified either way.
async fn stream(dialer: &Dialer, address: &Address, transport: &Transport) -> io::Result<Box<dyn Io>> {
    let stream = dialer.bytes(address).await.map_err(io::Error::other)?;
    let Some(tls) = &transport.tls else { return Ok(stream) };
    let secured = secure(address, tls, stream).await.map_err(io::Error::other)?;
    Ok(Box::new(secured.stream))
}

fn contains(seen: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || seen.windows(wanted.len()).any(|window| window == wanted)
}

/// Most of an answer that is read: a status page, not a download.
const MAX_ANSWER: usize = 64 * 1024;
