//! Bodies, in both directions.
//!
//! Decides: nothing. Never: reads ahead of Python, or lets Python write ahead of the peer: that is the
//! back-pressure. Invariant: a body that was not finished is aborted, so a peer never takes half for whole.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use mesh_core::error::BoxError;
use mesh_core::{Body, Error, ErrorKind, Sent};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::errors::to_python;
use crate::fork::Owned;
use crate::op::{Op, submit};
use crate::outcome::Outcome;
use crate::queue::Queue;

/// Reads a body piece by piece.
pub struct Reader {
    slot: Arc<Slot>,
    runtime: Handle,
}

struct Slot {
    body: tokio::sync::Mutex<Option<Body>>,
    trailers: Mutex<Option<HeaderMap>>,
}

impl Reader {
    /// Nothing is read before `read`.
    pub fn new(body: Body, runtime: Handle) -> Self {
        let slot = Slot { body: tokio::sync::Mutex::new(Some(body)), trailers: Mutex::new(None) };
        Self { slot: Arc::new(slot), runtime }
    }

    /// The next piece.
    pub fn read(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        let slot = Arc::clone(&self.slot);
        submit(py, &self.runtime, queue, async move {
            match slot.next().await {
                Ok(Some(bytes)) => Outcome::Chunk(bytes),
                Ok(None) => Outcome::End,
                Err(error) => Outcome::Failed(error),
            }
        })
    }

    /// All the rest.
    pub fn read_all(&self, py: Python<'_>, queue: &Queue) -> PyResult<Op> {
        let slot = Arc::clone(&self.slot);
        submit(py, &self.runtime, queue, async move {
            let mut chunks = Vec::new();
            loop {
                match slot.next().await {
                    Ok(Some(bytes)) => chunks.push(bytes),
                    Ok(None) => return Outcome::Chunks(chunks),
                    Err(error) => return Outcome::Failed(error),
                }
            }
        })
    }

    /// Gives the connection back; what was not read is not read any more.
    pub fn close(&self) {
        let _entered = self.runtime.enter();
        if let Ok(mut body) = self.slot.body.try_lock() {
            body.take();
            return;
        }
        let slot = Arc::clone(&self.slot);
        self.runtime.spawn(async move { slot.body.lock().await.take() });
    }

    /// The trailers, once the body has ended.
    pub fn trailers(&self) -> Option<HeaderMap> {
        lock(&self.slot.trailers).clone()
    }

    /// The runtime that carries the body.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.close();
    }
}

impl Slot {
    async fn next(&self) -> Result<Option<Bytes>, Error> {
        let mut guard = self.body.lock().await;
        loop {
            let Some(body) = guard.as_mut() else { return Ok(None) };
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(frame) => *lock(&self.trailers) = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    guard.take();
                    return Err(body_error(error));
                }
                None => {
                    guard.take();
                    return Ok(None);
                }
            }
        }
    }
}

fn body_error(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::new(ErrorKind::Reset, format!("the body ended early: {error}"))
            .with_sent(Sent::Maybe)
            .with_source(error),
    }
}

/// A body that Python writes.
#[pyclass(frozen, module = "mesh._native")]
pub struct BodyPipe {
    pipe: Owned<Pipe>,
}

struct Pipe {
    sender: Mutex<Option<Frames>>,
    body: Mutex<Option<Body>>,
    runtime: Handle,
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

impl BodyPipe {
    /// `length`, when known, becomes `content-length`.
    pub fn open(runtime: Handle, length: Option<u64>) -> Self {
        let (sender, body) = Body::channel(WAITING_FRAMES, length);
        Self { pipe: Owned::new(Pipe { sender: Mutex::new(Some(sender)), body: Mutex::new(Some(body)), runtime }) }
    }

    /// The reading end; it can be taken once.
    pub fn take_body(&self, py: Python<'_>) -> PyResult<Body> {
        let body = lock(&self.pipe(py)?.body).take();
        body.ok_or_else(|| to_python(py, &Error::new(ErrorKind::BadRequest, "this body is in use already")))
    }

    fn pipe(&self, py: Python<'_>) -> PyResult<&Pipe> {
        self.pipe.require(py)
    }
}

#[pymethods]
impl BodyPipe {
    /// Completes when there is room for the next piece.
    fn send(&self, py: Python<'_>, queue: &Queue, data: &Bound<'_, PyBytes>) -> PyResult<Op> {
        let pipe = self.pipe(py)?;
        let sender = lock(&pipe.sender).clone();
        let frame = Frame::data(Bytes::copy_from_slice(data.as_bytes()));
        submit(py, &pipe.runtime, queue, async move {
            match sender {
                Some(sender) => sent(sender.send(Ok(frame)).await.is_ok()),
                None => sent(false),
            }
        })
    }

    /// The body is complete.
    #[pyo3(signature = (queue, trailers=None))]
    fn finish(
        &self,
        py: Python<'_>,
        queue: &Queue,
        trailers: Option<Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>>,
    ) -> PyResult<Op> {
        let pipe = self.pipe(py)?;
        let trailers = trailers.map(|pairs| header_map(py, &pairs)).transpose()?;
        let sender = lock(&pipe.sender).take();
        submit(py, &pipe.runtime, queue, async move {
            match (sender, trailers) {
                (Some(sender), Some(trailers)) => sent(sender.send(Ok(Frame::trailers(trailers))).await.is_ok()),
                _ => Outcome::Done,
            }
        })
    }

    /// The body will never be complete: the peer sees a reset.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.pipe(py)?.abort();
        Ok(())
    }
}

impl Pipe {
    fn abort(&self) {
        let Some(sender) = lock(&self.sender).take() else { return };
        if let Err(mpsc::error::TrySendError::Full(unsent)) = sender.try_send(Err("the sender gave up".into())) {
            self.runtime.spawn(async move { sender.send(unsent).await.is_ok() });
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Header pairs from Python: text as ISO-8859-1, or bytes.
pub fn header_map(py: Python<'_>, pairs: &[(Bound<'_, PyAny>, Bound<'_, PyAny>)]) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let (name, value) = (octets(name)?, octets(value)?);
        let parsed = HeaderName::from_bytes(&name).ok().zip(HeaderValue::from_bytes(&value).ok());
        let (key, value) = parsed.ok_or_else(|| {
            let message =
                format!("header {:?} has characters that HTTP does not allow", String::from_utf8_lossy(&name));
            to_python(py, &Error::new(ErrorKind::BadRequest, message))
        })?;
        headers.append(key, value);
    }
    Ok(headers)
}

fn octets(text: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = text.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let text = text.cast::<PyString>().map_err(|_| PyTypeError::new_err("a header is a pair of str or bytes"))?;
    let text = text.to_cow()?;
    if text.is_ascii() {
        return Ok(text.as_bytes().to_vec());
    }
    text.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<_, _>>().map_err(|_| {
        pyo3::exceptions::PyValueError::new_err("a header value outside ISO-8859-1 must be passed as bytes")
    })
}

fn sent(is_sent: bool) -> Outcome {
    if is_sent {
        return Outcome::Done;
    }
    let message = "the peer stopped reading the body";
    Outcome::Failed(Error::new(ErrorKind::ConnectionClosed, message).with_sent(Sent::Maybe))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces that wait between Python and the connection: enough to keep both busy, no more.
const WAITING_FRAMES: usize = 4;
