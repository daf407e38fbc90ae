//! What the check cache counts.
//!
//! Decides: nothing. Never: resets. Invariant: every lookup is exactly one hit or one miss.

use crate::access::verdict::FailureReason;
use crate::telemetry::cells::Cells;

/// A snapshot of the counters of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Lookups answered from the cache, refusals included.
    pub hits: u64,
    /// Lookups that were not.
    pub misses: u64,
    /// Hits that refused.
    pub negative_hits: u64,
    /// Misses that found an answer past its end.
    pub expired: u64,
    /// Live entries that had to make room.
    pub evicted: u64,
    /// Misses answered by another request's call.
    pub coalesced: u64,
    /// Background calls for an answer near its end.
    pub refreshes: u64,
    /// Expired answers that stood in for a failing server.
    pub stale_served: u64,
    /// Answers that were not kept.
    pub uncacheable: u64,
    /// Answers whose hints could not be read.
    pub malformed_hints: u64,
    /// Times that all answers were voided because the policy changed.
    pub voided: u64,
    /// Requests let through because the check failed and its rule fails open.
    pub fail_open: u64,
    /// Requests refused because the check failed and its rule fails closed.
    pub fail_closed: u64,
    /// Calls of the policy server.
    pub calls: u64,
    /// Entries held now, expired ones included.
    pub entries: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Reference sets in use now.
    pub reference_sets: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(in crate::access) struct Counters {
    pub(in crate::access) hits: Counter,
    pub(in crate::access) misses: Counter,
    pub(in crate::access) negative_hits: Counter,
    pub(in crate::access) expired: Counter,
    pub(in crate::access) evicted: Counter,
    pub(in crate::access) coalesced: Counter,
    pub(in crate::access) refreshes: Counter,
    pub(in crate::access) stale_served: Counter,
    pub(in crate::access) uncacheable: Counter,
    pub(in crate::access) malformed_hints: Counter,
    pub(in crate::access) voided: Counter,
    /// Failed checks by their [`Fate`], and by reason in the order of [`FailureReason::NAMES`].
    failed: [[Counter; FailureReason::NAMES.len()]; Fate::ALL.len()],
    pub(in crate::access) calls: Counter,
}

/// What was done about a check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The request was let through.
    FailOpen,
    /// The request was refused.
    FailClosed,
    /// An expired answer stood in.
    Stale,
    /// No request waited: it was asked ahead of an answer's end.
    Refresh,
}

impl Fate {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::FailOpen, Self::FailClosed, Self::Stale, Self::Refresh];

    /// As metrics say it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::FailOpen => "fail_open",
            Self::FailClosed => "fail_closed",
            Self::Stale => "stale",
            Self::Refresh => "refresh",
        }
    }
}

impl Counters {
    /// A check failed, and this is what became of it.
    pub(in crate::access) fn failed(&self, fate: Fate, reason: FailureReason) {
        let at = FailureReason::NAMES.iter().position(|name| *name == reason.as_str());
        self.failed[fate as usize][at.unwrap_or_default()].add(1);
    }

    /// How many checks failed for a reason.
    pub(in crate::access) fn failures(&self, fate: Fate, reason: &str) -> u64 {
        let at = FailureReason::NAMES.iter().position(|name| *name == reason);
        at.map_or(0, |at| self.failed[fate as usize][at].value())
    }

    fn all_failed(&self, fate: Fate) -> u64 {
        self.failed[fate as usize].iter().map(Counter::value).sum()
    }

    pub(super) fn snapshot(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.value(),
            misses: self.misses.value(),
            negative_hits: self.negative_hits.value(),
            expired: self.expired.value(),
            evicted: self.evicted.value(),
            coalesced: self.coalesced.value(),
            refreshes: self.refreshes.value(),
            stale_served: self.stale_served.value(),
            uncacheable: self.uncacheable.value(),
            malformed_hints: self.malformed_hints.value(),
            voided: self.voided.value(),
            fail_open: self.all_failed(Fate::FailOpen),
            fail_closed: self.all_failed(Fate::FailClosed),
            calls: self.calls.value(),
            entries: 0,
            bytes: 0,
            reference_sets: 0,
        }
    }
}

/// One counter. Every hit adds to one, so each thread has its own cache line.
#[derive(Debug)]
pub(in crate::access) struct Counter(Cells);

impl Default for Counter {
    fn default() -> Self {
        Self(Cells::new(1))
    }
}

impl Counter {
    #[inline]
    pub(in crate::access) fn add(&self, amount: u64) {
        if amount > 0 {
            self.0.add(0, amount);
        }
    }

    fn value(&self) -> u64 {
        self.0.total(0)
    }
}
