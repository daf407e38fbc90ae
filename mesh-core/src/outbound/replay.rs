//! A request body that can be sent again.
//!
//! Decides: how much of a streamed body is kept, lazily, while it is being sent. Never: reads ahead
//! of the peer, or buffers a body that will not fit.
//! Invariant: each attempt sees the same bytes from the first on, or the body is not replayable.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::Body;
use crate::error::BoxError;

/// The body of one logical request, from which every attempt draws its own.
pub struct Replay {
    kind: Kind,
    sent: Arc<AtomicU64>,
}

enum Kind {
    Buffered(Bytes),
    Streamed(Arc<std::sync::Mutex<Stream>>),
}

struct Stream {
    source: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    cap: usize,
    /// How long the whole body is, if that is known.
    length: Option<u64>,
    trailers: Option<http::HeaderMap>,
    is_ended: bool,
    is_lost: bool,
    /// Only the latest attempt may read on.
    attempt: u32,
}

impl Replay {
    /// Keeps up to `cap` bytes of a streamed body.
    pub fn new(body: Body, cap: usize) -> Self {
        let kind = match body.as_buffered() {
            Some(bytes) => Kind::Buffered(bytes),
            None => Kind::Streamed(Arc::new(std::sync::Mutex::new(Stream {
                length: body.size_hint().exact(),
                source: body,
                kept: Vec::new(),
                kept_bytes: 0,
                cap,
                trailers: None,
                is_ended: false,
                is_lost: false,
                attempt: 0,
            }))),
        };
        Self { kind, sent: Arc::default() }
    }

    /// The body for the next attempt; earlier ones stop reading.
    pub fn attempt(&self) -> Body {
        match &self.kind {
            Kind::Buffered(bytes) => {
                self.sent.store(bytes.len() as u64, Ordering::Relaxed);
                bytes.clone().into()
            }
            Kind::Streamed(stream) => {
                let mut inner = lock(stream);
                inner.attempt += 1;
                let attempt = inner.attempt;
                drop(inner);
                Body::new(Attempt {
                    stream: Arc::clone(stream),
                    attempt,
                    position: 0,
                    sent: Arc::clone(&self.sent),
                    trailers_sent: false,
                })
            }
        }
    }

    /// Whether a further attempt can send the same bytes.
    pub fn is_replayable(&self) -> bool {
        match &self.kind {
            Kind::Buffered(_) => true,
            Kind::Streamed(stream) => !lock(stream).is_lost,
        }
    }

    /// Whether several attempts can send it at the same time: it is held in memory.
    pub fn is_shareable(&self) -> bool {
        matches!(self.kind, Kind::Buffered(_))
    }

    /// The whole body, if it is held: in memory from the start, or sent to its end and kept.
    pub fn whole(&self) -> Option<Bytes> {
        let stream = match &self.kind {
            Kind::Buffered(bytes) => return Some(bytes.clone()),
            Kind::Streamed(stream) => lock(stream),
        };
        let kept = stream.kept_bytes as u64;
        let is_ended = stream.is_ended || stream.length == Some(kept);
        (is_ended && !stream.is_lost).then(|| stream.kept.concat().into())
    }

    /// The same body for an attempt beside this one. A streamed one is shared, so that the latest attempt
    /// takes it over.
    #[must_use]
    pub fn copy(&self) -> Self {
        let kind = match &self.kind {
            Kind::Buffered(bytes) => Kind::Buffered(bytes.clone()),
            Kind::Streamed(stream) => Kind::Streamed(Arc::clone(stream)),
        };
        Self { kind, sent: Arc::clone(&self.sent) }
    }

    /// Tells, also when the call is over, whether the body was read to its end.
    pub(crate) fn watch(&self) -> Watch {
        match &self.kind {
            Kind::Buffered(_) => Watch(None),
            Kind::Streamed(stream) => Watch(Some((Arc::clone(stream), Arc::clone(&self.sent)))),
        }
    }

    /// Counts bytes of the body as attempts send them, each byte once.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }
}

/// See [`Replay::watch`].
pub(crate) struct Watch(Option<(Arc<std::sync::Mutex<Stream>>, Arc<AtomicU64>)>);

impl Watch {
    /// Whether nothing of the body is left to be sent. With a known length nobody asks for an end.
    pub(crate) fn is_ended(&self) -> bool {
        let Some((stream, sent)) = &self.0 else { return true };
        let stream = lock(stream);
        stream.is_ended || stream.length.is_some_and(|length| sent.load(Ordering::Relaxed) >= length)
    }
}

struct Attempt {
    stream: Arc<std::sync::Mutex<Stream>>,
    attempt: u32,
    position: usize,
    sent: Arc<AtomicU64>,
    trailers_sent: bool,
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut stream = lock(&this.stream);
        if stream.attempt != this.attempt {
            return Poll::Ready(Some(Err("a later attempt took over this body".into())));
        }
        if let Some(chunk) = stream.kept.get(this.position).filter(|_| !stream.is_lost) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if stream.is_ended {
            let trailers = stream.trailers.clone().filter(|_| !std::mem::replace(&mut this.trailers_sent, true));
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match std::task::ready!(Pin::new(&mut stream.source).poll_frame(cx)) {
            None => {
                stream.is_ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                stream.is_lost = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
                    stream.keep(data);
                    this.position = stream.kept.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    stream.trailers = Some(trailers.clone());
                    stream.is_ended = true;
                    this.trailers_sent = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let stream = lock(&self.stream);
        stream.kept.is_empty() && !stream.is_lost && stream.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let stream = lock(&self.stream);
        if stream.is_lost {
            return SizeHint::default();
        }
        let kept =
            stream.kept[self.position.min(stream.kept.len())..].iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let rest = if stream.is_ended { Some(0) } else { stream.source.size_hint().exact() };
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(kept + rest))
    }
}

impl Stream {
    fn keep(&mut self, data: &Bytes) {
        self.kept_bytes += data.len();
        if self.kept_bytes > self.cap || self.is_lost {
            self.is_lost = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}

fn lock(stream: &std::sync::Mutex<Stream>) -> std::sync::MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn streamed(chunks: &[&'static str]) -> Body {
        let chunks: Vec<Result<Frame<Bytes>, BoxError>> =
            chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
        Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(chunks)))
    }

    #[tokio::test]
    async fn a_second_attempt_sees_what_the_first_read_and_then_the_rest() {
        let replay = Replay::new(streamed(&["ab", "cd", "ef"]), 64);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        first.frame().await.unwrap().unwrap();
        assert_eq!(replay.attempt().collect_up_to(64).await.unwrap(), "abcdef");
        assert!(first.frame().await.unwrap().is_err(), "the earlier attempt may not read on");
        assert!(replay.is_replayable());
        assert_eq!(replay.counter().load(Ordering::Relaxed), 6);
    }

    /// Any number of attempts begin, read some of it, and are left; then one reads to the end.
    #[tokio::test]
    async fn o11_the_last_attempt_sends_the_same_bytes_in_every_interleaving() {
        const CHUNKS: [&str; 6] = ["alpha ", "beta ", "gamma ", "delta ", "epsilon ", "zeta"];
        for seed in 0..1000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let chunks = &CHUNKS[..rng.usize(0..=CHUNKS.len())];
            let replay = Replay::new(streamed(chunks), 1 << 10);
            for _ in 0..rng.usize(0..4) {
                let mut attempt = replay.attempt();
                for _ in 0..rng.usize(0..=CHUNKS.len()) {
                    let Some(frame) = attempt.frame().await else { break };
                    frame.unwrap();
                }
            }
            let sent = replay.attempt().collect_up_to(1 << 10).await.unwrap();
            assert_eq!(sent, chunks.concat(), "seed {seed}");
            assert_eq!(replay.counter().load(Ordering::Relaxed), sent.len() as u64, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_cap_is_sent_whole_but_not_replayable() {
        let replay = Replay::new(streamed(&["abcd", "efgh"]), 6);
        assert_eq!(replay.attempt().collect_up_to(64).await.unwrap(), "abcdefgh");
        assert!(!replay.is_replayable());
    }

    #[tokio::test]
    async fn the_whole_body_is_known_once_it_was_sent_and_only_if_it_was_kept() {
        assert_eq!(Replay::new("hello".into(), 0).whole().unwrap(), "hello");
        for (cap, expected) in [(8, Some("abcdefgh")), (6, None)] {
            let replay = Replay::new(streamed(&["abcd", "efgh"]), cap);
            assert_eq!(replay.whole(), None);
            replay.attempt().collect_up_to(64).await.unwrap();
            assert_eq!(replay.whole().as_deref(), expected.map(str::as_bytes));
        }
    }

    #[tokio::test]
    async fn a_buffered_body_keeps_its_length() {
        let replay = Replay::new("hello".into(), 0);
        assert_eq!(replay.attempt().size_hint().exact(), Some(5));
        assert_eq!(replay.attempt().collect_up_to(64).await.unwrap(), "hello");
    }
}
