//! Retry storms: four services in a chain, the last of which fails for a while.
//!
//! Every hop retries on its own, with the real retry engine and the real budget. The waits of one request
//! are followed in order; what a request does between two arrivals takes no other time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue};
use mesh_core::policy::budget::{Budget, BudgetConfig};
use mesh_core::policy::retry::{Decision, Outcome, RequestFacts, RetryPolicy, RetryState};

use crate::curve::Table;
use crate::timeline::arrival;

/// How a chain protects itself.
#[derive(Clone, Copy, PartialEq)]
pub enum Guard {
    /// Retries are limited by their number alone.
    None,
    /// Each hop has the default budget.
    Budget,
    /// And the hops know of each other, as by default: what is a retry already is not repeated further down, and who
    /// tried enough tells its caller (`x-mesh-should-retry: false`).
    Chain,
}

const HOPS: usize = 4;
const RATE: f64 = 500.0;
const SECONDS: f64 = 40.0;
/// The outage.
const DOWN: std::ops::Range<f64> = 10.0..30.0;

struct Chain {
    guard: Guard,
    policy: Arc<RetryPolicy>,
    budgets: Vec<Arc<Budget>>,
    /// Attempts that reached each service.
    arrived: [usize; HOPS],
    /// Of which during the outage.
    in_outage: [usize; HOPS],
    base: Instant,
    rng: fastrand::Rng,
}

/// What a caller sees.
struct Answer {
    status: u16,
    headers: HeaderMap,
}

impl Chain {
    fn new(guard: Guard) -> Self {
        let config = match guard {
            // A thousand retries a request: never empty.
            Guard::None => BudgetConfig::new(1000.0, 1_000_000, Duration::from_secs(10)).unwrap(),
            _ => BudgetConfig::default(),
        };
        Self {
            guard,
            policy: Arc::new(RetryPolicy { nested: guard != Guard::Chain, ..RetryPolicy::default() }),
            budgets: (0..HOPS).map(|_| Arc::new(Budget::new(config))).collect(),
            arrived: [0; HOPS],
            in_outage: [0; HOPS],
            base: Instant::now(),
            rng: fastrand::Rng::with_seed(17),
        }
    }

    /// One request of the caller of service `hop`, with all its attempts; it is part of the `attempt`-th of its own
    /// caller. `now` moves with its waits.
    fn call(&mut self, hop: usize, attempt: u32, now: &mut f64) -> Answer {
        let at = |seconds: f64, base: Instant| base + Duration::from_secs_f64(seconds);
        let reach = self.policy.reach(&HeaderMap::new(), attempt);
        let of = (Arc::clone(&self.policy), Arc::clone(&self.budgets[hop]));
        let mut retry = RetryState::reaching(reach, of, at(*now, self.base));
        let facts = RequestFacts {
            idempotent: true,
            body_replayable: true,
            committed: false,
            deadline: None,
            wall: SystemTime::UNIX_EPOCH,
        };
        loop {
            let mut answer = self.serve(hop, attempt + retry.used(), now);
            let outcome = Outcome::Response { status: answer.status, grpc_status: None, headers: &answer.headers };
            match retry.decide(&outcome, &facts, at(*now, self.base), &mut self.rng) {
                Decision::Retry { after } => *now += after.as_secs_f64(),
                Decision::Stop(reason) => {
                    if self.guard == Guard::Chain && retry.gave_up(reason) {
                        answer.headers.insert("x-mesh-should-retry", HeaderValue::from_static("false"));
                    }
                    return answer;
                }
            }
        }
    }

    /// Service `hop` handles one attempt: it calls the next, the last one answers.
    fn serve(&mut self, hop: usize, attempt: u32, now: &mut f64) -> Answer {
        let is_down = DOWN.contains(now);
        self.arrived[hop] += 1;
        self.in_outage[hop] += usize::from(is_down);
        if hop + 1 < HOPS {
            return self.call(hop + 1, attempt, now);
        }
        Answer { status: if is_down { 503 } else { 200 }, headers: HeaderMap::new() }
    }
}

/// How many times the offered load each service of the chain sees during the outage.
fn amplification(guard: Guard) -> [f64; HOPS] {
    let mut chain = Chain::new(guard);
    let (mut now, mut offered) = (0.0, 0.0_f64);
    while now < SECONDS {
        offered += f64::from(u8::from(DOWN.contains(&now)));
        chain.call(0, 1, &mut now.clone());
        now += arrival(RATE, &mut chain.rng).as_secs_f64();
    }
    chain.in_outage.map(|attempts| attempts as f64 / offered)
}

pub fn chain() -> Table {
    let mut table = Table::new("retry_storm", &["guard", "requests_per_second", "hop_1", "hop_2", "hop_3", "hop_4"]);
    let guards = [("none", Guard::None), ("budget", Guard::Budget), ("chain", Guard::Chain)];
    for (name, guard) in guards {
        table.row(name, RATE, &amplification(guard));
    }
    table
}

#[test]
fn budgets_bound_a_storm_at_each_hop_and_what_hops_tell_each_other_along_the_chain() {
    let table = chain();
    table.print();
    let last = |guard: &str| table.value(guard, "500", "hop_4");
    assert!(last("none") > 50.0, "three tries at each of four hops multiply: {}", last("none"));
    // Each hop adds a fifth and its floor of ten a second; four hops multiply that.
    assert!(last("budget") < 1.25_f64.powi(4), "{}", last("budget"));
    assert!(last("chain") <= 1.25, "{}", last("chain"));
}
