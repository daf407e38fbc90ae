//! The body of a response on its way to the caller.
//!
//! Decides: when a call has ended. Its end closes the record, the permits and the connection's lease.
//! Invariant: whatever ends it (the last byte, an error, the deadline, a drop), it ends once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::Body;
use crate::cluster::taken::Taken;
use crate::error::{BoxError, Error, ErrorKind, Sent};
use crate::load_report;
use crate::outbound::attempt::{Held, body_failure};
use crate::outbound::peek::Peeked;
use crate::policy::concurrency::Permit;
use crate::telemetry::record::Record;

/// What a call holds until its response has been read.
pub(crate) struct Open {
    /// `None`: nothing is recorded (a bare attempt).
    pub(crate) record: Option<Record>,
    pub(crate) held: Held,
    pub(crate) taken: Taken,
    pub(crate) admitted: Option<Permit>,
    /// Whether a load report in the trailers is for the balancer alone.
    pub(crate) hides_load: bool,
}

/// A response body that closes its call.
pub(crate) struct ResponseBody {
    inner: Peeked,
    open: Option<Open>,
    timeout: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl ResponseBody {
    /// `timeout` completes at the call's deadline.
    pub(crate) fn wrap(inner: Peeked, open: Open, timeout: Option<Pin<Box<dyn Future<Output = ()> + Send>>>) -> Body {
        if inner.is_end_stream() {
            open.close();
            return Body::empty();
        }
        Body::new(Self { inner, open: Some(open), timeout })
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(mut record) = self.open.take().and_then(|open| open.record) {
            record.failed(&error, Some(error.message().to_owned()));
            record.end();
        }
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Open {
    /// The response was read to its end: the connection can serve again.
    fn close(self) {
        if let Some(record) = self.record {
            record.end();
        }
        self.taken.finish();
        self.held.release();
        drop(self.admitted);
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let Some(open) = this.open.as_mut() else { return polled.map_err(Into::into) };
        match polled {
            Poll::Ready(None) => {
                if let Some(open) = this.open.take() {
                    open.close();
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(record) = &mut open.record {
                    record.add_response_bytes(frame.data_ref().map_or(0, Bytes::len));
                    if let Some(trailers) = frame.trailers_ref() {
                        record.grpc_status(trailers);
                        open.taken.hear(trailers, record.now());
                    }
                }
                if let Some(trailers) = frame.trailers_mut().filter(|_| open.hides_load) {
                    load_report::hide(trailers);
                }
                if this.inner.is_end_stream()
                    && let Some(open) = this.open.take()
                {
                    open.close();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = body_failure(error.into(), open.taken.endpoint_name());
                this.fail(error)
            }
            Poll::Pending => match this.timeout.as_mut().map(|timeout| timeout.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => this.fail(
                    Error::new(ErrorKind::Timeout, "the deadline passed while the response was being read")
                        .with_sent(Sent::Maybe),
                ),
                _ => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
