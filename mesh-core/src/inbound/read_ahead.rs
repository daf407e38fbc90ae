//! The beginning of a request's body, read before the application reads it.
//!
//! Decides: when enough was read. Never: holds more than its limit and one frame; changes what the application reads,
//! trailers included. Invariant: what is not read yet stays with the peer, so back-pressure is as without.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::Body;
use crate::error::BoxError;

/// What was read.
pub(super) struct Ahead {
    /// At most as many bytes as were asked for.
    pub(super) bytes: Bytes,
    /// Whether that is the whole body.
    pub(super) is_whole: bool,
}

/// Reads up to `limit` bytes, and leaves a body that yields all of them again. A body that says it is longer is not
/// read at all, unless its beginning will do.
pub(super) async fn read_ahead(body: &mut Body, limit: usize, beginning_will_do: bool) -> Result<Ahead, BoxError> {
    if let Some(bytes) = body.as_buffered().filter(|bytes| bytes.len() <= limit) {
        return Ok(Ahead { bytes, is_whole: true });
    }
    if !beginning_will_do && body.size_hint().lower() > limit as u64 {
        return Ok(Ahead { bytes: Bytes::new(), is_whole: false });
    }
    let mut rest = std::mem::take(body);
    let mut read = BytesMut::new();
    let (mut trailers, mut is_over) = (None, rest.is_end_stream());
    while !is_over && read.len() <= limit && !(beginning_will_do && read.len() == limit) {
        let Some(frame) = rest.frame().await else {
            is_over = true;
            break;
        };
        match frame?.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        is_over = trailers.is_some() || rest.is_end_stream();
    }
    let mut excess = read.freeze();
    let bytes = excess.split_to(limit.min(excess.len()));
    let ahead = Ahead { bytes: bytes.clone(), is_whole: is_over && excess.is_empty() };
    *body = match (is_over, trailers) {
        (true, None) if excess.is_empty() => Body::from(bytes),
        (is_over, trailers) => {
            let rest = if is_over { Body::empty() } else { rest };
            Body::new(Resumed { ahead: [bytes, excess], trailers, rest })
        }
    };
    Ok(ahead)
}

/// A body whose beginning was read ahead.
struct Resumed {
    ahead: [Bytes; 2],
    trailers: Option<HeaderMap>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.ahead.iter_mut().find(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
        }
        match this.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.iter().all(Bytes::is_empty) && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self.ahead.iter().map(|bytes| bytes.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::default();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::sync::mpsc;

    use super::*;

    type Sender = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

    async fn data(sender: &Sender, text: &'static str) {
        sender.send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).await.unwrap();
    }

    async fn trailers(sender: &Sender) {
        let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), HeaderValue::from_static("1"))]);
        sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
    }

    async fn all(body: Body) -> (String, bool) {
        let collected = body.collect().await.unwrap();
        let has_trailers = collected.trailers().is_some_and(|trailers| trailers.contains_key("x-end"));
        (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), has_trailers)
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_read_again_whole_with_its_trailers() {
        for (limit, beginning_will_do) in
            [(1, true), (3, true), (4, true), (5, true), (6, true), (7, true), (6, false), (7, false), (99, false)]
        {
            let (sender, mut body) = Body::channel(8, None);
            data(&sender, "abc").await;
            data(&sender, "").await;
            data(&sender, "def").await;
            trailers(&sender).await;
            drop(sender);
            let ahead = read_ahead(&mut body, limit, beginning_will_do).await.unwrap();
            assert_eq!(&ahead.bytes[..], &b"abcdef"[..limit.min(6)], "{limit}");
            // At the limit nobody has seen the end yet.
            assert_eq!(ahead.is_whole, limit > 6 || !beginning_will_do, "{limit}");
            assert_eq!(all(body).await, ("abcdef".to_owned(), true), "{limit}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_seen_with_one_frame_more_and_nothing_is_lost() {
        let (sender, mut body) = Body::channel(2, None);
        data(&sender, "abcd").await;
        data(&sender, "ef").await;
        let ahead = read_ahead(&mut body, 3, false).await.unwrap();
        assert!(!ahead.is_whole && ahead.bytes == "abc");
        // One frame was taken: the channel has room for one, not for two.
        assert!(sender.try_send(Ok(Frame::data(Bytes::from_static(b"g")))).is_ok());
        assert!(sender.try_send(Ok(Frame::data(Bytes::from_static(b"h")))).is_err());
        drop(sender);
        assert_eq!(all(body).await.0, "abcdefg");
    }

    #[tokio::test]
    async fn a_body_that_says_it_is_too_long_is_not_read() {
        let (sender, mut body) = Body::channel(1, Some(4));
        data(&sender, "abcd").await;
        let ahead = read_ahead(&mut body, 3, false).await.unwrap();
        assert!(!ahead.is_whole && ahead.bytes.is_empty());
        assert!(sender.try_send(Ok(Frame::data(Bytes::new()))).is_err(), "nothing was taken");
        drop(sender);
        assert_eq!(all(body).await.0, "abcd");
    }

    #[tokio::test]
    async fn a_second_reader_gets_what_the_first_read_and_more() {
        let (sender, mut body) = Body::channel(8, Some(6));
        data(&sender, "abc").await;
        data(&sender, "def").await;
        drop(sender);
        assert_eq!(read_ahead(&mut body, 2, true).await.unwrap().bytes, "ab");
        let ahead = read_ahead(&mut body, 6, false).await.unwrap();
        assert!(ahead.is_whole && ahead.bytes == "abcdef");
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(all(body).await.0, "abcdef");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let (sender, mut body) = Body::channel(8, None);
        data(&sender, "abc").await;
        sender.send(Err("gone".into())).await.unwrap();
        assert!(read_ahead(&mut body, 9, false).await.is_err());
    }
}
