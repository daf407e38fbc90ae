//! `Expect: 100-continue`: the body waits for the peer's word.
//!
//! Decides: when a body that was announced this way is sent: at the first 100, or after a second without one
//! (RFC 9110 10.1.1 forbids to wait for ever, and many servers ignore the expectation). Never: takes a 1xx for
//! the answer. Invariant: a body that was held back to the end was not sent, and its connection serves no further request.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::body::Body;
use crate::error::BoxError;
use crate::time::Clock;

/// Whether the body of a request has been let go.
#[derive(Clone)]
pub(crate) struct LetGo(Arc<AtomicBool>);

impl LetGo {
    /// Whether the body was let go, at least in part.
    pub(crate) fn is_let_go(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Holds the body back if the request asks for it. `None`: it does not, and nothing is held.
pub(super) fn hold_back(mut request: Request<Body>, clock: &Arc<dyn Clock>) -> (Request<Body>, Option<LetGo>) {
    if !expects_continue(request.headers()) || request.body().is_end_stream() {
        return (request, None);
    }
    let let_go = LetGo(Arc::new(AtomicBool::new(false)));
    let (go, word) = oneshot::channel();
    let go = Mutex::new(Some(go));
    hyper::ext::on_informational(&mut request, move |interim| {
        if interim.status() == StatusCode::CONTINUE
            && let Some(go) = go.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = go.send(());
        }
    });
    let clock = Arc::clone(clock);
    let patience = clock.sleep_until(crate::time::after(clock.now(), PATIENCE));
    let word = Box::pin(async move {
        tokio::select! {
            // hyper drops the callback at the final answer: that is no word to go.
            Ok(()) = word => {}
            () = patience => {}
        }
    });
    let told = let_go.clone();
    (request.map(|inner| Body::new(Held { inner, word: Some(word), let_go: told })), Some(let_go))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

struct Held {
    inner: Body,
    word: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    let_go: LetGo,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(word) = this.word.as_mut() {
            std::task::ready!(word.as_mut().poll(cx));
            this.word = None;
            this.let_go.0.store(true, Ordering::Release);
        }
        Pin::new(&mut this.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How long a body waits for the peer's word. Origin: curl's EXPECT_100_TIMEOUT.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    #[tokio::test]
    async fn only_a_body_that_was_announced_is_held_back() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        for (expect, body, is_held) in [
            (None, "order", false),
            (Some("100-continue"), "", false),
            (Some("100-Continue"), "order", true),
            (Some("something"), "order", false),
        ] {
            let mut request = Request::new(Body::from(body));
            request.headers_mut().extend(expect.map(|value| (header::EXPECT, value.parse().unwrap())));
            let let_go = hold_back(request, &clock).1;
            assert_eq!(let_go.map(|let_go| let_go.is_let_go()), is_held.then_some(false), "{expect:?} {body:?}");
        }
    }
}
