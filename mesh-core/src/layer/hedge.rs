//! A copy of a slow request, for any service that sends to another place each time.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::circuit_breaker::ready_call;
use super::retry::{begin, outcome};
use super::{Pending, RequestBody};
use crate::context::CallContext;
use crate::error::{BoxError, Error, ErrorKind};
use crate::outbound::replay::Replay;
use crate::outbound::{CallOptions, headers};
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::hedge::{HedgePolicy, HedgeState, Hedging};
use crate::policy::retry::{Reach, RequestFacts, RetryPolicy, RetryState};
use crate::time::{Clock, SystemClock};

/// Sends a copy when an answer is late; the first answer counts. Put it above a balancer and below a
/// [`super::RetryLayer`]. Only requests that may be sent twice, with a body in memory, get a copy.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use std::time::Duration;
///
/// use mesh_core::layer::HedgeLayer;
/// use mesh_core::policy::budget::BudgetConfig;
/// use mesh_core::policy::hedge::{HedgeDelay, HedgePolicy};
///
/// // Hangs, unless it is asked by a copy.
/// let slow = service_fn(|request: Request<Body>| async move {
///     if !request.headers().contains_key("x-envoy-attempt-count") {
///         std::future::pending::<()>().await;
///     }
///     Ok::<_, BoxError>(Response::new(Body::empty()))
/// });
/// let policy = HedgePolicy {
///     max_hedges: 1,
///     delay: HedgeDelay::Fixed(Duration::from_millis(5)),
///     min_samples: 1,
///     budget: BudgetConfig::default(),
///     hint_cap: Duration::from_secs(1),
/// };
/// let client = ServiceBuilder::new().layer(HedgeLayer::new(policy)).service(slow);
/// assert_eq!(client.oneshot(Request::new(Body::empty())).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HedgeLayer {
    hedging: Arc<Hedging>,
    policy: Arc<RetryPolicy>,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
}

impl HedgeLayer {
    /// With the default conditions of a retry, and a budget of its own.
    pub fn new(policy: HedgePolicy) -> Self {
        let budget = Arc::new(Budget::new(BudgetConfig::default()));
        Self::shared(Arc::new(Hedging::new(policy)), Arc::default(), budget)
    }

    /// `policy` says which outcomes do not count as an answer; retries draw on the same `budget`.
    pub fn shared(hedging: Arc<Hedging>, policy: Arc<RetryPolicy>, budget: Arc<Budget>) -> Self {
        Self { hedging, policy, budget, clock: Arc::new(SystemClock) }
    }

    /// Uses this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = Hedge<S>;

    fn layer(&self, inner: S) -> Hedge<S> {
        Hedge { inner, terms: self.clone() }
    }
}

/// A service whose late answers are overtaken.
#[derive(Clone)]
pub struct Hedge<S> {
    inner: S,
    terms: HedgeLayer,
}

impl<S, In, B> Service<Request<In>> for Hedge<S>
where
    S: Service<Request<In>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    In: RequestBody,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        Box::pin(race(self.inner.clone(), self.terms.clone(), request))
    }
}

/// What all copies share.
struct Race {
    head: http::request::Parts,
    body: Replay,
    retry: RetryState,
    facts: RequestFacts,
    /// The retry policy reaches it in full: it may be repeated, and is nobody's retry.
    may_copy: bool,
    /// Which attempt the first copy is: a retry above has counted already.
    attempt: u32,
}

async fn race<S, In, B>(inner: S, terms: HedgeLayer, request: Request<In>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<In>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    In: RequestBody,
{
    let clock = &terms.clock;
    let start = clock.now();
    let race = Race::of(&terms, request);
    let may_repeat = (race.facts.idempotent || terms.policy.non_idempotent) && race.body.is_shareable();
    if !(may_repeat && race.may_copy) {
        return ready_call(&mut inner.clone(), race.copy(1)).await;
    }
    let of = &race;
    let send = move |nth: u32| {
        let (mut service, request, sent_at) = (inner.clone(), of.copy(nth), clock.now());
        async move { (ready_call(&mut service, request).await, sent_at) }
    };
    let Some(mut hedge) = HedgeState::start(&terms.hedging, &terms.budget, start) else {
        let (answer, sent_at) = send(1).await;
        observe(&terms, &answer, sent_at);
        return answer;
    };
    let mut copies = FuturesUnordered::from_iter([send(1)]);
    let mut under_way = vec![start];
    let mut last = None;
    hedge.sent(start);
    loop {
        let due = hedge.due().filter(|due| race.facts.deadline.is_none_or(|deadline| *due < deadline));
        if copies.is_empty() && due.is_none() {
            return last.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "a race without a runner").into()));
        }
        let next_copy = clock.sleep_until(due.unwrap_or_else(|| clock.now()));
        tokio::select! {
            biased;
            Some((answer, sent_at)) = copies.next(), if !copies.is_empty() => {
                observe(&terms, &answer, sent_at);
                under_way.retain(|other| *other != sent_at);
                let outcome = outcome(&answer);
                if race.retry.may_follow(&outcome, &race.facts).is_err() {
                    let now = clock.now();
                    under_way.iter().for_each(|sent_at| hedge.observe(now.saturating_duration_since(*sent_at), now));
                    return answer;
                }
                hedge.failed(&outcome, (clock.now(), clock.wall()));
                last = Some(answer);
            }
            () = next_copy, if due.is_some() => {
                let now = clock.now();
                if hedge.pay(now).is_ok() {
                    under_way.push(now);
                    copies.push(send(under_way.len() as u32));
                    hedge.sent(now);
                }
            }
        }
    }
}

impl Race {
    fn of<In: RequestBody>(terms: &HedgeLayer, request: Request<In>) -> Self {
        let (mut head, body) = request.into_parts();
        let options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
        let context = CallContext::current();
        let (deadline, before) = context.as_deref().map_or((None, 1), |context| (context.deadline, context.attempt));
        let attempt = headers::attempt_of(&head.headers).max(before);
        let facts = RequestFacts {
            idempotent: options.idempotent.unwrap_or_else(|| terms.policy.is_idempotent(&head.method, &head.headers)),
            body_replayable: true,
            committed: false,
            deadline,
            wall: terms.clock.wall(),
        };
        let reach = terms.policy.reach(&head.headers, before);
        let of = (Arc::clone(&terms.policy), Arc::clone(&terms.budget));
        let retry = begin(&mut head, reach, of, terms.clock.now());
        let may_copy = reach == Reach::Everything;
        let body = Replay::new(body.into_mesh(), crate::outbound::REPLAY_LIMIT);
        Self { head, body, retry, facts, may_copy, attempt }
    }

    fn copy<In: RequestBody>(&self, nth: u32) -> Request<In> {
        let mut request = Request::from_parts(self.head.clone(), In::from_mesh(self.body.attempt()));
        headers::tell_attempt(request.headers_mut(), nth, self.attempt);
        request
    }
}

fn observe<B>(terms: &HedgeLayer, answer: &Result<Response<B>, BoxError>, sent_at: Instant) {
    if answer.is_ok() {
        let now = terms.clock.now();
        terms.hedging.observe(now.saturating_duration_since(sent_at), now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::body::Body;
    use crate::policy::hedge::HedgeDelay;

    fn policy(ms: u64) -> HedgePolicy {
        HedgePolicy {
            max_hedges: 1,
            delay: HedgeDelay::Fixed(Duration::from_millis(ms)),
            min_samples: 1,
            budget: BudgetConfig::new(1.0, 10, Duration::from_secs(1)).unwrap(),
            hint_cap: Duration::from_secs(1),
        }
    }

    /// Sends one request; the first copy of a GET hangs for ever, a POST takes a second, the others answer at
    /// once with their number.
    async fn send(method: &str) -> (Option<String>, usize) {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let service = ServiceBuilder::new().layer(HedgeLayer::new(policy(5))).service(tower::service_fn(
            move |request: Request<Body>| {
                let nth = count.fetch_add(1, Ordering::SeqCst);
                async move {
                    match request.method().as_str() {
                        "POST" => tokio::time::sleep(Duration::from_secs(1)).await,
                        _ if nth == 0 => std::future::pending().await,
                        _ => {}
                    }
                    let told = request.headers().get("x-envoy-attempt-count").map(|v| v.to_str().unwrap().to_owned());
                    let body = request.into_body().collect_up_to(64).await.unwrap();
                    let mut response = Response::new(Body::from(body));
                    if let Some(told) = told {
                        response.headers_mut().insert("x-told", told.parse().unwrap());
                    }
                    Ok::<_, BoxError>(response)
                }
            },
        ));
        let request = Request::builder().method(method).uri("http://a/").body(Body::from("hello")).unwrap();
        let response = service.oneshot(request).await.unwrap();
        let told = response.headers().get("x-told").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), "hello");
        (told, sent.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_copy_overtakes_a_request_that_hangs_and_says_that_it_is_the_second() {
        assert_eq!(send("GET").await, (Some("2".to_owned()), 2));
    }

    /// A copy would have been due 200 times over.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_may_not_be_sent_twice_gets_no_copy() {
        assert_eq!(send("POST").await, (None, 1));
    }
}
