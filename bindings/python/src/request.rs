//! A request as Python's client writes it.
//!
//! Decides: nothing. Never: is sent twice; the mesh retries by its own rules.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Uri};
use mesh_core::outbound::CallOptions;
use mesh_core::{Body, Error, ErrorKind};
use pyo3::prelude::*;

use crate::body::header_map;
use crate::context::Context;
use crate::errors::to_python;
use crate::exchange::body_of;
use crate::fork::Owned;

/// A request that was not sent yet.
#[pyclass(frozen, module = "mesh._native")]
pub struct Request {
    request: Owned<Mutex<Option<http::Request<Body>>>>,
}

#[pymethods]
impl Request {
    #[new]
    fn new(
        py: Python<'_>,
        target: (&str, &str),
        headers: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        body: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (method, url) = target;
        let bad = |message: String| to_python(py, &Error::new(ErrorKind::BadRequest, message));
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad(format!("{method:?} is not a method")))?;
        let uri: Uri = url.parse().map_err(|error| bad(format!("{url:?} is not a URL: {error}")))?;
        if uri.authority().is_none() || uri.scheme().is_none() {
            return Err(bad(format!("{url:?} names no service; write http://service/path")));
        }
        let headers = header_map(py, &headers)?;
        let mut request = http::Request::new(body_of(py, body)?);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(Self { request: Owned::new(Mutex::new(Some(request))) })
    }

    /// Bounds the request, and says whether it may be sent twice and which inbound call it belongs to.
    #[pyo3(signature = (timeout, idempotent, detached, parent))]
    fn options(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        idempotent: Option<bool>,
        detached: bool,
        parent: Option<&Context>,
    ) -> PyResult<()> {
        let bad = |_| to_python(py, &Error::new(ErrorKind::BadRequest, "the timeout is not a number of seconds"));
        let timeout = timeout.map(Duration::try_from_secs_f64).transpose().map_err(bad)?;
        let slot = self.request.require(py)?;
        if let Some(request) = slot.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            request.extensions_mut().insert(CallOptions { timeout, idempotent, detached, ..CallOptions::default() });
            if let Some(parent) = parent {
                request.extensions_mut().insert(Arc::clone(&parent.inner));
            }
        }
        Ok(())
    }
}

impl Request {
    /// The request, once.
    pub fn take(&self, py: Python<'_>) -> PyResult<http::Request<Body>> {
        let slot = self.request.require(py)?;
        let request = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        request.ok_or_else(|| to_python(py, &Error::new(ErrorKind::BadRequest, "this request was sent already")))
    }
}
