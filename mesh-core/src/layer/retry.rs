//! Retries with a budget, for any service.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::circuit_breaker::ready_call;
use super::{Pending, RequestBody, facts_of};
use crate::context::CallContext;
use crate::error::BoxError;
use crate::outbound::replay::Replay;
use crate::outbound::{CallOptions, headers};
use crate::policy::budget::{Budget, BudgetConfig};
use crate::policy::retry::{Decision, Outcome, Reach, RequestFacts, RetryPolicy, RetryState};
use crate::time::{Clock, Randomness, SystemClock};

/// Tries again when that is worth it and safe. All services it makes share one budget.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use mesh_core::layer::RetryLayer;
/// use mesh_core::policy::retry::RetryPolicy;
///
/// // Fails a first attempt; a further one says that it is.
/// let flaky = service_fn(|request: Request<Body>| async move {
///     let status = if request.headers().contains_key("x-envoy-attempt-count") { 200 } else { 503 };
///     Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty())?)
/// });
/// let client = ServiceBuilder::new().layer(RetryLayer::new(RetryPolicy::default())).service(flaky);
/// assert_eq!(client.oneshot(Request::new(Body::empty())).await?.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RetryLayer {
    policy: Arc<RetryPolicy>,
    budget: Arc<Budget>,
    clock: Arc<dyn Clock>,
    randomness: Arc<Randomness>,
}

impl RetryLayer {
    /// With the default budget: 20 % of requests and 10 a second.
    pub fn new(policy: RetryPolicy) -> Self {
        Self::shared(Arc::new(policy), Arc::new(Budget::new(BudgetConfig::default())))
    }

    /// With a budget that others draw on too.
    pub fn shared(policy: Arc<RetryPolicy>, budget: Arc<Budget>) -> Self {
        Self { policy, budget, clock: Arc::new(SystemClock), randomness: Arc::new(Randomness::from_entropy()) }
    }

    /// Uses this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, terms: self.clone() }
    }
}

/// A service that is tried again.
#[derive(Clone)]
pub struct Retry<S> {
    inner: S,
    terms: RetryLayer,
}

impl<S, In, B> Service<Request<In>> for Retry<S>
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
        Box::pin(run(self.inner.clone(), self.terms.clone(), request))
    }
}

async fn run<S, In, B>(mut inner: S, terms: RetryLayer, request: Request<In>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<In>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    In: RequestBody,
{
    let (mut head, body) = request.into_parts();
    let options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
    let idempotent = options.idempotent.unwrap_or_else(|| terms.policy.is_idempotent(&head.method, &head.headers));
    let context = CallContext::current();
    let (deadline, before) = context.as_deref().map_or((None, 1), |context| (context.deadline, context.attempt));
    let body = Replay::new(body.into_mesh(), crate::outbound::REPLAY_LIMIT);
    let mut rng = terms.randomness.generator();
    let reach = terms.policy.reach(&head.headers, before);
    let mut state = begin(&mut head, reach, (terms.policy, terms.budget), terms.clock.now());
    loop {
        let mut attempt = Request::from_parts(head.clone(), In::from_mesh(body.attempt()));
        headers::tell_attempt(attempt.headers_mut(), state.used() + 1, before);
        let answer = ready_call(&mut inner, attempt).await;
        let outcome = outcome(&answer);
        let facts = RequestFacts {
            idempotent,
            body_replayable: body.is_replayable(),
            committed: false,
            deadline,
            wall: terms.clock.wall(),
        };
        let now = terms.clock.now();
        match state.decide(&outcome, &facts, now, &mut rng) {
            Decision::Retry { after } => {
                drop(answer);
                terms.clock.sleep_until(crate::time::after(now, after)).await;
            }
            Decision::Stop(reason) => {
                if let Some(context) = context.filter(|_| state.gave_up(reason)) {
                    context.gave_up.set();
                }
                return answer;
            }
        }
    }
}

/// What an engine is told of an answer.
pub(super) fn outcome<B>(answer: &Result<Response<B>, BoxError>) -> Outcome<'_> {
    match answer {
        Ok(response) => Outcome::of_head(response.status().as_u16(), response.headers()),
        Err(error) => {
            let (kind, sent) = facts_of(error);
            Outcome::Failure { kind, sent }
        }
    }
}

/// A request passes several layers, and attempts of it; it is one deposit into the budget that they share.
pub(super) fn begin(
    head: &mut http::request::Parts,
    reach: Reach,
    of: (Arc<RetryPolicy>, Arc<Budget>),
    now: Instant,
) -> RetryState {
    let is_counted = head.extensions.get::<Counted>().is_some_and(|counted| Arc::ptr_eq(&counted.0, &of.1));
    if is_counted {
        return RetryState::counted(reach, of);
    }
    head.extensions.insert(Counted(Arc::clone(&of.1)));
    RetryState::reaching(reach, of, now)
}

/// A request extension: this budget has had its deposit.
#[derive(Clone)]
struct Counted(Arc<Budget>);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::body::Body;

    #[tokio::test]
    async fn o16_layers_that_share_a_budget_make_one_deposit_for_a_request() {
        let config = BudgetConfig::new(0.1, 10, Duration::from_secs(10)).unwrap();
        let budget = Arc::new(Budget::new(config));
        let layer = || RetryLayer::shared(Arc::default(), Arc::clone(&budget));
        let service = ServiceBuilder::new()
            .layer(layer())
            .layer(layer())
            .service(tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) }));
        for _ in 0..10 {
            service.clone().oneshot(Request::get("http://a/").body(Body::empty()).unwrap()).await.unwrap();
        }
        assert_eq!(budget.balance(SystemClock.now()), 101);
    }
}
