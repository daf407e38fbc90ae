//! Errors on their way to Python.
//!
//! Decides: nothing; `mesh._errors` maps the kind to a class. Never: parses message text.

use mesh_core::config::diagnostic::Diagnostic;
use mesh_core::{ConfigError, Error, Sent};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::leaving::Inside;

/// The exception for `error`.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    made(py, error).unwrap_or_else(|failed| failed)
}

/// The exception for a refused configuration: all its diagnostics.
pub fn config_to_python(py: Python<'_>, error: &ConfigError) -> PyErr {
    let _inside = Inside::enter(py);
    let make = || -> PyResult<PyErr> {
        let items = diagnostics(py, error.diagnostics())?;
        let exception = module(py)?.getattr("config_error")?.call1((error.to_string(), items))?;
        Ok(PyErr::from_value(exception))
    };
    make().unwrap_or_else(|failed| failed)
}

/// `mesh.Diagnostic` objects.
pub fn diagnostics<'py>(py: Python<'py>, items: &[Diagnostic]) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let class = module(py)?.getattr("Diagnostic")?;
    items
        .iter()
        .map(|item| {
            let fields = PyDict::new(py);
            fields.set_item("severity", format!("{:?}", item.severity).to_lowercase())?;
            fields.set_item("file", &item.file)?;
            fields.set_item("line", item.line)?;
            fields.set_item("column", item.column)?;
            fields.set_item("path", &item.path)?;
            fields.set_item("message", &item.message)?;
            fields.set_item("expected", &item.expected)?;
            fields.set_item("hint", &item.hint)?;
            fields.set_item("text", item.to_string())?;
            class.call((), Some(&fields))
        })
        .collect()
}

fn made(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let _inside = Inside::enter(py);
    let place = error.place();
    let fields = PyDict::new(py);
    fields.set_item("sent", sent_name(error.sent()))?;
    fields.set_item("attempts", place.attempts)?;
    fields.set_item("route", &place.route)?;
    fields.set_item("cluster", &place.cluster)?;
    fields.set_item("endpoint", &place.endpoint)?;
    fields.set_item("retry_after", place.retry_after.map(|after| after.as_secs_f64()))?;
    let exception = module(py)?.getattr("make")?.call1((error.kind().as_str(), error.to_string(), fields))?;
    Ok(PyErr::from_value(exception))
}

fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || Ok::<_, PyErr>(py.import("mesh._errors")?.into_any().unbind()))?;
    Ok(module.bind(py))
}

/// Runs the body of an entry point; a panic becomes an `internal` error instead of a `PanicException`.
pub fn guard<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(_) => {
            let error =
                Error::new(mesh_core::ErrorKind::Internal, "a panic was caught; this is a defect of the library");
            Err(made(py, &error).unwrap_or_else(|_| PyRuntimeError::new_err("a panic was caught")))
        }
    }
}

const fn sent_name(sent: Sent) -> &'static str {
    match sent {
        Sent::Never => "never",
        Sent::Unprocessed => "unprocessed",
        Sent::Maybe => "maybe",
    }
}
