//! A response whose end is looked at before its beginning is handed on.
//!
//! Decides: how much of a body is held back. Never: drops or reorders a frame, or waits for more than the
//! policy allows. Invariant: while a response is held back nothing of it was handed over, so that one which
//! breaks off, or whose gRPC status turns out bad in its trailers, may still be tried again.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::error::{Error, ErrorKind, Sent};
use crate::outbound::attempt::{Answer, Held, body_failure};

/// An answer as far as it is known.
pub(crate) struct Received {
    pub(crate) response: Response<Peeked>,
    pub(crate) held: Held,
    /// Head and trailers together, of a response that was held back to its end.
    whole: Option<HeaderMap>,
}

/// A body, the first frames of which were taken already.
pub(crate) struct Peeked {
    kept: VecDeque<Frame<Bytes>>,
    rest: Incoming,
}

impl From<Answer> for Received {
    fn from(answer: Answer) -> Self {
        let response = answer.response.map(|rest| Peeked { kept: VecDeque::new(), rest });
        Self { response, held: answer.held, whole: None }
    }
}

impl Received {
    /// What the server said: the head, and the trailers if they are known.
    pub(crate) fn said(&self) -> &HeaderMap {
        self.whole.as_ref().unwrap_or_else(|| self.response.headers())
    }

    /// Holds a response of up to `limit` bytes back until its end, or until `patience` ends.
    pub(crate) async fn hold(
        answer: Answer,
        limit: usize,
        patience: Option<impl Future<Output = ()>>,
        endpoint: &str,
    ) -> Result<Self, Error> {
        let mut received = Self::from(answer);
        if limit == 0 || exceeds(received.response.headers(), limit) {
            return Ok(received);
        }
        let head = received.response.headers().clone();
        let body = received.response.body_mut();
        let taking = body.take(limit);
        let trailers = match patience {
            None => taking.await,
            Some(patience) => tokio::select! {
                biased;
                taken = taking => taken,
                () = patience => {
                    let error = Error::new(ErrorKind::AttemptTimeout, format!("{endpoint}: the response took too long"));
                    return Err(error.with_sent(Sent::Maybe));
                }
            },
        };
        match trailers {
            Err(error) => return Err(body_failure(error.into(), endpoint)),
            Ok(None) => {}
            Ok(Some(trailers)) => {
                let mut whole = head;
                whole.extend(trailers);
                received.whole = Some(whole);
            }
        }
        Ok(received)
    }
}

impl Peeked {
    /// Takes frames until the end or the limit; the trailers, if they came.
    async fn take(&mut self, limit: usize) -> Result<Option<HeaderMap>, hyper::Error> {
        let mut bytes = 0;
        while let Some(frame) = self.rest.frame().await {
            let frame = frame?;
            let trailers = frame.trailers_ref().cloned();
            bytes += frame.data_ref().map_or(0, Bytes::len);
            self.kept.push_back(frame);
            if trailers.is_some() || bytes > limit {
                return Ok(trailers);
            }
        }
        Ok(None)
    }
}

impl HttpBody for Peeked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this.kept.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept: usize = self.kept.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let (mut hint, kept) = (self.rest.size_hint(), kept as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(hint.lower() + kept);
        hint
    }
}

/// A length that is known to be too much is not even begun.
fn exceeds(headers: &HeaderMap, limit: usize) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| length > limit)
}
