//! What answers depend on.
//!
//! Decides: which reference sets are known and in which order a lookup walks them.
//! Never: grows beyond its cap; a server that refers to something else each time costs sets, not memory.
//! Invariant: a set that was dropped and comes back has a new id, so its old entries are never found.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::access::attributes::Attributes;
use crate::access::fact::Fact;

/// The facts an answer depends on: the values of some, the absence of others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    pub(super) exact: Vec<Fact>,
    pub(super) absent: Vec<Fact>,
}

impl References {
    /// Facts whose values matter, and facts that must not be there.
    pub fn new(mut exact: Vec<Fact>, mut absent: Vec<Fact>) -> Self {
        for facts in [&mut exact, &mut absent] {
            facts.sort();
            facts.dedup();
        }
        Self { exact, absent }
    }

    /// The references of a request under a configured key: a fact it does not have must stay absent.
    pub(super) fn of_request(key: &[Fact], attributes: &Attributes<'_>) -> Self {
        let (exact, absent) = key.iter().cloned().partition(|fact| fact.value(attributes).is_some());
        Self::new(exact, absent)
    }

    /// Whether they describe a request.
    pub(super) fn hold(&self, attributes: &Attributes<'_>) -> bool {
        self.exact.iter().all(|fact| fact.value(attributes).is_some())
            && self.absent.iter().all(|fact| fact.value(attributes).is_none())
    }
}

/// Known references.
#[derive(Debug)]
pub(super) struct ReferenceSet {
    pub(super) id: u64,
    pub(super) references: References,
    /// Tick of the last hit.
    last_used: AtomicU64,
}

/// All known sets, most specific first.
pub(super) struct ReferenceSets {
    sets: ArcSwap<Vec<Arc<ReferenceSet>>>,
    /// Held while the list is replaced. Lookups do not take it.
    next_id: Mutex<u64>,
    /// Advances by two with every new set; a hit in between is odd. Orders uses without a clock and without
    /// a write that all hits would share.
    tick: AtomicU64,
    capacity: usize,
}

impl ReferenceSets {
    pub(super) fn new(capacity: usize) -> Self {
        Self { sets: ArcSwap::default(), next_id: Mutex::new(0), tick: AtomicU64::new(0), capacity: capacity.max(1) }
    }

    pub(super) fn load(&self) -> Guard<Arc<Vec<Arc<ReferenceSet>>>> {
        self.sets.load()
    }

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
        let mut sets = Vec::clone(&self.sets.load());
        if let Some(set) = sets.iter().find(|set| set.references == references) {
            return set.clone();
        }
        while sets.len() >= self.capacity {
            let oldest = (0..sets.len()).min_by_key(|at| (sets[*at].last_used.load(Ordering::Relaxed), sets[*at].id));
            sets.swap_remove(oldest.unwrap_or(0));
        }
        let last_used = AtomicU64::new(self.tick.fetch_add(2, Ordering::Relaxed) + 2);
        let set = Arc::new(ReferenceSet { id: *next_id, references, last_used });
        *next_id += 1;
        sets.push(set.clone());
        sets.sort_by_key(|set| {
            let References { exact, absent } = &set.references;
            (Reverse(exact.len() + absent.len()), Reverse(exact.len()), set.id)
        });
        self.sets.store(Arc::new(sets));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str) -> References {
        References::new(vec![Fact::parse(&format!("header:{name}")).unwrap()], Vec::new())
    }

    #[test]
    fn the_set_that_was_not_used_for_longest_goes_first() {
        let sets = ReferenceSets::new(2);
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
        let sets = ReferenceSets::new(8);
        sets.intern(References::default());
        sets.intern(header("a"));
        sets.intern(References::new(vec![Fact::Path, Fact::Method, Fact::Path], Vec::new()));
        let sizes: Vec<usize> = sets.load().iter().map(|set| set.references.exact.len()).collect();
        assert_eq!(sizes, [2, 1, 0]);
    }
}
