//! `mesh_body`: the writing end of a streamed body, of a request or of an answer.
//!
//! Decides: nothing. Never: buffers more than a few chunks; a writer waits for its reader.
//! Invariant: chunks leave in the order they were written, and a body that is freed before its end
//! reaches the peer as broken off, never as complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use mesh_core::error::BoxError;
use mesh_core::{Body, Error, ErrorKind, Sent};

use crate::code::mesh_code;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_BODY};
use crate::headers;
use crate::text::mesh_bytes;
use crate::wait::block_on;

/// The writing end of a streamed body.
pub struct mesh_body {
    engine: Arc<Engine>,
    lane: Arc<Mutex<Lane>>,
    ended: Arc<AtomicBool>,
}

impl Handle for mesh_body {
    const KIND: i32 = MESH_HANDLE_BODY;
    const NAME: &'static str = "body";
}

/// Who holds the lane may write; its lock is what keeps chunks in order.
pub type Turn = OwnedMutexGuard<Lane>;

/// The open channel, until the end.
pub struct Lane(Option<mpsc::Sender<Result<Frame<Bytes>, BoxError>>>);

impl mesh_body {
    /// Both ends. `length` < 0 is an unknown length.
    pub fn pair(engine: Arc<Engine>, length: i64) -> (Self, Body) {
        let (sender, body) = Body::channel(CHUNKS, u64::try_from(length).ok());
        let lane = Arc::new(Mutex::new(Lane(Some(sender))));
        (Self { engine, lane, ended: Arc::default() }, body)
    }

    /// The right to write now, or why not.
    pub fn turn(&self) -> Result<Turn, Failure> {
        self.check_open()?;
        Arc::clone(&self.lane).try_lock_owned().map_err(|_| Failure::busy("a write to this body is in flight"))
    }

    /// Ends the body after the write in flight, if any. Given up before it is done, the body has not ended.
    pub fn end(
        &self,
        trailers: HeaderMap,
    ) -> Result<impl Future<Output = Result<(), Failure>> + Send + use<>, Failure> {
        self.check_open()?;
        self.ended.store(true, Ordering::Release);
        let (lane, ending) = (Arc::clone(&self.lane), Ending(Some(Arc::clone(&self.ended))));
        Ok(async move {
            let mut lane = lane.lock_owned().await;
            let outcome = if trailers.is_empty() { Ok(()) } else { lane.send(Frame::trailers(trailers)).await };
            lane.0 = None;
            ending.done();
            outcome
        })
    }

    /// The mesh it belongs to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn check_open(&self) -> Result<(), Failure> {
        self.engine.check_fork()?;
        if self.ended.load(Ordering::Acquire) { Err(Failure::invalid("the body has ended")) } else { Ok(()) }
    }
}

impl Lane {
    /// Sends without waiting; gives the frame back when the reader is behind.
    pub fn try_send(&self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Failure> {
        let Some(sender) = &self.0 else { return Err(unwanted()) };
        match sender.try_send(Ok(frame)) {
            Ok(()) => Ok(None),
            Err(mpsc::error::TrySendError::Full(frame)) => Ok(frame.ok()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(unwanted()),
        }
    }

    /// Sends when the reader has room.
    pub async fn send(&self, frame: Frame<Bytes>) -> Result<(), Failure> {
        let Some(sender) = &self.0 else { return Err(unwanted()) };
        sender.send(Ok(frame)).await.map_err(|_| unwanted())
    }
}

/// An end under way. A signal may interrupt the wait for it: then it can be asked for again, or the body be broken off.
struct Ending(Option<Arc<AtomicBool>>);

impl Ending {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(ended) = &self.0 {
            ended.store(false, Ordering::Release);
        }
    }
}

impl Drop for mesh_body {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let Some(runtime) = self.engine.running() else { return };
        let lane = Arc::clone(&self.lane);
        runtime.spawn(async move {
            if let Some(sender) = lane.lock_owned().await.0.take() {
                let _ = sender.send(Err(broken_off().into())).await;
            }
        });
    }
}

/// Writes a chunk (copied) and waits while the reader is behind. `MESH_E_CANCELLED`: the other side no
/// longer wants the body; the call's own outcome says why.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_write(
    body: *const mesh_body,
    chunk: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_body_write, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes, each checked for NULL.
        let (body, chunk) = unsafe { (handles::lend(body)?, chunk.read("chunk")?) };
        let turn = body.turn()?;
        if chunk.is_empty() {
            return Ok(());
        }
        match turn.try_send(Frame::data(Bytes::copy_from_slice(chunk)))? {
            None => Ok(()),
            Some(frame) => block_on(&body.engine, async move { turn.send(frame).await }),
        }
    })
}

/// Ends the body, with packed `trailers` or an empty block. The handle is still to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_end(
    body: *const mesh_body,
    trailers: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_body_end, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes, each checked for NULL.
        let (body, trailers) = unsafe { (handles::lend(body)?, trailers.read("trailers")?) };
        let mut map = HeaderMap::new();
        headers::unpack_into(&mut map, trailers)?;
        let end = body.end(map)?;
        block_on(&body.engine, end)
    })
}

/// Frees it. Before the end, this breaks the body off: the peer sees an aborted transfer. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_body_free(body: *mut mesh_body) {
    // SAFETY: rule 1: NULL or a handle that is freed once.
    guard!(mesh_body_free, or(), { drop(unsafe { handles::take(body) }) });
}

fn unwanted() -> Failure {
    Failure::cancelled("the other side no longer wants the body")
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Cancelled, "the writer gave up before the end of the body").with_sent(Sent::Maybe)
}

/// Chunks that wait between writer and reader: enough to overlap both, little enough to bound memory.
const CHUNKS: usize = 4;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use mesh_core::Mesh;

    use super::*;

    #[test]
    fn a_body_whose_end_was_given_up_and_that_is_freed_is_broken_off() {
        let mesh = Mesh::from_yaml("version: 1\nnode: { service: test }\n", "test").unwrap();
        let engine = Arc::new(Engine::new(mesh, false));
        let runtime = engine.runtime().unwrap();
        let (writer, mut body) = mesh_body::pair(Arc::clone(&engine), -1);
        for _ in 0..CHUNKS {
            let frame = Frame::data(Bytes::from_static(b"x"));
            assert!(writer.turn().unwrap().try_send(frame).unwrap().is_none());
        }
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("1"))]);
        // There is no room for the trailers, and the wait for it is interrupted.
        assert!(writer.end(trailers).unwrap().now_or_never().is_none());
        drop(writer);
        for _ in 0..CHUNKS {
            assert!(runtime.block_on(body.frame()).unwrap().is_ok());
        }
        assert!(runtime.block_on(body.frame()).unwrap().is_err());
    }
}
