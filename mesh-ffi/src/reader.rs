//! The reading end of a body: one chunk when asked.
//!
//! Decides: nothing. Never: reads ahead unless told to, so a reader that stops asking stops the peer.
//! Invariant: after the end, or after a failure, every further read says the same.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use mesh_core::Body;

use crate::engine::Engine;
use crate::failure::Failure;
use crate::headers::Packed;

/// A body being read. Shared by a handle and the reads in flight.
pub struct Reader {
    engine: Arc<Engine>,
    state: Mutex<State>,
    trailers: OnceLock<Packed>,
    cancel: CancellationToken,
}

struct State {
    ahead: VecDeque<Bytes>,
    source: Source,
}

enum Source {
    Open(Body),
    Ended,
    Failed(Failure),
}

impl Reader {
    /// A reader over `body`; `cancel` ends it from any thread.
    pub fn new(engine: Arc<Engine>, body: Body, cancel: CancellationToken) -> Self {
        let state = State { ahead: VecDeque::new(), source: Source::Open(body) };
        Self { engine, state: Mutex::new(state), trailers: OnceLock::new(), cancel }
    }

    /// The next chunk; `None` at the end.
    pub async fn next(&self) -> Result<Option<Bytes>, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::cancelled("the body was cancelled")),
            chunk = self.pull() => chunk,
        }
    }

    /// Reads up to about `limit` bytes before anyone asks. The whole body, if that was all of it. A body that
    /// fails meanwhile says so to who reads it; only a cancelled one fails here.
    pub async fn read_ahead(&self, limit: usize) -> Result<Option<Bytes>, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::cancelled("the body was cancelled")),
            whole = self.fill(limit) => Ok(whole),
        }
    }

    /// Ends reads in flight and to come.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Trailers that are known before the end was read.
    pub fn foretell(&self, trailers: Packed) {
        let _ = self.trailers.set(trailers);
    }

    /// Trailers, once the end was read.
    pub fn trailers(&self) -> Option<&Packed> {
        self.trailers.get()
    }

    async fn fill(&self, limit: usize) -> Option<Bytes> {
        let mut state = self.state.lock().await;
        let mut size = 0;
        while size < limit {
            match state.source.frame(&self.trailers).await {
                Ok(Some(chunk)) => {
                    size += chunk.len();
                    state.ahead.push_back(chunk);
                }
                Ok(None) => return Some(joined(&state.ahead)),
                Err(_) => return None,
            }
        }
        None
    }

    async fn pull(&self) -> Result<Option<Bytes>, Failure> {
        let mut state = self.state.lock().await;
        match state.ahead.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => state.source.frame(&self.trailers).await,
        }
    }
}

impl Source {
    async fn frame(&mut self, trailers: &OnceLock<Packed>) -> Result<Option<Bytes>, Failure> {
        loop {
            let body = match self {
                Self::Open(body) => body,
                Self::Ended => return Ok(None),
                Self::Failed(failure) => return Err(failure.clone()),
            };
            let frame = match body.frame().await {
                None => {
                    *self = Self::Ended;
                    continue;
                }
                Some(Err(error)) => {
                    *self = Self::Failed(Failure::of_body(&error));
                    continue;
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(Some(chunk)),
                Err(other) => {
                    if let Ok(found) = other.into_trailers() {
                        let _ = trailers.set(Packed::new(&found));
                    }
                }
            }
        }
    }
}

impl Drop for Reader {
    /// What ends with a body (a permit, a timer, a connection) expects the runtime around it.
    fn drop(&mut self) {
        if let Source::Open(body) = std::mem::replace(&mut self.state.get_mut().source, Source::Ended) {
            let runtime = self.engine.running();
            let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
            drop(body);
        }
    }
}

fn joined(chunks: &VecDeque<Bytes>) -> Bytes {
    match chunks.len() {
        0 => Bytes::new(),
        1 => chunks[0].clone(),
        _ => {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        }
    }
}
