//! Least request: of several endpoints, the one with the fewest requests in flight for its weight.
//!
//! Decides: whether one endpoint is strictly cheaper than another. Never: draws them; the picker draws
//! them in proportion to their weights (power of two choices, gRFC A48: choice count 2).
//! Invariant: a tie is no win, so that the first one drawn stays and an idle cluster is shared by
//! weight.
//!
//! The cost is `in_flight ^ bias / weight`. Envoy, for unequal weights, schedules by
//! `weight / (in_flight + 1) ^ bias`; the draw has counted the weight already, so the `+ 1` would count
//! it a second time while the cluster is idle. Under load both end at the same place: requests in flight
//! in proportion to weight (bias 1), shares in proportion to weight alone (bias 0).

use crate::endpoint::load::Load;

/// Whether `challenger` has strictly fewer requests in flight per weight than `first`.
#[inline]
pub(super) fn is_cheaper(challenger: (&Load, f64), first: (&Load, f64), bias: f64) -> bool {
    if bias == 0.0 {
        return false;
    }
    // a / wa < b / wb without the division.
    let busy = |load: &Load| {
        let in_flight = f64::from(load.in_flight());
        if bias == 1.0 { in_flight } else { in_flight.powf(bias) }
    };
    busy(challenger.0) * first.1 < busy(first.0) * challenger.1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn fewer_requests_for_the_weight_win_and_a_tie_does_not() {
        let now = Instant::now();
        for (challenger, first, expected) in [
            ((0, 1), (0, 1), false),
            ((0, 1), (1, 1), true),
            ((1, 1), (0, 1), false),
            ((1, 3), (1, 1), true),
            ((3, 3), (1, 1), false),
            ((0, 3), (0, 1), false),
        ] {
            let [one, two] = [Arc::new(Load::new(now)), Arc::new(Load::new(now))];
            let _slots: Vec<_> = (0..challenger.0).map(|_| one.start(now)).collect();
            let _more: Vec<_> = (0..first.0).map(|_| two.start(now)).collect();
            let cheaper = is_cheaper((&one, f64::from(challenger.1)), (&two, f64::from(first.1)), 1.0);
            assert_eq!(cheaper, expected, "{challenger:?} {first:?}");
        }
    }

    #[test]
    fn the_bias_says_how_much_requests_in_flight_count() {
        let now = Instant::now();
        let [busy, idle] = [Arc::new(Load::new(now)), Arc::new(Load::new(now))];
        let _four: Vec<_> = (0..4).map(|_| busy.start(now)).collect();
        let _one = idle.start(now);
        // One request at weight 1 against four at weight 3: 1 < 4/3, but 1 > 2/3.
        for (bias, expected) in [(1.0, true), (0.5, false), (2.0, true), (0.0, false)] {
            assert_eq!(is_cheaper((&idle, 1.0), (&busy, 3.0), bias), expected, "{bias}");
        }
    }
}
