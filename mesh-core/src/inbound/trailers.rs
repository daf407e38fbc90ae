//! Trailers on their way to an HTTP/1.1 caller.
//!
//! Decides: that trailers which matter are either delivered or the response fails. HTTP/1.1 carries them only in a
//! chunked body, only to callers that said `TE: trailers`, and only those that `Trailer` announced. Never: lets a
//! gRPC status vanish. Invariant: a response that ends well has delivered every trailer its caller asked for.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::Body;
use crate::error::BoxError;
use crate::load_report;
use crate::telemetry::record::is_grpc;

/// What a caller can take.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    is_http1: bool,
    takes_trailers: bool,
}

impl Caller {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let mut te = request.headers().get_all(header::TE).iter().filter_map(|te| te.to_str().ok());
        let takes_trailers = te.any(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")));
        Self { is_http1: request.version() < Version::HTTP_2, takes_trailers }
    }

    /// Makes room for trailers where some may come.
    pub(super) fn fit(self, mut response: Response<Body>) -> Response<Body> {
        let is_grpc = is_grpc(response.headers());
        if !self.is_http1 || !(is_grpc || self.takes_trailers) || response.body().is_end_stream() {
            return response;
        }
        let headers = response.headers_mut();
        // With a length the body would end before the trailers.
        headers.remove(header::CONTENT_LENGTH);
        if is_grpc && !headers.contains_key(header::TRAILER) {
            headers.insert(header::TRAILER, GRPC_TRAILERS);
        }
        let mut announced = announced(headers);
        // Ours may come after all others, also where the application announced its own.
        if is_grpc && !announced.iter().any(|name| name == load_report::TRAILER) {
            headers.append(header::TRAILER, HeaderValue::from_static(load_report::TRAILER));
            announced.push(load_report::TRAILER.to_owned());
        }
        let deliverable = self.takes_trailers.then_some(announced);
        response.map(|inner| Body::new(Fitted { inner, deliverable }))
    }
}

const GRPC_TRAILERS: HeaderValue = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

fn announced(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

struct Fitted {
    inner: Body,
    /// Names that can be delivered; `None`: none, the caller does not take them.
    deliverable: Option<Vec<String>>,
}

impl Fitted {
    fn check(&self, trailers: &HeaderMap) -> Result<(), BoxError> {
        let Some(names) = &self.deliverable else {
            return Err("the response has trailers, and its caller did not say `TE: trailers`".into());
        };
        match trailers.keys().find(|name| !names.iter().any(|known| known == name.as_str())) {
            None => Ok(()),
            // RFC 9110 6.5.1 would let us drop it; but the caller asked for trailers.
            Some(name) => Err(format!("the trailer `{name}` was not announced and cannot be delivered").into()),
        }
    }
}

impl HttpBody for Fitted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Err(error) = this.check(trailers)
        {
            return Poll::Ready(Some(Err(error)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// Not the inner one's: a known size would become a content-length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
