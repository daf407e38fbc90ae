//! The inbound check for an application whose server is its own.
//!
//! Decides: nothing; it converts. Never: touches the server's socket; of a body it is told the beginning and the length.
//! Invariant: a ticket that nobody ends counts as given up when it goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use mesh_core::inbound::ConnectionAddress;
use mesh_core::inbound::own_server::{self, Begun, Given};
use mesh_core::{CallContext, EndUser, Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::body::header_map;
use crate::context::Context;
use crate::errors::{guard, to_python};
use crate::exchange::{byte_pairs, head_pairs};
use crate::fork::Owned;
use crate::mesh::Mesh;
use crate::op::{Op, submit};
use crate::outcome::Outcome;
use crate::queue::Queue;

/// Admits the requests that an application's own server receives, by the rules of one listener.
#[pyclass(frozen, module = "mesh._native")]
pub struct InboundCheck {
    mesh: Py<Mesh>,
    inner: Owned<own_server::InboundCheck>,
}

/// A request that goes on once its body is there.
#[pyclass(frozen, module = "mesh._native")]
pub struct Wanted {
    limit: usize,
    deadline: Instant,
    inner: Owned<Mutex<Option<own_server::Wanted>>>,
}

/// An admitted request, which the application answers.
#[pyclass(frozen, module = "mesh._native")]
pub struct Ticket {
    head: Parts,
    inner: Owned<Mutex<Option<own_server::Ticket>>>,
}

/// An answer of the mesh, to be sent as it is.
#[pyclass(frozen, module = "mesh._native")]
pub struct Answer {
    inner: own_server::Answer,
}

/// Header fields as Python writes them: text by ISO-8859-1, or bytes.
type Written<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;
/// Header fields as Python reads them.
type Read<'py> = Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>;
/// Method, target, version (as after `HTTP/`) and header fields.
type Head<'py> = (String, Bound<'py, PyBytes>, String, Written<'py>);
/// (host, port) of client and server, and the client's proven certificates (DER, leaf first).
type Origin<'py> = (Option<(String, u16)>, Option<(String, u16)>, Vec<Bound<'py, PyBytes>>);

impl InboundCheck {
    /// For Python. Starts nothing.
    pub fn new(mesh: Py<Mesh>, check: own_server::InboundCheck) -> Self {
        Self { mesh, inner: Owned::new(check) }
    }
}

#[pymethods]
impl InboundCheck {
    /// Completes with a `Ticket`, with an `Answer`, or, if there may be a body, with a `Wanted` once a check wants it.
    #[pyo3(signature = (queue, head, origin, has_body))]
    fn begin(&self, py: Python<'_>, queue: &Queue, head: Head<'_>, origin: Origin<'_>, has_body: bool) -> PyResult<Op> {
        guard(py, || {
            let check = self.inner.require(py)?;
            let runtime = self.mesh.get().runtime(py)?;
            let mut request = request_of(py, head, has_body)?;
            let (client, server, chain) = origin;
            if let Some(address) = address_of(client, server) {
                request.extensions_mut().insert(address);
            }
            let chain: Vec<_> = chain.iter().map(|certificate| certificate.as_bytes()).collect();
            if let Some(peer) = check.peer(&chain, None) {
                request.extensions_mut().insert(peer);
            }
            let beginning = check.begin(request);
            submit(py, &runtime, queue, async move { beginning.await.map_or_else(Outcome::Failed, outcome) })
        })
    }

    /// Goes on as `begin` does. `body`: its beginning and whether there is more; None: the caller waits no longer.
    fn give(
        &self,
        py: Python<'_>,
        queue: &Queue,
        wanted: &Wanted,
        body: Option<(Bound<'_, PyBytes>, bool)>,
    ) -> PyResult<Op> {
        guard(py, || {
            let runtime = self.mesh.get().runtime(py)?;
            let given = match body {
                Some((bytes, false)) => Given::Whole(Bytes::copy_from_slice(bytes.as_bytes())),
                Some((bytes, true)) => Given::Beginning(Bytes::copy_from_slice(bytes.as_bytes())),
                None => Given::Later,
            };
            let taken = wanted.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner).take();
            let going_on = taken.ok_or_else(|| over(py))?.give(given);
            submit(py, &runtime, queue, async move { outcome(going_on.await) })
        })
    }
}

fn outcome(begun: Begun) -> Outcome {
    match begun {
        Begun::Admitted(ticket) => Outcome::Admitted(Box::new(ticket)),
        Begun::Answered(answer) => Outcome::Answered(Box::new(answer)),
        Begun::Wanted(wanted) => Outcome::Wanted(Box::new(wanted)),
    }
}

impl Wanted {
    /// For Python.
    pub fn new(wanted: own_server::Wanted) -> Self {
        let (limit, deadline) = (wanted.limit(), wanted.deadline());
        Self { limit, deadline, inner: Owned::new(Mutex::new(Some(wanted))) }
    }
}

#[pymethods]
impl Wanted {
    /// How many bytes of the body checks want to know.
    #[getter]
    fn limit(&self) -> usize {
        self.limit
    }

    /// Seconds until it is too late.
    #[getter]
    fn remaining(&self) -> f64 {
        self.deadline.saturating_duration_since(Instant::now()).as_secs_f64()
    }
}

impl Ticket {
    /// For Python.
    pub fn new(ticket: own_server::Ticket) -> Self {
        Self { head: ticket.head().clone(), inner: Owned::new(Mutex::new(Some(ticket))) }
    }

    /// The ticket itself, once.
    fn take(&self, py: Python<'_>) -> PyResult<own_server::Ticket> {
        let ticket = self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner).take();
        ticket.ok_or_else(|| over(py))
    }
}

#[pymethods]
impl Ticket {
    #[getter]
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// The path as it was judged, percent-encoded.
    #[getter]
    fn raw_path(&self) -> &str {
        self.head.uri.path()
    }

    #[getter]
    fn query(&self) -> &str {
        self.head.uri.query().unwrap_or_default()
    }

    /// Pairs of bytes, names in lower case, with the changes of checks.
    fn headers<'py>(&self, py: Python<'py>) -> Read<'py> {
        head_pairs(py, &self.head)
    }

    /// What the end user's verified token says: a JSON object; None without one.
    #[getter]
    fn claims_json(&self) -> Option<&str> {
        self.head.extensions.get::<EndUser>().map(EndUser::claims_json)
    }

    /// Trace, deadline and peer, to be passed on to outgoing calls.
    #[getter]
    fn context(&self) -> Option<Context> {
        self.head.extensions.get::<Arc<CallContext>>().map(|context| Context { inner: Arc::clone(context) })
    }

    /// Bytes of the request's body that the application has read by now.
    fn count_request(&self, py: Python<'_>, length: u64) -> PyResult<()> {
        guard(py, || {
            if let Some(ticket) = &*self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner) {
                ticket.count_request(length);
            }
            Ok(())
        })
    }

    /// The application's status and headers; gives them back as they are to be sent. Once.
    fn answer<'py>(&self, py: Python<'py>, status: u16, headers: Written<'py>) -> PyResult<(u16, Read<'py>)> {
        guard(py, || {
            let status =
                StatusCode::from_u16(status).map_err(|_| misuse(py, format!("{status} is not an HTTP status")))?;
            let mut head = Response::new(());
            *head.status_mut() = status;
            *head.headers_mut() = header_map(py, &headers)?;
            let mut ticket = self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner);
            let answered = ticket.as_mut().ok_or_else(|| over(py))?.answer(head);
            let head = answered.map_err(|error| to_python(py, &error))?;
            Ok((head.status().as_u16(), byte_pairs(py, head.headers()).collect()))
        })
    }

    /// The response was sent; gives its trailers back as they are to be sent.
    #[pyo3(signature = (length, trailers=None))]
    fn end<'py>(&self, py: Python<'py>, length: u64, trailers: Option<Written<'py>>) -> PyResult<Option<Read<'py>>> {
        guard(py, || {
            let trailers = trailers.map(|pairs| header_map(py, &pairs)).transpose()?;
            let trailers = self.take(py)?.end(length, trailers);
            Ok(trailers.map(|trailers| byte_pairs(py, &trailers).collect()))
        })
    }

    /// The response broke off after so many bytes of its body.
    fn fail(&self, py: Python<'_>, length: u64, why: &str) -> PyResult<()> {
        guard(py, || {
            self.take(py)?.fail(length, why);
            Ok(())
        })
    }

    /// The caller went away.
    fn give_up(&self, py: Python<'_>) -> PyResult<()> {
        guard(py, || {
            drop(self.inner.require(py)?.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
    }
}

impl Answer {
    /// For Python.
    pub fn new(answer: own_server::Answer) -> Self {
        Self { inner: answer }
    }
}

#[pymethods]
impl Answer {
    #[getter]
    fn status(&self) -> u16 {
        self.inner.response.status().as_u16()
    }

    /// Pairs of bytes, names in lower case.
    fn headers<'py>(&self, py: Python<'py>) -> Read<'py> {
        byte_pairs(py, self.inner.response.headers()).collect()
    }

    #[getter]
    fn body(&self) -> &[u8] {
        self.inner.response.body()
    }

    /// What follows the body.
    fn trailers<'py>(&self, py: Python<'py>) -> Option<Read<'py>> {
        self.inner.trailers.as_ref().map(|trailers| byte_pairs(py, trailers).collect())
    }
}

fn request_of(
    py: Python<'_>,
    (method, target, version, headers): Head<'_>,
    has_body: bool,
) -> PyResult<Request<Given>> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| misuse(py, "not an HTTP method".to_owned()))?;
    let uri =
        Uri::try_from(target.as_bytes()).map_err(|error| misuse(py, format!("not a request's target: {error}")))?;
    let (version, headers) = (version_of(&version), header_map(py, &headers)?);
    let mut request = Request::new(if has_body { Given::Later } else { Given::Whole(Bytes::new()) });
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(request)
}

fn version_of(text: &str) -> Version {
    match text {
        "1.0" => Version::HTTP_10,
        "2" | "2.0" => Version::HTTP_2,
        "3" => Version::HTTP_3,
        _ => Version::HTTP_11,
    }
}

/// `None`: the client has no address, or a server made one up. Of a server that does not say where it was reached, we
/// only know the kind.
fn address_of(client: Option<(String, u16)>, server: Option<(String, u16)>) -> Option<ConnectionAddress> {
    // A link-local address may come with its zone, which names an interface of this host and is no part of it.
    let bare = |host: &str| host.split('%').next().unwrap_or_default().parse::<IpAddr>().ok();
    let of = |(host, port): (String, u16)| Some(SocketAddr::new(bare(&host)?, port));
    let remote = of(client?)?;
    let nowhere = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = server.and_then(of).unwrap_or(SocketAddr::new(nowhere, 0));
    Some(ConnectionAddress { local, remote })
}

fn over(py: Python<'_>) -> PyErr {
    misuse(py, "this request is over".to_owned())
}

fn misuse(py: Python<'_>, what: String) -> PyErr {
    to_python(py, &Error::new(ErrorKind::BadRequest, what))
}
