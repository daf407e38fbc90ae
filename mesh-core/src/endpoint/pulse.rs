//! What a connection's bytes tell of its peer: that it lives, what it allows, that it leaves.
//!
//! Decides: how long a peer has been silent. Never: changes or delays a byte.
//! Invariant: what the peer announced is known here before hyper has seen the same bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::connect::Io;
use super::frames::{FrameScanner, Heard};
use super::gate::Gate;
use crate::time::Clock;

/// Facts of a connection that change while it is open.
pub(super) struct Pulse {
    clock: Arc<dyn Clock>,
    base: Instant,
    /// Nanoseconds from `base` to the last byte received, or to the moment the connection became busy.
    heard_at: AtomicU64,
    received: AtomicU64,
    is_write_blocked: AtomicBool,
    max_streams: AtomicU32,
    has_settings: AtomicBool,
    is_leaving: AtomicBool,
    greeted: Notify,
    gate: Arc<Gate>,
}

impl Pulse {
    pub(super) fn new(clock: &Arc<dyn Clock>, gate: &Arc<Gate>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            base: clock.now(),
            heard_at: AtomicU64::new(0),
            received: AtomicU64::new(0),
            is_write_blocked: AtomicBool::new(false),
            max_streams: AtomicU32::new(u32::MAX),
            has_settings: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            greeted: Notify::new(),
            gate: Arc::clone(gate),
        })
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Whether the peer takes no more bytes at present.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.is_write_blocked.load(Ordering::Acquire)
    }

    /// Streams the peer allows at once; no limit until it says one.
    pub(super) fn max_streams(&self) -> u32 {
        self.max_streams.load(Ordering::Acquire)
    }

    /// Whether the peer announced that it takes no new stream.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Silence counts from here: before, nothing was asked.
    pub(super) fn became_busy(&self) {
        self.heard_at.fetch_max(self.elapsed(self.clock.now()), Ordering::AcqRel);
    }

    /// How long nothing has been heard.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.elapsed(now).saturating_sub(self.heard_at.load(Ordering::Acquire)))
    }

    /// Completes when the peer's first SETTINGS are here (gRPC waits for them too before it calls a connection ready).
    pub(super) async fn settings(&self) {
        let greeted = self.greeted.notified();
        if !self.has_settings.load(Ordering::Acquire) {
            greeted.await;
        }
    }

    fn elapsed(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_nanos() as u64
    }

    fn heard(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::AcqRel);
        self.heard_at.fetch_max(self.elapsed(self.clock.now()), Ordering::AcqRel);
    }

    fn take_in(&self, frame: Heard) {
        match frame {
            Heard::Settings { max_streams } => {
                if let Some(max) = max_streams {
                    self.max_streams.store(max, Ordering::Release);
                }
                self.has_settings.store(true, Ordering::Release);
                self.greeted.notify_waiters();
            }
            Heard::GoAway => self.is_leaving.store(true, Ordering::Release),
        }
        self.gate.free();
    }
}

/// A byte stream whose pulse is taken.
pub(super) struct Watched {
    inner: Box<dyn Io>,
    pulse: Arc<Pulse>,
    /// Only of an HTTP/2 connection.
    frames: Option<FrameScanner>,
}

impl Watched {
    pub(super) fn new(inner: Box<dyn Io>, pulse: &Arc<Pulse>, is_http2: bool) -> Self {
        Self { inner, pulse: Arc::clone(pulse), frames: is_http2.then(FrameScanner::default) }
    }

    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.pulse.is_write_blocked.store(polled.is_pending(), Ordering::Release);
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            this.pulse.heard(new.len());
            if let Some(frames) = &mut this.frames {
                frames.feed(new, |frame| this.pulse.take_in(frame));
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
