//! The one body type of the mesh: what engines, shells and bindings pass along.
//!
//! Decides: nothing; it only hides where bytes come from. Never: buffers. A body is pulled frame by
//! frame, so back-pressure goes from the reader to the peer.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::error::BoxError;

/// A request or response body: nothing, one buffer, a hyper stream, a channel, or anything boxed.
pub struct Body(Inner);

enum Inner {
    Empty,
    Full(Bytes),
    Incoming(hyper::body::Incoming),
    Channel { frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>, length: Option<u64> },
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// No body at all.
    pub const fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// Any other body. One that is of this type already stays as it is.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        if let Some(own) = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>().and_then(Option::take) {
            return own;
        }
        body.map_or_else(Self::empty, |body| Self(Inner::Boxed(Box::pin(body.map_err(Into::into)))))
    }

    /// A body fed from elsewhere. `capacity` frames wait at most; dropping the sender without an
    /// error ends the body. `length`, when known, becomes `content-length`.
    pub fn channel(capacity: usize, length: Option<u64>) -> (mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Self) {
        let (sender, frames) = mpsc::channel(capacity.max(1));
        (sender, Self(Inner::Channel { frames, length }))
    }

    /// The bytes when the whole body is in memory: then it can be sent again at no cost.
    pub fn as_buffered(&self) -> Option<Bytes> {
        match &self.0 {
            Inner::Empty => Some(Bytes::new()),
            Inner::Full(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Reads everything, up to `limit` bytes.
    pub async fn collect_up_to(self, limit: usize) -> Result<Bytes, BoxError> {
        Ok(http_body_util::Limited::new(self, limit).collect().await?.to_bytes())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let inner = &mut self.get_mut().0;
        match inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *inner = Inner::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Inner::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::Channel { frames, length } => {
                let frame = std::task::ready!(frames.poll_recv(cx));
                if let (Some(left), Some(Ok(frame))) = (length.as_mut(), &frame) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                Poll::Ready(frame)
            }
            Inner::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Incoming(body) => body.is_end_stream(),
            Inner::Channel { .. } => false,
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Incoming(body) => body.size_hint(),
            Inner::Channel { length: Some(length), .. } => SizeHint::with_exact(*length),
            Inner::Channel { length: None, .. } => SizeHint::default(),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Inner::Empty => "empty",
            Inner::Full(_) => "full",
            Inner::Incoming(_) => "incoming",
            Inner::Channel { .. } => "channel",
            Inner::Boxed(_) => "boxed",
        };
        f.debug_tuple("Body").field(&kind).finish()
    }
}

impl From<hyper::body::Incoming> for Body {
    fn from(body: hyper::body::Incoming) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self(Inner::Incoming(body)) }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self(Inner::Full(bytes)) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_body_yields_what_was_sent_and_knows_its_length() {
        let (sender, body) = Body::channel(2, Some(4));
        assert_eq!(body.size_hint().exact(), Some(4));
        sender.send(Ok(Frame::data(Bytes::from_static(b"ab")))).await.unwrap();
        sender.send(Ok(Frame::data(Bytes::from_static(b"cd")))).await.unwrap();
        drop(sender);
        assert_eq!(body.collect_up_to(10).await.unwrap(), Bytes::from_static(b"abcd"));
    }

    #[test]
    fn a_body_of_the_mesh_is_not_wrapped_again() {
        assert_eq!(Body::new(Body::from("hello")).as_buffered(), Some(Bytes::from_static(b"hello")));
    }

    #[tokio::test]
    async fn reading_beyond_the_limit_is_an_error() {
        assert!(Body::from("abcdef").collect_up_to(3).await.is_err());
    }
}
