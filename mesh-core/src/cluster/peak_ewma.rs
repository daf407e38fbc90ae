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
#[inline]
pub(super) fn is_cheaper(challenger: (&Load, f64), first: (&Load, f64), now: Instant) -> bool {
    let busy = |load: &Load| f64::from(load.in_flight()) + 1.0;
    // Both costs by the estimate of the first, and times both weights: `e^slowness * own < other`.
    let slowness = challenger.0.slowness_to(first.0, now);
    let (own, other) = (busy(challenger.0) * first.1, busy(first.0) * challenger.1);
    // Most pairs need no exponential: the faster one is not busier, too.
    match () {
        () if slowness >= 0.0 && own >= other => false,
        () if slowness <= 0.0 && own <= other => true,
        () => slowness.exp() * own < other,
    }
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

    /// The comparison computes neither cost; it has to come to what the costs say.
    #[test]
    fn the_cheaper_one_is_the_one_with_the_lower_cost_at_any_time_and_pace() {
        let (start, mut rng, mut cheaper) = (Instant::now(), fastrand::Rng::with_seed(8), 0);
        for _ in 0..10_000 {
            let now = start + Duration::from_millis(rng.u64(30_000..60_000));
            let [one, two] = [(); 2].map(|()| {
                let decay = Duration::from_secs([10, 10, 1][rng.usize(0..3)]);
                let load = Arc::new(Load::with(decay, Duration::from_micros(rng.u64(1..20_000)), start));
                load.observe(
                    Duration::from_micros(rng.u64(1..20_000)),
                    start + Duration::from_millis(rng.u64(0..30_000)),
                );
                let slots = (0..rng.u32(0..4)).map(|_| load.start(start)).collect::<Vec<_>>();
                (load, f64::from(rng.u32(1..4)), slots)
            });
            let [ours, theirs] = [(&one, &two), (&two, &one)].map(|(own, other)| own.0.cost(now) * other.1);
            if (ours / theirs - 1.0).abs() > 1e-9 {
                assert_eq!(is_cheaper((&one.0, one.1), (&two.0, two.1), now), ours < theirs);
                cheaper += u32::from(ours < theirs);
            }
        }
        assert!((4_000..6_000).contains(&cheaper), "{cheaper}");
    }
}
