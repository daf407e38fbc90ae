//! What answers depend on.
//!
//! Decides: which reference sets are known and in which order a lookup walks them.
//! Never: grows beyond its cap; a server that refers to something else each time costs sets, not memory.
//! Invariant: a set that was dropped and comes back has a new id, so its old entries are never found.

use std::cmp::Reverse;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::key::{Need, Part};
use crate::access::attributes::Attributes;
use crate::access::fact::Fact;

/// The facts an answer depends on: the values of some, the absence of others, and of some whichever it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    pub(super) exact: Vec<Fact>,
    pub(super) absent: Vec<Fact>,
    /// Their absence is part of a key as their values are.
    pub(super) either: Vec<Fact>,
}

impl References {
    /// Facts whose values matter, and facts that must not be there.
    pub fn new(mut exact: Vec<Fact>, mut absent: Vec<Fact>) -> Self {
        for facts in [&mut exact, &mut absent] {
            facts.sort();
            facts.dedup();
        }
        Self { exact, absent, either: Vec::new() }
    }

    /// The references of every answer under a configured key. One set, whichever of its facts a request has: else a
    /// caller who leaves out now this header and now that would fill the list of sets.
    pub(super) fn of_key(key: &[Fact]) -> Self {
        let mut either = key.to_vec();
        either.sort();
        either.dedup();
        Self { either, ..Self::default() }
    }

    /// Whether they describe a request.
    pub(super) fn hold(&self, attributes: &Attributes<'_>) -> bool {
        self.exact.iter().all(|fact| fact.is_in(attributes)) && !self.absent.iter().any(|fact| fact.is_in(attributes))
    }
}

/// Known references.
#[derive(Debug)]
pub(super) struct ReferenceSet {
    pub(super) id: u64,
    pub(super) references: References,
    /// What of them is not part of every key; and what is, because the server is told it.
    pub(super) facts: Box<[Part]>,
    /// Tick of the last hit.
    last_used: AtomicU64,
}

/// All known sets, most specific first.
pub(super) struct ReferenceSets {
    /// The first lists there were. A load is all it takes to read the last of them.
    early: [OnceLock<Sets>; EARLY_LISTS],
    /// How many lists there were.
    lists: AtomicUsize,
    /// The list that came after them: two more atomic exchanges.
    late: ArcSwap<Sets>,
    /// Held while the list is replaced. Lookups do not take it.
    next_id: Mutex<u64>,
    /// Advances by two with every new set; a hit in between is odd. Orders uses without a clock and without
    /// a write that all hits would share.
    tick: AtomicU64,
    capacity: usize,
    /// Facts that every answer depends on.
    told: Vec<Fact>,
}

impl ReferenceSets {
    pub(super) fn new(capacity: usize, told: Vec<Fact>) -> Self {
        Self {
            early: std::array::from_fn(|_| OnceLock::new()),
            lists: AtomicUsize::new(0),
            late: ArcSwap::default(),
            next_id: Mutex::new(0),
            tick: AtomicU64::new(0),
            capacity: capacity.max(1),
            told,
        }
    }

    #[inline]
    pub(super) fn load(&self) -> Known<'_> {
        match self.lists.load(Ordering::Acquire) {
            0 => Known::Early(&[]),
            count => match self.early.get(count - 1) {
                Some(list) => Known::Early(list.get().map_or(&[], |sets| sets)),
                None => Known::Late(self.late.load()),
            },
        }
    }

    #[inline]
    pub(super) fn touch(&self, set: &ReferenceSet) {
        let used = self.tick.load(Ordering::Relaxed) | 1;
        if set.last_used.load(Ordering::Relaxed) != used {
            set.last_used.store(used, Ordering::Relaxed);
        }
    }

    /// The set of these references; it may push out the one that was not used for longest.
    pub(super) fn intern(&self, references: References) -> Arc<ReferenceSet> {
        if let Some(set) = self.load().iter().find(|set| set.references == references) {
            self.touch(set);
            return set.clone();
        }
        let mut next_id = self.next_id.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sets = self.load().to_vec();
        if let Some(set) = sets.iter().find(|set| set.references == references) {
            return set.clone();
        }
        while sets.len() >= self.capacity {
            let oldest = (0..sets.len()).min_by_key(|at| (sets[*at].last_used.load(Ordering::Relaxed), sets[*at].id));
            sets.swap_remove(oldest.unwrap_or(0));
        }
        let last_used = AtomicU64::new(self.tick.fetch_add(2, Ordering::Relaxed) + 2);
        let exact = references.exact.iter().filter_map(|fact| Part::of(fact, Need::Value));
        let either = references.either.iter().chain(&self.told).filter_map(|fact| Part::of(fact, Need::Nothing));
        let facts = exact.chain(either).collect();
        let set = Arc::new(ReferenceSet { id: *next_id, references, facts, last_used });
        *next_id += 1;
        sets.push(set.clone());
        sets.sort_by_key(|set| {
            let References { exact, absent, either } = &set.references;
            let valued = exact.len() + either.len();
            (Reverse(valued + absent.len()), Reverse(valued), set.id)
        });
        self.publish(sets);
        set
    }

    /// Only who holds the lock.
    fn publish(&self, sets: Sets) {
        let count = self.lists.load(Ordering::Relaxed);
        match self.early.get(count) {
            Some(list) => drop(list.set(sets)),
            None => self.late.store(Arc::new(sets)),
        }
        self.lists.store((count + 1).min(EARLY_LISTS + 1), Ordering::Release);
    }
}

type Sets = Vec<Arc<ReferenceSet>>;

/// The sets that are known at a time.
pub(super) enum Known<'a> {
    Early(&'a [Arc<ReferenceSet>]),
    Late(Guard<Arc<Sets>>),
}

impl Deref for Known<'_> {
    type Target = [Arc<ReferenceSet>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Early(sets) => sets,
            Self::Late(sets) => sets,
        }
    }
}

/// Lists that stay until the cache goes. What a server looks at settles after a few answers; these take 16 KiB if each
/// has one set more than the one before.
const EARLY_LISTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str) -> References {
        References::new(vec![Fact::parse(&format!("header:{name}")).unwrap()], Vec::new())
    }

    #[test]
    fn the_set_that_was_not_used_for_longest_goes_first() {
        let sets = ReferenceSets::new(2, Vec::new());
        let a = sets.intern(header("a"));
        let b = sets.intern(header("b"));
        sets.touch(&a);
        sets.intern(header("c"));
        let known: Vec<u64> = sets.load().iter().map(|set| set.id).collect();
        assert!(known.contains(&a.id) && !known.contains(&b.id), "{known:?}");
        assert_ne!(sets.intern(header("b")).id, b.id, "a set that comes back must not find its old entries");
    }

    #[test]
    fn more_facts_come_first_whatever_the_order_of_arrival() {
        let sets = ReferenceSets::new(8, Vec::new());
        sets.intern(References::default());
        sets.intern(header("a"));
        sets.intern(References::new(vec![Fact::Path, Fact::Method, Fact::Path], Vec::new()));
        let sizes: Vec<usize> = sets.load().iter().map(|set| set.references.exact.len()).collect();
        assert_eq!(sizes, [2, 1, 0]);
    }

    #[test]
    fn a_list_is_the_last_one_however_many_there_were() {
        let sets = ReferenceSets::new(3, Vec::new());
        let mut ids: Vec<u64> = Vec::new();
        for number in 0..3 * EARLY_LISTS {
            ids.push(sets.intern(header(&format!("h{number}"))).id);
            let mut known: Vec<u64> = sets.load().iter().map(|set| set.id).collect();
            known.sort_unstable();
            assert_eq!(known, ids[ids.len().saturating_sub(3)..], "after {number}");
        }
    }
}
