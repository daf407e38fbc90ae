//! One attempt through a closed circuit breaker. Tower has none to compare with.

use std::time::Instant;

use mesh_core::policy::circuit_breaker::{BreakerConfig, CircuitBreaker, Outcome};

use super::{Run, Subject};

/// Admitted, and recorded as a success.
pub fn subjects() -> Vec<Subject> {
    vec![Subject::ours("breaker admit and record".to_owned(), None, attempts)]
}

fn attempts() -> Run {
    let now = Instant::now();
    let (breaker, mut rng) = (CircuitBreaker::new(BreakerConfig::default(), now), fastrand::Rng::with_seed(1));
    Box::new(move |times| {
        for _ in 0..times {
            if let Ok(permit) = breaker.admit(now) {
                permit.record(Outcome::Success, now, &mut rng);
            }
        }
    })
}
