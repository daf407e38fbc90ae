//! What a call hands on to the calls made while it is served.
//!
//! Decides: where the current call's context is found: the task first, then the thread. Never: changes
//! it; a context is made once, when a request comes in.
//! Invariant: a deadline is handed on as it is or earlier, never later. This is how trace and deadline get
//! from an inbound request to the outbound ones without a line in the application.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::policy::criticality::Criticality;
use crate::telemetry::TraceContext;

/// The facts of the call that is being served.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// Its trace; what is called from here becomes a child.
    pub trace: TraceContext,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// SPIFFE ID of the caller, from the handshake.
    pub peer: Option<Arc<str>>,
    /// Where the caller is.
    pub address: Option<IpAddr>,
    /// `x-request-id`, one for the whole tree of calls.
    pub request_id: Option<Arc<str>>,
    /// How much it matters that it is answered; what it causes matters no more.
    pub criticality: Option<Criticality>,
    /// Which attempt of its caller this is, from 1. What is called from here inherits it.
    pub attempt: u32,
    /// Whether something called from here failed for good.
    pub gave_up: GaveUp,
}

/// Set when a call made while a request is served was tried as often as it should be, and failed. A
/// failure of the request itself then tells its caller not to try the whole again.
#[derive(Debug, Clone, Default)]
pub struct GaveUp(Arc<AtomicBool>);

impl GaveUp {
    /// A call failed for good.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one did.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl CallContext {
    /// A context with a trace and nothing else.
    pub fn new(trace: TraceContext) -> Self {
        Self {
            trace,
            deadline: None,
            peer: None,
            address: None,
            request_id: None,
            criticality: None,
            attempt: 1,
            gave_up: GaveUp::default(),
        }
    }

    /// The context this code runs in: the task's, or else the thread's.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok().or_else(of_thread)
    }

    /// Runs a future in a context. What it spawns does not inherit it; wrap that too.
    pub fn scope<F: Future>(context: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(context, future)
    }

    /// The earlier of two deadlines, where an absent one is never.
    pub fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) | (None, one) => one,
        }
    }

    /// Time left at `now`; `None` without a deadline, zero once it has passed.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }
}

/// Makes a context the thread's while it lives: for languages that run handlers on threads.
/// Scopes nest, and may end in any order.
#[derive(Debug)]
pub struct ThreadScope {
    id: u64,
    /// It belongs to the thread it was entered on.
    not_send: PhantomData<*const ()>,
}

impl ThreadScope {
    /// Makes `context` the thread's.
    #[must_use = "the scope ends when this is dropped"]
    pub fn enter(context: Arc<CallContext>) -> Self {
        let id = NEXT_SCOPE.with(|next| next.replace(next.get() + 1));
        THREAD.with_borrow_mut(|scopes| scopes.push((id, context)));
        Self { id, not_send: PhantomData }
    }
}

impl Drop for ThreadScope {
    fn drop(&mut self) {
        // While the thread is torn down the scopes may be gone already. The context is dropped after the
        // borrow has ended.
        let ended = THREAD.try_with(|scopes| {
            let mut scopes = scopes.borrow_mut();
            let place = scopes.iter().rposition(|(id, _)| *id == self.id)?;
            Some(scopes.remove(place))
        });
        drop(ended);
    }
}

fn of_thread() -> Option<Arc<CallContext>> {
    THREAD.try_with(|scopes| scopes.borrow().last().map(|(_, context)| context.clone())).ok().flatten()
}

tokio::task_local! {
    static CURRENT: Arc<CallContext>;
}

thread_local! {
    static THREAD: RefCell<Vec<(u64, Arc<CallContext>)>> = const { RefCell::new(Vec::new()) };
    static NEXT_SCOPE: Cell<u64> = const { Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(seed: u64) -> Arc<CallContext> {
        Arc::new(CallContext::new(TraceContext::root(&mut fastrand::Rng::with_seed(seed), 100.0)))
    }

    fn is_current(context: &Arc<CallContext>) -> bool {
        CallContext::current().is_some_and(|current| Arc::ptr_eq(&current, context))
    }

    #[test]
    fn scopes_of_a_thread_nest_and_end_in_any_order() {
        let (a, b, c) = (context(1), context(2), context(3));
        assert!(CallContext::current().is_none());
        let outer = ThreadScope::enter(a.clone());
        let middle = ThreadScope::enter(b.clone());
        let inner = ThreadScope::enter(c.clone());
        assert!(is_current(&c));
        drop(middle);
        assert!(is_current(&c));
        drop(inner);
        assert!(is_current(&a));
        assert!(std::thread::spawn(|| CallContext::current().is_none()).join().unwrap());
        drop(outer);
        assert!(CallContext::current().is_none());
        assert_eq!([1, 1, 1], [a, b, c].map(|context| Arc::strong_count(&context)));
    }

    #[tokio::test]
    async fn a_task_carries_its_context_over_awaits_and_before_the_threads() {
        let (of_task, of_thread, nested) = (context(1), context(2), context(3));
        let _scope = ThreadScope::enter(of_thread.clone());
        CallContext::scope(of_task.clone(), async {
            assert!(is_current(&of_task));
            tokio::task::yield_now().await;
            CallContext::scope(nested.clone(), async { assert!(is_current(&nested)) }).await;
            assert!(is_current(&of_task));
        })
        .await;
        assert!(is_current(&of_thread));
    }

    #[test]
    fn a_deadline_is_never_made_later() {
        let now = Instant::now();
        let (soon, late) = (Some(now), Some(now + Duration::from_secs(1)));
        for (a, b, earlier) in
            [(soon, late, soon), (late, soon, soon), (None, late, late), (late, None, late), (None, None, None)]
        {
            assert_eq!(CallContext::earlier(a, b), earlier);
        }
        let context = CallContext { deadline: soon, ..CallContext::clone(&context(1)) };
        assert_eq!(context.remaining(now + Duration::from_secs(5)), Some(Duration::ZERO));
    }
}
