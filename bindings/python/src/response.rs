//! A response as Python's client sees it.
//!
//! Decides: nothing. Never: holds a connection after `close` or its own end.

use http::response::Parts;
use mesh_core::{Body, CallReport};
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::body::Reader;
use crate::errors::guard;
use crate::fork::Owned;
use crate::op::Op;
use crate::outcome::header_pairs;
use crate::queue::Queue;

/// The head, and a body that is still on its way.
#[pyclass(frozen, module = "mesh._native")]
pub struct Response {
    head: Parts,
    reader: Owned<Reader>,
}

impl Response {
    /// Takes the answer apart.
    pub fn new(response: http::Response<Body>, runtime: Handle) -> Self {
        let (head, body) = response.into_parts();
        Self { head, reader: Owned::new(Reader::new(body, runtime)) }
    }

    fn reader(&self, py: Python<'_>) -> PyResult<&Reader> {
        self.reader.require(py)
    }

    fn report(&self) -> Option<&CallReport> {
        self.head.extensions.get::<CallReport>()
    }
}

#[pymethods]
impl Response {
    #[getter]
    fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    #[getter]
    fn http_version(&self) -> &'static str {
        version_text(self.head.version)
    }

    fn headers(&self) -> Vec<(String, String)> {
        header_pairs(&self.head.headers)
    }

    fn trailers(&self, py: Python<'_>) -> PyResult<Option<Vec<(String, String)>>> {
        Ok(self.reader(py)?.trailers().as_ref().map(header_pairs))
    }

    #[getter]
    fn attempts(&self) -> u32 {
        self.report().map_or(0, |report| report.attempts)
    }

    #[getter]
    fn cluster(&self) -> Option<&str> {
        self.report().map(|report| &*report.cluster)
    }

    #[getter]
    fn endpoint(&self) -> Option<&str> {
        self.report().map(|report| &*report.endpoint)
    }

    #[getter]
    fn route(&self) -> Option<&str> {
        self.report().map(|report| &*report.route)
    }

    #[getter]
    fn revision(&self) -> u64 {
        self.report().map_or(0, |report| report.revision)
    }

    #[getter]
    fn peer_id(&self) -> Option<&str> {
        self.report().and_then(|report| report.peer.as_deref())
    }

    /// The next piece of the body: bytes, or None at its end.
    fn read(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        guard(py, || self.reader(py)?.read(py, queue))
    }

    /// All the rest of the body.
    fn read_all(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        guard(py, || self.reader(py)?.read_all(py, queue))
    }

    /// Gives the connection back.
    fn close(&self) {
        if let Some(reader) = self.reader.get() {
            reader.close();
        }
    }
}

/// As WSGI and ASGI write it, after `HTTP/`.
pub fn version_text(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
