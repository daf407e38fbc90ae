//! How far a rule is rolled out.
//!
//! Decides: whether a rule is in force for one request. Never: draws by anything a caller sends: who could choose would
//! choose to be spared. Invariant: a request draws once, for all rules, so that rules with the same share come into force
//! for the same requests, and none meets half of a change.

/// The share of requests that a rule is in force for; the others are only told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rollout(f64);

impl Rollout {
    /// In force for every request.
    pub const FULL: Self = Self(1.0);
    /// In force for none.
    pub const DRY_RUN: Self = Self(0.0);

    /// In force for this share of the requests, from 0 to 1.
    pub fn share(share: f64) -> Self {
        Self(share.clamp(0.0, 1.0))
    }

    /// Whether some requests are spared.
    pub fn is_partial(self) -> bool {
        self.0 < 1.0
    }

    /// Whether the rule is in force, as seen from `stage`.
    pub fn is_in_force(self, stage: Stage) -> bool {
        match stage {
            Stage::Now(Draw(drawn)) => drawn < self.0,
            Stage::Planned => true,
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self::FULL
    }
}

/// What a request drew, from 0 to 1: it meets the rules whose share is above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw(f64);

impl Draw {
    /// Meets every rule that is in force for anybody.
    pub const STRICT: Self = Self(0.0);

    /// Draws for one request.
    pub fn by(rng: &mut fastrand::Rng) -> Self {
        Self(rng.f64())
    }
}

/// Which rules are asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// Those that are in force for a request that drew so.
    Now(Draw),
    /// All, also those in dry run: what will be once they are rolled out.
    Planned,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most and the fewest of 10 000 that 5 % may be, for fewer than one false alarm in a million seeds: beyond
    /// them lies less than half a millionth of the binomial distribution each.
    const FEWEST: usize = 397;
    const MOST: usize = 610;

    #[test]
    fn a_share_of_five_percent_is_in_force_for_about_one_request_in_twenty() {
        let randomness = crate::time::Randomness::seeded(7);
        let in_force = |share: f64| {
            let rollout = Rollout::share(share);
            let draws = (0..10_000).map(|_| Draw::by(&mut randomness.generator()));
            draws.filter(|draw| rollout.is_in_force(Stage::Now(*draw))).count()
        };
        let found = in_force(0.05);
        assert!((FEWEST..=MOST).contains(&found), "{found} of 10 000");
        assert_eq!(in_force(0.0), 0);
        assert_eq!(in_force(1.0), 10_000);
    }

    #[test]
    fn who_meets_a_rule_of_a_smaller_share_meets_those_of_larger_ones() {
        let randomness = crate::time::Randomness::seeded(7);
        for _ in 0..1_000 {
            let draw = Stage::Now(Draw::by(&mut randomness.generator()));
            let met = [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| Rollout::share(share).is_in_force(draw));
            assert!(met.is_sorted(), "{met:?}");
        }
        assert!(Rollout::DRY_RUN.is_in_force(Stage::Planned));
        assert!(!Rollout::DRY_RUN.is_in_force(Stage::Now(Draw::STRICT)));
    }
}
