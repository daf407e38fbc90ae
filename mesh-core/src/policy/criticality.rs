//! Criticality: how much it matters that a request is answered.
//!
//! Decides: how much of a limit each class may use, and that a class is only ever lowered on the way.
//! Never: reads a header; the stories do. Invariant: a class is refused no later than any class above it.
//!
//! The classes are those of Google's SRE book, "Handling Overload": under pressure the lowest go first.

use std::fmt;

use super::Invalid;

/// A class of requests; the greater, the more it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Criticality {
    /// May fail for a while, and nobody is told: batches, prefetching.
    Sheddable,
    /// Partly unavailable is expected: what can be tried again much later.
    SheddablePlus,
    /// A user sees the failure. The default of everything that says nothing.
    #[default]
    Critical,
    /// Serious: provision for it, and shed everything else first.
    CriticalPlus,
}

impl Criticality {
    /// Every class, lowest first.
    pub const ALL: [Self; 4] = [Self::Sheddable, Self::SheddablePlus, Self::Critical, Self::CriticalPlus];

    /// The stable name: header, metrics, configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::SheddablePlus => "sheddable_plus",
            Self::Critical => "critical",
            Self::CriticalPlus => "critical_plus",
        }
    }

    /// Reads a name, in any case; `None` when there is no such class.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim();
        Self::ALL.into_iter().find(|class| class.as_str().eq_ignore_ascii_case(name))
    }

    /// The class of a request: what it says, but no higher than who caused it, nor than `cap`.
    #[must_use]
    pub fn capped(said: Option<Self>, cause: Option<Self>, cap: Self) -> Self {
        let inherited = cause.unwrap_or_default();
        let said = said.unwrap_or(inherited);
        // What is caused by a batch is batch, whatever it says; a request without cause may be anything.
        let below_cause = cause.map_or(said, |cause| said.min(cause));
        below_cause.min(cap)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Up to which share of a limit, in percent, each class is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares([u8; 4]);

impl Shares {
    /// Percentages of the classes, lowest first. Must not fall; the highest class has the whole limit.
    pub fn new(sheddable: u8, sheddable_plus: u8, critical: u8) -> Result<Self, Invalid> {
        let shares = [sheddable, sheddable_plus, critical, 100];
        if shares.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Invalid { field: "shares", must: "not be greater for a lower class, nor above 100" });
        }
        Ok(Self(shares))
    }

    /// What of `limit` a class may use: at least one place, unless its share or the limit is nothing.
    pub fn of(self, limit: u32, class: Criticality) -> u32 {
        let share = u64::from(self.0[class.index()]);
        u32::try_from((u64::from(limit) * share).div_ceil(100)).unwrap_or(limit)
    }

    pub(crate) const fn to_bits(self) -> u32 {
        u32::from_le_bytes(self.0)
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits.to_le_bytes())
    }
}

/// 50, 75, 100 percent (ours): batches leave half of a limit to what users wait for.
impl Default for Shares {
    fn default() -> Self {
        Self([50, 75, 100, 100])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_only_ever_lowered_on_the_way() {
        use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};
        for (said, cause, cap, expected) in [
            (None, None, CriticalPlus, Critical),
            (Some(CriticalPlus), None, CriticalPlus, CriticalPlus),
            (Some(CriticalPlus), None, Critical, Critical),
            (Some(CriticalPlus), Some(Sheddable), CriticalPlus, Sheddable),
            (Some(Sheddable), Some(CriticalPlus), CriticalPlus, Sheddable),
            (None, Some(CriticalPlus), CriticalPlus, CriticalPlus),
            (None, Some(SheddablePlus), Critical, SheddablePlus),
            (None, None, Sheddable, Sheddable),
        ] {
            assert_eq!(Criticality::capped(said, cause, cap), expected, "{said:?} {cause:?} {cap:?}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_written_in_one() {
        for class in Criticality::ALL {
            assert_eq!(Criticality::named(&class.as_str().to_uppercase()), Some(class));
        }
        assert_eq!(Criticality::named("urgent"), None);
    }

    #[test]
    fn lower_classes_may_use_less_of_a_limit() {
        let shares = Shares::new(10, 50, 90).unwrap();
        for (limit, expected) in [(100, [10, 50, 90, 100]), (1, [1, 1, 1, 1]), (0, [0, 0, 0, 0])] {
            assert_eq!(Criticality::ALL.map(|class| shares.of(limit, class)), expected);
        }
        assert!(Shares::new(60, 50, 100).is_err());
        assert!(Shares::new(0, 0, 101).is_err());
        assert_eq!(Shares::from_bits(shares.to_bits()), shares);
    }
}
