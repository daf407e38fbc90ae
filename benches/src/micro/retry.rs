//! A request through the retry layer: answered by the first attempt, and by the second; against tower's.
//!
//! Neither waits between attempts: ours backs off by a clock whose waits are over at once, tower's policy
//! waits for nothing. Both keep a copy of the request, and both budgets earn a token with each request, so
//! that they never run dry.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response};
use mesh_core::body::Body;
use mesh_core::layer::RetryLayer;
use mesh_core::policy::budget::{Budget, BudgetConfig};
use mesh_core::policy::retry::RetryPolicy;
use mesh_core::time::{Clock, SystemClock};
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{BoxError, Layer};

use super::Subject;
use super::service::{Answering, copy, requests};

/// Answered by the first attempt, and by the second.
pub fn subjects() -> Vec<Subject> {
    let cases =
        [against_tower("at once", Answering::default, 12), against_tower("once more", Answering::after_a_failure, 21)];
    cases.into_iter().flatten().collect()
}

fn against_tower(case: &str, answering: fn() -> Answering, most: u32) -> [Subject; 2] {
    let tower = format!("retry tower {case}");
    let theirs = move || requests(|| tower::retry::RetryLayer::new(Again::default()).layer(answering()));
    let ours = move || requests(|| ours().layer(answering()));
    let name = format!("retry {case}");
    [Subject::theirs(tower.clone(), theirs), Subject::at_most(most, name, Some(tower), ours)]
}

/// The default policy.
fn ours() -> RetryLayer {
    let config = BudgetConfig::new(RATIO.into(), PER_SECOND, WINDOW).unwrap_or_default();
    RetryLayer::shared(Arc::default(), Arc::new(Budget::new(config))).with_clock(Arc::new(NoWait))
}

/// The system's clock, but what is to wait does not.
struct NoWait;

impl Clock for NoWait {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall()
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ready(()))
    }
}

/// What the default policy does with these answers, as a policy of tower's.
#[derive(Clone)]
pub struct Again {
    budget: Arc<TpsBudget>,
    left: u32,
}

impl Default for Again {
    fn default() -> Self {
        let budget = TpsBudget::new(WINDOW, PER_SECOND, RATIO);
        Self { budget: Arc::new(budget), left: RetryPolicy::default().retries }
    }
}

impl tower::retry::Policy<Request<Body>, Response<Body>, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, answer: &mut Result<Response<Body>, BoxError>) -> Option<Self::Future> {
        if answer.as_ref().is_ok_and(|response| !response.status().is_server_error()) {
            self.budget.deposit();
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(copy(request))
    }
}

/// A token for every request.
const RATIO: f32 = 1.0;
/// And the default's floor: 10 a second, over 10 s.
const PER_SECOND: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
