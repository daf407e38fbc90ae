//! One inbound request and its answer.
//!
//! Decides: nothing; mesh-core has admitted the request already. Never: lets an answer be given twice.
//! Invariant: `is_abandoned` is true from the moment the caller went away or the response has ended.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::error::BoxError;
use mesh_core::inbound::ConnectionAddress;
use mesh_core::{Body, CallContext, EndUser, Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::body::{BodyPipe, Reader, header_map};
use crate::context::Context;
use crate::errors::{guard, to_python};
use crate::fork::Owned;
use crate::inbox::InFlight;
use crate::op::{Op, submit};
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::response::version_text;

/// A request that waits for Python's answer.
#[pyclass(frozen, module = "mesh._native")]
pub struct Exchange {
    head: Parts,
    reader: Owned<Reader>,
    reply: Owned<Mutex<Option<oneshot::Sender<Response<Body>>>>>,
    /// Closed when the answer has ended or the caller went away.
    alive: Owned<watch::Receiver<()>>,
}

/// The mesh's end of an exchange.
pub struct Answer {
    reply: oneshot::Receiver<Response<Body>>,
    life: Life,
}

/// Dropped when the exchange is over.
struct Life {
    _alive: watch::Sender<()>,
    _in_flight: InFlight,
}

/// Makes both ends of an exchange.
pub fn exchange(request: Request<Body>, runtime: Handle, in_flight: InFlight) -> (Exchange, Answer) {
    let (head, body) = request.into_parts();
    let (sender, receiver) = oneshot::channel();
    let (life, alive) = watch::channel(());
    let exchange = Exchange {
        head,
        reader: Owned::new(Reader::new(body, runtime)),
        reply: Owned::new(Mutex::new(Some(sender))),
        alive: Owned::new(alive),
    };
    (exchange, Answer { reply: receiver, life: Life { _alive: life, _in_flight: in_flight } })
}

impl Answer {
    /// Completes with the application's answer; 500 when it gave none.
    pub async fn wait(self) -> Response<Body> {
        let life = self.life;
        match self.reply.await {
            Ok(response) => response.map(|body| Body::new(Watched { body, _life: life })),
            Err(_) => refusal(ErrorKind::Internal),
        }
    }
}

impl Exchange {
    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.alive.get().is_some_and(|alive| alive.has_changed().is_err())
    }

    /// Itself, unless the caller went away or ran out of time while it waited for the application.
    pub fn still_wanted(self) -> Option<Self> {
        if self.is_abandoned() {
            return None;
        }
        let left = self.call_context().and_then(|context| context.remaining(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            self.send(refusal(ErrorKind::Timeout));
            return None;
        }
        Some(self)
    }

    /// Whether this was the first answer.
    fn send(&self, response: Response<Body>) -> bool {
        let reply = self.reply.get().and_then(|reply| reply.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(reply) = reply else { return false };
        // A caller that went away makes this fail; the application learns it from the body or `gone`.
        let _ = reply.send(response);
        true
    }

    fn reader(&self, py: Python<'_>) -> PyResult<&Reader> {
        self.reader.require(py)
    }

    fn call_context(&self) -> Option<&Arc<CallContext>> {
        self.head.extensions.get::<Arc<CallContext>>()
    }

    fn address(&self) -> Option<&ConnectionAddress> {
        self.head.extensions.get::<ConnectionAddress>()
    }
}

#[pymethods]
impl Exchange {
    #[getter]
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// The path as it arrived, still percent-encoded.
    #[getter]
    fn raw_path(&self) -> &str {
        self.head.uri.path()
    }

    #[getter]
    fn query(&self) -> &str {
        self.head.uri.query().unwrap_or_default()
    }

    #[getter]
    fn http_version(&self) -> &'static str {
        version_text(self.head.version)
    }

    /// Whether the peer proved who it is.
    #[getter]
    fn scheme(&self) -> &'static str {
        if self.call_context().is_some_and(|context| context.peer.is_some()) { "https" } else { "http" }
    }

    /// Pairs of bytes, names in lower case; HTTP/2's `:authority` is a `host`.
    fn headers<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        head_pairs(py, &self.head)
    }

    #[getter]
    fn client(&self) -> Option<(String, u16)> {
        self.address().map(|address| (address.remote.ip().to_string(), address.remote.port()))
    }

    #[getter]
    fn server(&self) -> Option<(String, u16)> {
        self.address().map(|address| (address.local.ip().to_string(), address.local.port()))
    }

    /// What the end user's verified token says: a JSON object; None without one.
    #[getter]
    fn claims_json(&self) -> Option<&str> {
        self.head.extensions.get::<EndUser>().map(EndUser::claims_json)
    }

    /// Trace, deadline and peer, to be passed on to outgoing calls.
    #[getter]
    fn context(&self) -> Option<Context> {
        self.call_context().map(|context| Context { inner: Arc::clone(context) })
    }

    /// The next piece of the request body: bytes, or None at its end.
    fn read(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        guard(py, || self.reader(py)?.read(py, queue))
    }

    /// A body to answer with, written piece by piece.
    #[pyo3(signature = (length=None))]
    fn pipe(&self, py: Python<'_>, length: Option<u64>) -> PyResult<BodyPipe> {
        Ok(BodyPipe::open(self.reader(py)?.runtime().clone(), length))
    }

    /// Answers. `body` is bytes or a pipe.
    fn respond(
        &self,
        py: Python<'_>,
        status: u16,
        headers: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        body: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        guard(py, || {
            let invalid =
                |_| to_python(py, &Error::new(ErrorKind::BadRequest, format!("{status} is not an HTTP status")));
            let status = StatusCode::from_u16(status).map_err(invalid)?;
            let mut headers = header_map(py, &headers)?;
            if self.head.version == Version::HTTP_2 {
                remove_connection_headers(&mut headers);
            }
            let mut response = Response::new(body_of(py, body)?);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            self.reply.require(py)?;
            let twice = || to_python(py, &Error::new(ErrorKind::BadRequest, "this request was answered already"));
            self.send(response).then_some(()).ok_or_else(twice)
        })
    }

    /// Whether the caller went away, or the response has ended.
    #[getter]
    fn is_gone(&self) -> bool {
        self.is_abandoned()
    }

    /// Completes when the caller went away, or the response has ended.
    fn gone(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        let mut alive = self.alive.require(py)?.clone();
        submit(py, self.reader(py)?.runtime(), queue, async move {
            while alive.changed().await.is_ok() {}
            Outcome::Done
        })
    }
}

/// Header fields as servers hand them to applications: bytes, names in lower case.
pub fn byte_pairs<'py>(
    py: Python<'py>,
    headers: &HeaderMap,
) -> impl Iterator<Item = (Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    headers
        .iter()
        .map(move |(name, value)| (PyBytes::new(py, name.as_str().as_bytes()), PyBytes::new(py, value.as_bytes())))
}

/// The fields of a request; an authority that stands in its target is a `host`.
pub fn head_pairs<'py>(py: Python<'py>, head: &Parts) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let authority = head.uri.authority().filter(|_| !head.headers.contains_key(http::header::HOST));
    let host = authority.map(|authority| (PyBytes::new(py, b"host"), PyBytes::new(py, authority.as_str().as_bytes())));
    host.into_iter().chain(byte_pairs(py, &head.headers)).collect()
}

/// A body from Python: bytes, a pipe, or None.
pub fn body_of(py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<Body> {
    if let Ok(bytes) = body.cast::<PyBytes>() {
        return Ok(Body::from(Bytes::copy_from_slice(bytes.as_bytes())));
    }
    if body.is_none() {
        return Ok(Body::empty());
    }
    body.cast::<BodyPipe>()?.get().take_body(py)
}

/// An answer that the application did not give.
pub fn refusal(kind: ErrorKind) -> Response<Body> {
    let status = StatusCode::from_u16(kind.status().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(status.canonical_reason().unwrap_or_default()));
    *response.status_mut() = status;
    response
}

/// HTTP/2 has no connection headers (RFC 9113 8.2.2); applications written for HTTP/1.1 may set them.
fn remove_connection_headers(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}

/// A response body that knows when it is over.
struct Watched {
    body: Body,
    _life: Life,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
