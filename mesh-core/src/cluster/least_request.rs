//! Least request: of two endpoints, the one with fewer requests in flight for its weight.
//!
//! Decides: whether one endpoint is strictly cheaper than another. Never: draws the two; the picker
//! draws them in proportion to their weights (power of two choices, gRFC A48: choice count 2).
//! Invariant: a tie is no win, so that the first one drawn stays and an idle cluster is shared by
//! weight.

use crate::endpoint::load::Load;

/// Whether `challenger` has strictly fewer requests in flight per weight than `first`.
pub(super) fn is_cheaper(challenger: (&Load, u32), first: (&Load, u32)) -> bool {
    // a / wa < b / wb without the division; the products of two u32 fit.
    let product = |load: &Load, weight: u32| u64::from(load.in_flight()) * u64::from(weight);
    product(challenger.0, first.1) < product(first.0, challenger.1)
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
            assert_eq!(is_cheaper((&one, challenger.1), (&two, first.1)), expected, "{challenger:?} {first:?}");
        }
    }
}
