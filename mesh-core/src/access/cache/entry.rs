//! One kept answer.
//!
//! Decides: whether it may still be used, and whether it is time to ask again.
//! Never: lives longer because it is used. Invariant: of a limited number of uses exactly that many are given.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::access::verdict::Verdict;
use crate::telemetry::cells::{stripe, stripes};

/// An answer and its life.
pub(super) struct Entry {
    pub(super) grace_ends: Instant,
    pub(super) refresh: Option<Refresh>,
    pub(super) uses: Option<AtomicU64>,
    /// What it takes with its key.
    pub(super) bytes: usize,
    pub(super) standing: Standing,
    allow: bool,
    status: u16,
    /// `None`: an approval that changes nothing. One serves all entries, so it is near whenever it is wanted.
    verdicts: Option<Box<Verdicts>>,
    expires: Instant,
    epoch: u64,
    is_void: AtomicBool,
}

/// When a hit asks for a new answer.
pub(super) struct Refresh {
    at: Instant,
    is_begun: Arc<AtomicBool>,
}

/// The turn to ask for a new answer: one hit has it, and keeps it unless it gives it back.
pub(super) struct Turn(Arc<AtomicBool>);

/// Which entries a lookup may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Not expired.
    Valid,
    /// Expired, or not, but within its grace.
    InGrace,
}

/// What a cache that is full looks at.
#[derive(Default)]
pub(super) struct Standing {
    /// Hits since it was last looked at, up to [`Standing::MOST_HITS`].
    hits: AtomicU8,
    /// Whether it has proven to be of use.
    pub(super) is_proven: AtomicBool,
}

impl Standing {
    /// More would let an entry that was used once outlive those in use (S3-FIFO counts to three).
    const MOST_HITS: u8 = 3;

    #[inline]
    fn hit(&self) {
        let hits = self.hits.load(Ordering::Relaxed);
        // A lost count does no harm; a store that changes nothing would take the cache line from other cores.
        if hits < Self::MOST_HITS {
            self.hits.store(hits + 1, Ordering::Relaxed);
        }
    }

    /// Takes all hits, says how many there were.
    pub(super) fn take_hits(&self) -> u8 {
        self.hits.swap(0, Ordering::Relaxed)
    }

    /// Takes one hit, if there is one.
    pub(super) fn spend_hit(&self) -> bool {
        self.hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hits| hits.checked_sub(1)).is_ok()
    }

    /// A new answer to the same question stands where the old one stood.
    pub(super) fn inherit(&self, before: &Self) {
        self.hits.store(before.hits.load(Ordering::Relaxed), Ordering::Relaxed);
        self.is_proven.store(before.is_proven.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Entry {
    pub(super) fn new(verdict: Arc<Verdict>, epoch: u64, expires: Instant) -> Self {
        Self {
            grace_ends: expires,
            refresh: None,
            uses: None,
            bytes: 0,
            standing: Standing::default(),
            allow: verdict.allow,
            status: verdict.status,
            verdicts: (*verdict != Verdict::allow()).then(|| Box::new(Verdicts::new(verdict))),
            expires,
            epoch,
            is_void: AtomicBool::new(false),
        }
    }

    /// `approval` is what an approval that changes nothing reads as.
    #[inline]
    pub(super) fn verdict<'a>(&'a self, approval: &'a Verdicts) -> &'a Arc<Verdict> {
        self.verdicts.as_deref().unwrap_or(approval).mine()
    }

    /// What it takes in memory under a key of so many bytes, give or take the allocator's own.
    pub(super) fn weigh(&mut self, key_bytes: usize) {
        self.bytes = OVERHEAD_BYTES + key_bytes + self.verdicts.as_ref().map_or(0, |verdicts| verdicts.bytes());
    }

    #[inline]
    pub(super) fn is_usable(&self, now: Instant, epoch: u64, age: Age) -> bool {
        let end = if age == Age::Valid { self.expires } else { self.grace_ends };
        self.is_current(epoch) && now < end
    }

    #[inline]
    pub(super) fn is_expired(&self, now: Instant, epoch: u64) -> bool {
        self.is_current(epoch) && now >= self.expires
    }

    /// Whether it can be of no more use to anybody.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.grace_ends || self.is_void.load(Ordering::Relaxed)
    }

    #[inline]
    fn is_current(&self, epoch: u64) -> bool {
        self.epoch == epoch && !self.is_void.load(Ordering::Acquire)
    }

    /// The header changes may differ: the more specific answer wins.
    #[inline]
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        (self.allow, self.status) == (other.allow, other.status)
    }

    pub(super) fn void(&self) {
        self.is_void.store(true, Ordering::Release);
    }

    /// Takes one use; exactly as many succeed as were granted.
    #[inline]
    pub(super) fn take_use(&self) -> bool {
        self.standing.hit();
        let Some(uses) = &self.uses else { return true };
        uses.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    /// For the first hit after the time has come.
    #[inline]
    pub(super) fn turn_to_refresh(&self, now: Instant) -> Option<Turn> {
        let Refresh { is_begun, .. } = self.refresh.as_ref().filter(|refresh| now >= refresh.at)?;
        (!is_begun.swap(true, Ordering::AcqRel)).then(|| Turn(Arc::clone(is_begun)))
    }
}

impl Refresh {
    pub(super) fn at(at: Instant) -> Self {
        Self { at, is_begun: Arc::default() }
    }
}

impl Turn {
    /// It could not ask: a later hit does.
    pub(super) fn give_back(self) {
        self.0.store(false, Ordering::Release);
    }
}

/// One verdict, with a copy for each stripe of threads that asks: all hits on one entry would else count the same
/// reference up and down, and two cores would be slower than one.
pub(super) struct Verdicts {
    first: Arc<Verdict>,
    copies: Box<[OnceLock<Arc<Verdict>>]>,
}

impl Verdicts {
    fn new(first: Arc<Verdict>) -> Self {
        let copies: Box<[OnceLock<_>]> = (0..stripes()).map(|_| OnceLock::new()).collect();
        // Who keeps an answer is likely to ask for it again.
        let _ = copies[stripe(copies.len())].set(Arc::clone(&first));
        Self { first, copies }
    }

    /// An approval that changes nothing, for all entries of a cache.
    pub(super) fn approval() -> Self {
        let copies = (0..APPROVALS).map(|_| OnceLock::new()).collect();
        Self { first: Arc::new(Verdict::allow()), copies }
    }

    /// With all the copies that hits may have it make: what grows later is not weighed again.
    fn bytes(&self) -> usize {
        self.first.bytes() + self.copies.len() * (self.first.copied_bytes() + size_of::<OnceLock<Arc<Verdict>>>())
    }

    #[inline]
    fn mine(&self) -> &Arc<Verdict> {
        self.copies[stripe(self.copies.len())].get_or_init(|| Arc::new(Verdict::clone(&self.first)))
    }
}

/// The entry and its places in table and queue.
const OVERHEAD_BYTES: usize = 512;
/// Copies of the approval, a power of two, made when the first thread wants them: more than an entry has of its own
/// verdict, as the hits of all entries meet here.
const APPROVALS: usize = 64;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::access::verdict::HeaderChange;

    fn weight(verdict: Verdict) -> usize {
        let mut entry = Entry::new(Arc::new(verdict), 0, Instant::now());
        entry.weigh(0);
        entry.bytes
    }

    #[test]
    fn an_entry_weighs_the_copies_that_hits_make_and_what_they_share_once() {
        let header = HeaderChange::set("x-reason", &"y".repeat(100)).unwrap();
        let query = |verdict: Verdict| Verdict { query_to_set: vec![("q".into(), "z".repeat(1000))], ..verdict };
        let verdict =
            Verdict { response_headers: vec![header], body: Bytes::from(vec![0; 10_000]), ..Verdict::deny(403) };
        let shared = weight(verdict.clone()) - weight(Verdict::deny(403));
        assert!((10_100..11_000 + stripes() * 100).contains(&shared), "{shared}: body and value count once");
        let copied = weight(query(verdict.clone())) - weight(verdict);
        assert!(copied >= (stripes() + 1) * 1000, "{copied}: each copy has its own query");
        assert_eq!(weight(Verdict::allow()), OVERHEAD_BYTES, "all such entries share one verdict");
    }
}
