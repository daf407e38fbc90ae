//! A running listener.
//!
//! Decides: nothing. Never: stops when dropped; the mesh's drain or close ends it.

use std::sync::Arc;

use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::fork::Owned;
use crate::op::{Op, submit};
use crate::outcome::Outcome;
use crate::queue::Queue;

/// Where it listens, and when it ends.
#[pyclass(frozen, module = "mesh._native")]
pub struct Listening {
    inner: Owned<(Arc<mesh_core::Listening>, Handle)>,
}

impl Listening {
    /// Keeps the listener in sight.
    pub fn new(listening: mesh_core::Listening, runtime: Handle) -> Self {
        Self { inner: Owned::new((Arc::new(listening), runtime)) }
    }
}

#[pymethods]
impl Listening {
    /// (host, port) it is bound to.
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<(String, u16)> {
        let (listening, _) = self.inner.require(py)?;
        let address = listening.local_addr();
        Ok((address.ip().to_string(), address.port()))
    }

    /// Completes when the listener has ended.
    fn closed(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        let (listening, runtime) = self.inner.require(py)?;
        let listening = Arc::clone(listening);
        submit(py, runtime, queue, async move {
            listening.closed().await;
            Outcome::Done
        })
    }
}
