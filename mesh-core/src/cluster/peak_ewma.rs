//! Peak EWMA: of two endpoints, the one where the next answer is expected sooner.
//!
//! Decides: whether one endpoint is strictly cheaper than another. Never: measures (`endpoint::load`
//! does) and never draws the two (the picker does, power of two choices).
//! Invariant: the cost is `estimate * (in flight + 1) / weight`; a slow answer counts at once, a fast
//! one over time, and a failure as its penalty, so that failing fast attracts nothing.
//!
//! A weight biases the choice, it does not set the share: between equals, twice the weight may carry
//! twice the requests in flight. Who needs exact shares uses `round_robin`.

use std::time::Instant;

use crate::endpoint::load::Load;

/// Whether a request costs strictly less on `challenger` than on `first`.
pub(super) fn is_cheaper(challenger: (&Load, f64), first: (&Load, f64), now: Instant) -> bool {
    challenger.0.cost(now) * first.1 < first.0.cost(now) * challenger.1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::endpoint::load::Outcome;

    #[test]
    fn latency_requests_in_flight_and_weight_make_the_cost() {
        let start = Instant::now();
        for (challenger, first, expected) in [
            ((10, 0, 1), (10, 0, 1), false),
            ((10, 0, 1), (11, 0, 1), true),
            ((10, 1, 1), (15, 0, 1), false),
            ((10, 1, 1), (25, 0, 1), true),
            ((10, 1, 2), (15, 0, 1), true),
            ((10, 0, 1), (15, 0, 2), false),
        ] {
            let [one, two] = [challenger, first].map(|(millis, pending, _)| {
                let load = Arc::new(Load::with(Duration::from_secs(10), Duration::from_millis(millis), start));
                (Arc::clone(&load), (0..pending).map(|_| load.start(start)).collect::<Vec<_>>())
            });
            let cheaper = is_cheaper((&one.0, f64::from(challenger.2)), (&two.0, f64::from(first.2)), start);
            assert_eq!(cheaper, expected, "{challenger:?} {first:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_fast_costs_more_than_one_that_answers_slowly() {
        let start = Instant::now();
        let later = start + Duration::from_millis(800);
        let [failing, slow] = [Arc::new(Load::new(start)), Arc::new(Load::new(start))];
        failing.start(start).finish(start + Duration::from_millis(1), Outcome::Failed { retry_after: None });
        slow.start(start).finish(later, Outcome::Answered);
        assert!(is_cheaper((&slow, 1.0), (&failing, 1.0), later));
    }
}
