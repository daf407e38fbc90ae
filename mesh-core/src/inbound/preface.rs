//! The first bytes of a connection.
//!
//! Decides: whether they begin an HTTP/2 connection, so that a drain can say GOAWAY before the first request is here.
//! Never: changes a byte, or waits for ever for the first ones.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::endpoint::connect::Io;

/// The major HTTP version of a connection; 0 until it is known.
#[derive(Debug, Default)]
pub(super) struct HttpVersion(AtomicU8);

impl HttpVersion {
    pub(super) fn is(&self, major: u8) -> bool {
        self.0.load(Ordering::Relaxed) == major
    }

    pub(super) fn set(&self, major: u8) {
        self.0.store(major, Ordering::Relaxed);
    }
}

/// A stream whose first bytes are looked at.
pub(super) struct Preface {
    inner: Box<dyn Io>,
    version: Arc<HttpVersion>,
    seen: usize,
    /// Until when it must be known which version this is; `None` once it is.
    patience: Option<Pin<Box<Sleep>>>,
}

/// RFC 9113 3.4. No HTTP/1.1 method begins with it.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

impl Preface {
    /// What says nothing for `patience` is closed: hyper counts its own time from the first bytes only.
    pub(super) fn new(inner: Box<dyn Io>, version: &Arc<HttpVersion>, patience: Duration) -> Self {
        let patience = Some(Box::pin(tokio::time::sleep(patience)));
        Self { inner, version: Arc::clone(version), seen: 0, patience }
    }

    fn look(&mut self, bytes: &[u8]) {
        let expected = &HTTP2[self.seen.min(HTTP2.len())..];
        let compared = expected.len().min(bytes.len());
        if expected.is_empty() || bytes[..compared] != expected[..compared] {
            self.seen = HTTP2.len();
            return;
        }
        self.seen += compared;
        if self.seen == HTTP2.len() {
            self.version.set(2);
        }
    }
}

impl AsyncRead for Preface {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if this.seen < HTTP2.len() {
            this.look(&buffer.filled()[before..]);
        }
        if this.seen >= HTTP2.len() {
            this.patience = None;
        }
        if let Some(patience) = &mut this.patience
            && polled.is_pending()
            && patience.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Preface {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// In virtual time: sleeping is instant once nothing else can happen.
    #[tokio::test(start_paused = true)]
    async fn a_connection_has_to_say_what_it_speaks_in_time_and_then_may_be_silent() {
        let patience = Duration::from_secs(9);
        for (said, is_known, version) in
            [("", false, 0), ("PRI * HT", false, 0), ("PRI * HTTP/2.0", true, 2), ("G", true, 0)]
        {
            let (mut client, server) = tokio::io::duplex(64);
            let known = Arc::<HttpVersion>::default();
            let mut preface = Preface::new(Box::new(server), &known, patience);
            client.write_all(said.as_bytes()).await.unwrap();
            let mut read = vec![0; said.len()];
            preface.read_exact(&mut read).await.unwrap();
            assert_eq!(read, said.as_bytes());
            let silence = tokio::time::timeout(patience * 2, preface.read_u8()).await;
            assert_eq!(silence.is_err(), is_known, "{said:?}");
            if let Ok(ended) = silence {
                assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut, "{said:?}");
            }
            assert!(known.is(version), "{said:?}");
        }
    }
}
