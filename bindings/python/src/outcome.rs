//! What an operation can end with, as plain Rust values.
//!
//! Decides: how each reads in Python. Never: is converted anywhere but on the thread that waits for it.

use bytes::Bytes;
use http::{HeaderMap, Response};
use mesh_core::inbound::own_server;
use mesh_core::{Body, Error};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::Handle;

use crate::errors::to_python;
use crate::own_server::{Answer, Ticket, Wanted};
use crate::response::Response as PyResponse;

/// The end of one operation.
pub enum Outcome {
    /// It is done; there is nothing to say.
    Done,
    /// A response head; the body is still on its way.
    Response(Box<Response<Body>>, Handle),
    /// A request of the application's own server is the application's to answer.
    Admitted(Box<own_server::Ticket>),
    /// The mesh has answered it.
    Answered(Box<own_server::Answer>),
    /// It goes on once its body is there.
    Wanted(Box<own_server::Wanted>),
    /// The next piece of a body.
    Chunk(Bytes),
    /// All the rest of a body.
    Chunks(Vec<Bytes>),
    /// The body has ended.
    End,
    /// It failed.
    Failed(Error),
}

impl Outcome {
    /// The value, or the exception to raise.
    pub fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Done | Self::End => Ok(py.None().into_bound(py)),
            Self::Response(response, runtime) => PyResponse::new(*response, runtime).into_bound_py_any(py),
            Self::Admitted(ticket) => Ticket::new(*ticket).into_bound_py_any(py),
            Self::Answered(answer) => Answer::new(*answer).into_bound_py_any(py),
            Self::Wanted(wanted) => Wanted::new(*wanted).into_bound_py_any(py),
            Self::Chunk(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
            Self::Chunks(chunks) => joined(py, &chunks),
            Self::Failed(error) => Err(to_python(py, &error)),
        }
    }
}

fn joined<'py>(py: Python<'py>, chunks: &[Bytes]) -> PyResult<Bound<'py, PyAny>> {
    if let [only] = chunks {
        return Ok(PyBytes::new(py, only).into_any());
    }
    let length = chunks.iter().map(Bytes::len).sum();
    let all = PyBytes::new_with(py, length, |buffer| {
        let mut rest = buffer;
        for chunk in chunks {
            let (head, tail) = rest.split_at_mut(chunk.len());
            head.copy_from_slice(chunk);
            rest = tail;
        }
        Ok(())
    })?;
    Ok(all.into_any())
}

/// Header pairs as Python sees them: text by ISO-8859-1, as WSGI and HTTP/1.1 have it.
pub fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect()
}
