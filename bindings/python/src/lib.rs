//! The native module of the Python package `mesh`.
//!
//! Decides: nothing: it converts between Python and mesh-core. Never: calls Python from the mesh's threads;
//! results wait in queues for a Python thread. Invariant: importing starts no thread.

use pyo3::prelude::*;

mod body;
mod context;
mod errors;
mod exchange;
mod fork;
mod guard;
mod inbox;
mod leaving;
mod listening;
mod mesh;
mod op;
mod outcome;
mod own_server;
mod queue;
mod request;
mod response;
mod signal;
mod wake;

/// Checks a file: all its diagnostics, warnings included.
#[pyfunction]
fn validate(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Vec<Bound<'_, PyAny>>> {
    errors::guard(py, || match mesh_core::Mesh::from_file(&path) {
        Err(refused) => errors::diagnostics(py, refused.diagnostics()),
        Ok(_) => {
            let text = std::fs::read_to_string(&path)?;
            let parsed = mesh_core::config::parse(&text, &path.display().to_string());
            errors::diagnostics(py, &parsed.map_or_else(|refused| refused, |parsed| parsed.warnings))
        }
    })
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    fork::watch();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<body::BodyPipe>()?;
    module.add_class::<context::Context>()?;
    module.add_class::<exchange::Exchange>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<guard::GuardCall>()?;
    module.add_class::<inbox::Inbox>()?;
    module.add_class::<listening::Listening>()?;
    module.add_class::<mesh::Mesh>()?;
    module.add_class::<op::Op>()?;
    module.add_class::<own_server::Answer>()?;
    module.add_class::<own_server::InboundCheck>()?;
    module.add_class::<own_server::Ticket>()?;
    module.add_class::<own_server::Wanted>()?;
    module.add_class::<queue::Queue>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<response::Response>()?;
    module.add_function(wrap_pyfunction!(leaving::leave, module)?)?;
    module.add_function(wrap_pyfunction!(guard::outcome_of, module)?)?;
    module.add_function(wrap_pyfunction!(validate, module)?)
}
