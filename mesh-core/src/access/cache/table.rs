//! Bounded storage of entries.
//!
//! Decides: which entry makes room for a new one (CLOCK: second chance for what was used since the hand
//! last passed).
//! Never: takes a write lock to read; never holds more than its capacity.
//! Invariant: an entry is found by its full key only; the hash chooses the shard and the bucket.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crate::access::verdict::Verdict;

/// Keys to entries, in shards with a lock each.
pub(super) struct Table<S> {
    hasher: S,
    shards: Box<[RwLock<Shard<S>>]>,
}

struct Shard<S> {
    index: HashMap<Arc<[u8]>, usize, S>,
    slots: Vec<(Arc<[u8]>, Arc<Entry>)>,
    hand: usize,
    capacity: usize,
}

impl<S: BuildHasher + Clone> Table<S> {
    pub(super) fn new(capacity: usize, hasher: S) -> Self {
        let shards = (capacity / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS);
        let shard = |at: usize| {
            let capacity = capacity / shards + usize::from(at < capacity % shards);
            RwLock::new(Shard { index: HashMap::with_hasher(hasher.clone()), slots: Vec::new(), hand: 0, capacity })
        };
        Self { shards: (0..shards).map(shard).collect(), hasher }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Arc<Entry>> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let (_, entry) = &shard.slots[*shard.index.get(key)?];
        Some(entry.clone())
    }

    /// Says whether a live entry had to go.
    pub(super) fn insert(&self, key: Arc<[u8]>, entry: Entry, now: Instant) -> bool {
        self.shard(&key).write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(entry), now)
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.index.clear();
            shard.slots.clear();
            shard.hand = 0;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).slots.len()).sum()
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Shard<S>> {
        // The upper half: the map inside the shard uses the lower bits.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % self.shards.len()]
    }
}

impl<S: BuildHasher> Shard<S> {
    fn insert(&mut self, key: Arc<[u8]>, entry: Arc<Entry>, now: Instant) -> bool {
        if let Some(slot) = self.index.get(&key) {
            self.slots[*slot].1 = entry;
            return false;
        }
        if self.slots.len() < self.capacity {
            self.index.insert(key.clone(), self.slots.len());
            self.slots.push((key, entry));
            return false;
        }
        if self.slots.is_empty() {
            return false;
        }
        let (slot, was_live) = self.victim(now);
        self.index.remove(&self.slots[slot].0);
        self.index.insert(key.clone(), slot);
        self.slots[slot] = (key, entry);
        was_live
    }

    /// At most one full turn clears all marks, so the second ends.
    fn victim(&mut self, now: Instant) -> (usize, bool) {
        loop {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let entry = &self.slots[slot].1;
            let is_live = now < entry.grace_ends && !entry.is_void.load(Ordering::Relaxed);
            if !is_live || !entry.was_used.swap(false, Ordering::Relaxed) {
                return (slot, is_live);
            }
        }
    }
}

/// One kept answer.
pub(super) struct Entry {
    pub(super) verdict: Arc<Verdict>,
    pub(super) grace_ends: Instant,
    pub(super) refresh_at: Option<Instant>,
    expires: Instant,
    epoch: u64,
    uses: Option<AtomicU64>,
    was_used: AtomicBool,
    is_void: AtomicBool,
    is_refreshing: AtomicBool,
}

/// Which entries a lookup may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Not expired.
    Valid,
    /// Expired, or not, but within its grace.
    InGrace,
}

impl Entry {
    pub(super) fn new(verdict: Arc<Verdict>, epoch: u64, expires: Instant) -> Self {
        Self {
            verdict,
            grace_ends: expires,
            refresh_at: None,
            expires,
            epoch,
            uses: None,
            was_used: AtomicBool::new(false),
            is_void: AtomicBool::new(false),
            is_refreshing: AtomicBool::new(false),
        }
    }

    pub(super) fn with_uses(mut self, uses: Option<u64>) -> Self {
        self.uses = uses.map(AtomicU64::new);
        self
    }

    pub(super) fn is_usable(&self, now: Instant, epoch: u64, age: Age) -> bool {
        let end = if age == Age::Valid { self.expires } else { self.grace_ends };
        self.is_current(epoch) && now < end
    }

    pub(super) fn is_expired(&self, now: Instant, epoch: u64) -> bool {
        self.is_current(epoch) && now >= self.expires
    }

    fn is_current(&self, epoch: u64) -> bool {
        self.epoch == epoch && !self.is_void.load(Ordering::Acquire)
    }

    /// The header changes may differ: the more specific answer wins.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        (self.verdict.allow, self.verdict.status) == (other.verdict.allow, other.verdict.status)
    }

    pub(super) fn void(&self) {
        self.is_void.store(true, Ordering::Release);
    }

    /// Takes one use; exactly as many succeed as were granted.
    pub(super) fn take_use(&self) -> bool {
        self.was_used.store(true, Ordering::Relaxed);
        let Some(uses) = &self.uses else { return true };
        uses.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    /// True once, for the first hit after the time has come.
    pub(super) fn is_due_for_refresh(&self, now: Instant) -> bool {
        self.refresh_at.is_some_and(|at| now >= at) && !self.is_refreshing.swap(true, Ordering::AcqRel)
    }
}

/// More shards than cores that could meet in one, on most machines.
const MAX_SHARDS: usize = 32;
/// Below this a shard is too small to evict by use.
const MIN_SHARD_ENTRIES: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::time::Duration;

    use super::*;

    fn entry(now: Instant) -> Entry {
        Entry::new(Arc::new(Verdict::allow()), 0, now + Duration::from_secs(60))
    }

    #[test]
    fn a_locked_shard_does_not_stop_the_others() {
        let now = Instant::now();
        let table = Table::new(10_000, RandomState::new());
        let keys: Vec<Arc<[u8]>> = (0..1000_u32).map(|key| Arc::from(key.to_le_bytes())).collect();
        for key in &keys {
            table.insert(key.clone(), entry(now), now);
        }
        let _held = table.shards[0].write().unwrap();
        let free: Vec<_> = keys.iter().filter(|key| !std::ptr::eq(table.shard(key), &table.shards[0])).collect();
        assert!(free.len() > 900);
        assert!(free.iter().all(|key| table.find(key).is_some()));
    }

    #[test]
    fn the_table_never_holds_more_than_its_capacity() {
        let now = Instant::now();
        for capacity in [1, 2, 63, 64, 1000] {
            let table = Table::new(capacity, RandomState::new());
            let evicted =
                (0..5000_u32).filter(|key| table.insert(Arc::from(key.to_le_bytes()), entry(now), now)).count();
            assert!(table.len() <= capacity, "{capacity}");
            assert_eq!(evicted, 5000 - table.len(), "{capacity}");
        }
        let none = Table::new(0, RandomState::new());
        none.insert(Arc::from([1]), entry(now), now);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn what_is_dead_goes_before_what_is_used() {
        let now = Instant::now();
        let table = Table::new(2, RandomState::new());
        table.insert(Arc::from([1]), entry(now), now);
        table.insert(Arc::from([2]), entry(now), now);
        for key in [[1], [2]] {
            assert!(table.find(&key).unwrap().take_use());
        }
        table.find(&[2]).unwrap().void();
        assert!(!table.insert(Arc::from([3]), entry(now), now), "nothing alive had to go");
        assert!(table.find(&[1]).is_some() && table.find(&[2]).is_none());
    }
}
