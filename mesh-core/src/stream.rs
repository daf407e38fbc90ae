//! A bare connection of the mesh: bytes to or from a peer that was verified, without HTTP.
//!
//! Decides: when a drained process stops serving it. Never: looks at a byte, or ends a TLS session that its owner did
//! not end: dropped without `shutdown`, the peer reads an error instead of an end, as it should.
//! Invariant: what the connection holds (its place at the endpoint, its guard of the drain) is held until it is
//! dropped, and every byte is counted once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::drain::Drain;
use crate::endpoint::connect::Io;
use crate::error::ErrorKind;
use crate::identity::tls::PeerIdentity;
use crate::telemetry::{Reporter, TcpRecord};

/// An open connection. Both directions are independent: `shutdown` ends what this end says, and the peer may go on.
pub struct MeshStream {
    io: Box<dyn Io>,
    ends: Ends,
    drain: Drain,
    cut: Option<Cut>,
    record: TcpRecord,
    _held: Box<dyn Send>,
}

/// What is known of the two ends of a connection.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// Who the peer is, proven; `None` in plaintext.
    pub peer: Option<Arc<PeerIdentity>>,
    /// Our address, where we accepted.
    pub local: Option<SocketAddr>,
    /// The peer's address; a Unix socket has none.
    pub remote: Option<SocketAddr>,
}

impl MeshStream {
    /// A connection that was opened and counted.
    pub(crate) fn new(io: Box<dyn Io>, ends: Ends, record: TcpRecord, with: (&Drain, Box<dyn Send>)) -> Self {
        let (drain, held) = with;
        Self { io, ends, drain: drain.clone(), cut: None, record, _held: held }
    }

    /// Ends it when the grace of a drain is over.
    pub(crate) fn cut_by_drain(mut self, runtime: &Handle) -> Self {
        self.cut = Some(Cut::new(&self.drain, runtime));
        self
    }

    /// Who the peer is, proven by its certificate; `None` in plaintext.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.ends.peer.as_deref()
    }

    /// Our address, where we accepted the connection over TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.ends.local
    }

    /// The peer's address. Of a host with several, the one that is listed first.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.ends.remote
    }

    /// The cluster it was opened to; `None` where we accepted it.
    pub fn cluster(&self) -> Option<&str> {
        self.record.line.cluster.as_deref()
    }

    /// The endpoint, or the peer that connected, as logs call it.
    pub fn endpoint(&self) -> &str {
        self.record.line.endpoint.as_deref().unwrap_or_default()
    }

    /// Attempts that were made to open it, the first included; one where we accepted it.
    pub fn attempts(&self) -> u32 {
        self.record.line.attempts.unwrap_or(1)
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.record.bytes_read()
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.record.bytes_written()
    }

    /// Completes when the drain of this process begins: time to say goodbye in the protocol's own words. When its
    /// grace is over, reading and writing a connection that was accepted fails.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let drain = self.drain.clone();
        async move { drain.draining().await }
    }

    /// The error of a connection whose grace is over.
    fn poll_cut(&mut self, half: Half, cx: &Context<'_>) -> io::Result<()> {
        if !self.cut.as_ref().is_some_and(|cut| cut.is_over(half, cx)) {
            return Ok(());
        }
        self.record.failed(ErrorKind::Draining, "the grace of the drain was over".to_owned());
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "this process has drained"))
    }

    /// An end that broke off: for who connected the upstream's reset, for who accepted its caller's leaving.
    fn noted<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            let kind = match self.record.facts.reporter {
                Reporter::Source => ErrorKind::Reset,
                Reporter::Destination => ErrorKind::Cancelled,
            };
            self.record.failed(kind, error.to_string());
        }
        polled
    }

    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.record.wrote(bytes);
        }
        self.noted(polled)
    }
}

impl std::fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshStream")
            .field("ends", &self.ends)
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_cut(Half::Read, cx)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buffer);
        this.record.read(buffer.filled().len() - before);
        this.noted(polled)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_cut(Half::Write, cx)?;
        let polled = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_cut(Half::Write, cx)?;
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bytes);
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_cut(Half::Write, cx)?;
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.noted(polled)
    }

    /// Over TLS the end is said in the session, too; also after the grace: it is the last word.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        this.noted(polled)
    }
}

#[derive(Clone, Copy)]
enum Half {
    Read,
    Write,
}

/// Wakes both halves when the grace of a drain is over.
struct Cut {
    over: Arc<Over>,
    waiting: AbortHandle,
}

#[derive(Default)]
struct Over {
    is_over: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cut {
    fn new(drain: &Drain, runtime: &Handle) -> Self {
        let over = Arc::<Over>::default();
        let (told, drain) = (Arc::clone(&over), drain.clone());
        let waiting = runtime.spawn(async move {
            drain.ended().await;
            told.is_over.store(true, Ordering::Release);
            told.reader.wake();
            told.writer.wake();
        });
        Self { over, waiting: waiting.abort_handle() }
    }

    fn is_over(&self, half: Half, cx: &Context<'_>) -> bool {
        let waker = match half {
            Half::Read => &self.over.reader,
            Half::Write => &self.over.writer,
        };
        // Registered before the look, so that an end that comes meanwhile is not missed.
        waker.register(cx.waker());
        self.over.is_over.load(Ordering::Acquire)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}
