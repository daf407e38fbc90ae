//! A body that an own server hands over once it is asked for it.
//!
//! Decides: nothing; the check that wants to know it says how much, and until when. Never: asks twice. Invariant: it is
//! asked for with the first look at it, and ends with an error where the server gave less than is looked for.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

use super::own_server::Given;
use crate::body::Body;
use crate::error::BoxError;

/// What checks want to know of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// At most so many bytes.
    pub(super) limit: usize,
    /// Whether that many are enough of a longer one.
    pub(super) beginning_will_do: bool,
    /// When it is too late.
    pub(super) until: Instant,
}

/// Where a check says its terms before it looks; a request extension.
#[derive(Clone, Default)]
pub(super) struct Sought(Arc<OnceLock<Terms>>);

impl Sought {
    /// The first terms count: they are those of all checks that may look.
    pub(super) fn set(&self, terms: impl FnOnce() -> Terms) {
        self.0.get_or_init(terms);
    }
}

/// Where a body that was asked for goes.
pub(super) type Hand = oneshot::Sender<Body>;

/// The question for a body.
pub(super) struct Question {
    pub(super) terms: Terms,
    pub(super) hand: Hand,
}

/// A body that its server is asked for with the first look at it.
pub(super) struct Later {
    asking: Option<(oneshot::Sender<Question>, Hand)>,
    given: oneshot::Receiver<Body>,
    body: Option<Body>,
    sought: Sought,
    said: u64,
}

impl Later {
    /// `said`: bytes that the request's head says it has; who finds that too many need not ask.
    pub(super) fn new(sought: Sought, said: u64) -> (Self, oneshot::Receiver<Question>) {
        let ((asking, asked), (hand, given)) = (oneshot::channel(), oneshot::channel());
        (Self { asking: Some((asking, hand)), given, body: None, sought, said }, asked)
    }
}

impl HttpBody for Later {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some((asking, hand)) = this.asking.take() {
            // Who looks without terms gets nothing: the hand is gone.
            if let Some(terms) = this.sought.0.get() {
                let _ = asking.send(Question { terms: *terms, hand });
            }
        }
        let body = match &mut this.body {
            Some(body) => body,
            empty => {
                let given = std::task::ready!(Pin::new(&mut this.given).poll(cx));
                empty.insert(given.unwrap_or_else(|_| Body::from(Given::Later)))
            }
        };
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::default();
        hint.set_lower(self.said);
        self.body.as_ref().map_or(hint, HttpBody::size_hint)
    }
}
