//! A full outage behind a chain of services, in virtual time: what the last one sees.

use http::HeaderValue;

use super::*;

/// A chain of services, each with its own budget, in front of one that always answers 503.
struct Chain {
    budgets: Vec<Arc<Budget>>,
    policy: Arc<RetryPolicy>,
    /// Whether a service tells its caller that it has tried enough.
    tells: bool,
    seen: u64,
    rng: fastrand::Rng,
}

impl Chain {
    fn new(hops: usize, policy: RetryPolicy, tells: bool) -> Self {
        let budgets = (0..hops).map(|_| Arc::default()).collect();
        Self { budgets, policy: Arc::new(policy), tells, seen: 0, rng: fastrand::Rng::with_seed(1) }
    }

    /// One request at a hop, the `attempt`-th of its caller; whether its failure is marked.
    fn ask(&mut self, hop: usize, attempt: u32, now: Instant) -> bool {
        let Some(budget) = self.budgets.get(hop).map(Arc::clone) else {
            self.seen += 1;
            return false;
        };
        let reach = self.policy.reach(&HeaderMap::new(), attempt);
        let mut state = RetryState::reaching(reach, (Arc::clone(&self.policy), budget), now);
        let facts = Call::new(RetryPolicy::default()).facts;
        loop {
            let is_marked = self.ask(hop + 1, attempt + state.used(), now);
            let mut headers = HeaderMap::new();
            if is_marked && self.tells {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            let outcome = Outcome::Response { status: 503, grpc_status: None, headers: &headers };
            if let Decision::Stop(reason) = state.decide(&outcome, &facts, now, &mut self.rng) {
                return is_marked || state.gave_up(reason);
            }
        }
    }

    /// Ten seconds of 2,000 requests a second; how many times that the last service saw.
    fn amplification(mut self) -> f64 {
        let start = Instant::now();
        for number in 0..20_000_u32 {
            self.ask(0, 1, start + number * Duration::from_micros(500));
        }
        self.seen as f64 / 20_000.0
    }
}

#[test]
fn o21_an_outage_is_amplified_by_the_budget_and_no_more() {
    let ratio = Chain::new(1, RetryPolicy::default(), true).amplification();
    // 20 % of requests, and a reserve of 100 once.
    assert!((1.19..=1.206).contains(&ratio), "{ratio}");
}

#[test]
fn o21_a_chain_of_four_amplifies_no_more_than_its_last_hop() {
    let ratio = Chain::new(4, RetryPolicy::default(), true).amplification();
    assert!(ratio <= 1.25, "{ratio}");
    let nested = RetryPolicy { nested: true, ..RetryPolicy::default() };
    let unbounded = Chain::new(4, nested, false).amplification();
    assert!(unbounded > 1.9, "without what the hops tell each other it would be worse: {unbounded}");
}
