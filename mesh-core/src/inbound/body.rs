//! Bodies on the server side: counted on the way in, recorded on the way out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::load::Reporting;
use crate::body::Body;
use crate::drain::RequestGuard;
use crate::error::{BoxError, ErrorKind};
use crate::inbound::gate::Inside;
use crate::telemetry::record::Record;

/// What a request holds until its response has ended: its place in the drain's count and behind the gate.
pub(super) type Guards = (RequestGuard, Option<Inside>);

/// How long the bodies are that somebody else reads and writes; an extension of the request, and of its response.
#[derive(Debug, Clone, Default)]
pub(super) struct Lengths {
    pub(super) request: Arc<AtomicU64>,
    pub(super) response: Arc<AtomicU64>,
}

/// A request body whose bytes are counted as the application reads them.
pub(super) fn counted(body: Body, counter: &Arc<AtomicU64>) -> Body {
    if body.is_end_stream() { body } else { Body::new(Counted { inner: body, counter: Arc::clone(counter) }) }
}

/// A response body whose end closes the record and the drain's count. `lengths`: somebody else sends it.
pub(super) fn recorded(body: Body, open: (Record, Guards), reporting: Reporting, lengths: Option<Lengths>) -> Body {
    if body.is_end_stream() {
        open.0.end();
        return body;
    }
    Body::new(Recorded { inner: body, open: Some(open), reporting, lengths })
}

struct Counted {
    inner: Body,
    counter: Arc<AtomicU64>,
}

struct Recorded {
    inner: Body,
    open: Option<(Record, Guards)>,
    reporting: Reporting,
    lengths: Option<Lengths>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.counter.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Recorded {
    fn end(&mut self) {
        if let Some((mut record, _guard)) = self.open.take() {
            let sent = self.lengths.as_ref().map_or(0, |lengths| lengths.response.load(Ordering::Relaxed));
            record.add_response_bytes(usize::try_from(sent).unwrap_or(usize::MAX));
            record.end();
        }
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    this.reporting.trailers(trailers);
                }
                if let Some((record, _)) = this.open.as_mut() {
                    record.add_response_bytes(frame.data_ref().map_or(0, Bytes::len));
                    if let Some(trailers) = frame.trailers_ref() {
                        record.grpc_status(trailers);
                    }
                }
                // The server may never ask again after the last frame.
                if this.inner.is_end_stream() {
                    this.end();
                }
            }
            Poll::Ready(None) => this.end(),
            Poll::Ready(Some(Err(error))) => {
                if let Some((record, _)) = this.open.as_mut() {
                    record.failed_with(ErrorKind::Internal, Some(format!("the response body failed: {error}")));
                }
                this.end();
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
