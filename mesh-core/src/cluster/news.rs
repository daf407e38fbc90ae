//! What requests wait for at a cluster that has no endpoint yet: the first word of its source.
//!
//! Decides: whether there is anything to wait for. Never: makes a request wait for a list that is being put
//! in force; what it asks is copied out of the members whenever they change.
//! Invariant: who looks after a word sees it, and who asked for the next one before it is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::membership::Members;

/// The latest word on a cluster's endpoints, besides the endpoints.
#[derive(Default)]
pub(super) struct News {
    is_resolving: AtomicBool,
    trouble: ArcSwapOption<Arc<str>>,
    heard: Notify,
}

impl News {
    /// Of members that nobody waits for yet.
    pub(super) fn of(members: &Members) -> Self {
        let news = Self::default();
        news.tell(members);
        news
    }

    /// These are the members now. Called while they are held.
    pub(super) fn tell(&self, members: &Members) {
        self.trouble.store(members.trouble().map(Arc::new));
        self.is_resolving.store(members.is_resolving(), Ordering::Release);
        self.heard.notify_waiters();
    }

    /// Whether there is no endpoint because nobody has said anything yet.
    pub(super) fn is_resolving(&self) -> bool {
        self.is_resolving.load(Ordering::Acquire)
    }

    /// Why there are no endpoints, if there are none.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.load().as_ref().map(|reason| Arc::clone(reason.as_ref()))
    }

    /// Completes at the next word from now on: who asks for it before looking misses none.
    pub(super) fn next(&self) -> Notified<'_> {
        self.heard.notified()
    }
}
