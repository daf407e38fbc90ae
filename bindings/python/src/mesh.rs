//! The native half of `mesh.Mesh`.
//!
//! Decides: nothing; it converts. Never: starts a thread before first use. The Python half makes a new one
//! after a fork.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use mesh_core::ServiceClient;
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::body::BodyPipe;
use crate::errors::{config_to_python, guard, to_python};
use crate::fork::Owned;
use crate::guard::Guard;
use crate::inbox::{Inbox, Intake};
use crate::listening::Listening;
use crate::op::{Op, submit};
use crate::outcome::Outcome;
use crate::own_server::InboundCheck;
use crate::queue::Queue;
use crate::request::Request;
use crate::signal;

/// A configured mesh of this process.
#[pyclass(frozen, module = "mesh._native")]
pub struct Mesh {
    inner: Owned<Parts>,
}

struct Parts {
    mesh: mesh_core::Mesh,
    client: ServiceClient,
    is_started: OnceLock<()>,
}

#[pymethods]
impl Mesh {
    /// Reads and checks a file, which is then watched.
    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guard(py, || {
            let builder = mesh_core::Mesh::builder().on_thread_start(signal::block_on_thread_start());
            let mesh = builder.from_file(path).map_err(|error| config_to_python(py, &error))?;
            Ok(Self::new(mesh))
        })
    }

    /// Checks a document given as text; `origin` names it in diagnostics.
    #[staticmethod]
    fn from_yaml(py: Python<'_>, text: &str, origin: &str) -> PyResult<Self> {
        guard(py, || {
            let builder = mesh_core::Mesh::builder().on_thread_start(signal::block_on_thread_start());
            let mesh = builder.from_yaml(text, origin).map_err(|error| config_to_python(py, &error))?;
            Ok(Self::new(mesh))
        })
    }

    /// Starts threads and connections; every use does.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        guard(py, || self.runtime(py).map(|_| ()))
    }

    /// Sends a request; completes with its response head.
    fn call(&self, py: Python<'_>, queue: &Queue, request: &Request) -> PyResult<Op> {
        guard(py, || {
            let runtime = self.runtime(py)?;
            let client = self.parts(py)?.client.clone();
            let request = request.take(py)?;
            let carrier = runtime.clone();
            submit(py, &runtime, queue, async move {
                match client.call(request).await {
                    Ok(response) => Outcome::Response(Box::new(response), carrier),
                    Err(error) => Outcome::Failed(error),
                }
            })
        })
    }

    /// A request body that is written piece by piece.
    #[pyo3(signature = (length=None))]
    fn pipe(&self, py: Python<'_>, length: Option<u64>) -> PyResult<BodyPipe> {
        guard(py, || Ok(BodyPipe::open(self.runtime(py)?, length)))
    }

    /// Serves `listener`: requests go to `inbox`. Blocks only for the bind.
    fn listen(&self, py: Python<'_>, listener: &str, inbox: &Inbox) -> PyResult<Listening> {
        guard(py, || {
            let runtime = self.runtime(py)?;
            let mesh = &self.parts(py)?.mesh;
            let intake = Intake { waiting: inbox.waiting(py)?.clone(), runtime: runtime.clone() };
            let bound = py.detach(|| runtime.block_on(mesh.listen(listener, intake)).map_err(Box::new));
            let listening = bound.map_err(|error| to_python(py, &error))?;
            Ok(Listening::new(listening, runtime))
        })
    }

    /// The inbound check of `listener`, for requests that the application's own server receives. Starts nothing.
    fn inbound_check(slf: Bound<'_, Self>, listener: &str) -> PyResult<InboundCheck> {
        let py = slf.py();
        guard(py, || {
            let check = slf.get().parts(py)?.mesh.inbound_check(listener).map_err(|error| to_python(py, &error))?;
            Ok(InboundCheck::new(slf.clone().unbind(), check))
        })
    }

    /// The guard called `name` in the configuration. Starts nothing.
    fn guard(&self, py: Python<'_>, name: &str) -> PyResult<Guard> {
        guard(py, || {
            let found = self.parts(py)?.mesh.guard(name).map_err(|error| to_python(py, &error))?;
            Ok(Guard::new(found))
        })
    }

    /// Says one thing about the load of this process; None takes it back.
    #[pyo3(signature = (name, value))]
    fn report_load(&self, py: Python<'_>, name: &str, value: Option<f64>) -> PyResult<()> {
        guard(py, || self.parts(py)?.mesh.load().set(name, value).map_err(|error| to_python(py, &error)))
    }

    /// Puts a new document in force, all or nothing.
    fn reload(&self, py: Python<'_>, text: &str, origin: &str) -> PyResult<u64> {
        guard(py, || {
            let parts = self.parts(py)?;
            py.detach(|| parts.mesh.reload(text, origin)).map_err(|error| config_to_python(py, &error))
        })
    }

    /// What a support engineer asks for, as JSON text.
    fn status(&self, py: Python<'_>) -> PyResult<String> {
        guard(py, || {
            let parts = self.parts(py)?;
            Ok(py.detach(|| parts.mesh.status().to_string()))
        })
    }

    /// All metrics in Prometheus' text format.
    fn metrics_text(&self, py: Python<'_>) -> PyResult<String> {
        guard(py, || {
            let parts = self.parts(py)?;
            Ok(py.detach(|| parts.mesh.metrics_text()))
        })
    }

    /// Says whether new requests are wanted.
    fn set_serving(&self, py: Python<'_>, serving: bool) -> PyResult<()> {
        guard(py, || {
            self.parts(py)?.mesh.set_serving(serving);
            Ok(())
        })
    }

    /// Lame duck for `grace` seconds; completes when it is over.
    fn drain(&self, py: Python<'_>, queue: &Queue, grace: f64) -> PyResult<Op> {
        guard(py, || {
            let mesh = self.parts(py)?.mesh.clone();
            let grace = seconds(grace);
            submit(py, &self.runtime(py)?, queue, async move {
                mesh.drain(grace).await;
                Outcome::Done
            })
        })
    }

    /// Ends everything; waits at most `timeout` seconds for the threads.
    fn close(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        guard(py, || {
            if let Some(parts) = self.inner.get() {
                py.detach(|| parts.mesh.close(seconds(timeout)));
            }
            Ok(())
        })
    }
}

impl Mesh {
    fn new(mesh: mesh_core::Mesh) -> Self {
        let client = mesh.client();
        Self { inner: Owned::new(Parts { mesh, client, is_started: OnceLock::new() }) }
    }

    fn parts(&self, py: Python<'_>) -> PyResult<&Parts> {
        self.inner.require(py)
    }

    /// Starts the mesh, once.
    pub fn runtime(&self, py: Python<'_>) -> PyResult<Handle> {
        let parts = self.parts(py)?;
        let started = match parts.is_started.get() {
            Some(()) => parts.mesh.runtime().map_err(Box::new),
            None => py.detach(|| signal::blocked(|| parts.mesh.runtime().map_err(Box::new))),
        };
        let handle = started.map_err(|error| to_python(py, &error))?;
        let _ = parts.is_started.set(());
        Ok(handle)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
