//! The call that is being served, handed from the inbound side to the outbound side.
//!
//! Decides: nothing; Python keeps it in a context variable and passes it back. Never: is looked up from the
//! mesh's threads.

use std::sync::Arc;
use std::time::Instant;

use mesh_core::CallContext;
use pyo3::prelude::*;

/// Trace, deadline and peer of an inbound call.
#[pyclass(frozen, module = "mesh._native")]
pub struct Context {
    /// What the mesh reads.
    pub inner: Arc<CallContext>,
}

#[pymethods]
impl Context {
    /// The W3C trace id: 32 hex digits.
    #[getter]
    fn trace_id(&self) -> String {
        self.inner.trace.trace_id.to_string()
    }

    /// The caller's SPIFFE ID, verified; None in plaintext.
    #[getter]
    fn peer_id(&self) -> Option<&str> {
        self.inner.peer.as_deref()
    }

    /// Seconds left until the caller gives up; None without a deadline.
    #[getter]
    fn remaining(&self) -> Option<f64> {
        self.inner.remaining(Instant::now()).map(|left| left.as_secs_f64())
    }
}
