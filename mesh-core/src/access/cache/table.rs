//! Bounded storage of entries.
//!
//! Decides: nothing; [`Queues`] says who makes room.
//! Never: takes a lock to read; never holds more than its bounds.
//! Invariant: an entry is found by its full key only; the hash only says where to look.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use papaya::Equivalent;

use super::entry::Entry;
use super::eviction::{Bounds, Queues};
use super::key::Key;

/// Keys to entries.
pub(super) struct Table {
    entries: papaya::HashMap<Key, Entry, AsHashed>,
    /// Held while something is inserted. Lookups do not take it.
    queues: Mutex<Queues>,
}

/// A view that keeps what it found from being freed.
pub(super) struct View<'a>(papaya::HashMapRef<'a, Key, Entry, AsHashed, papaya::LocalGuard<'a>>);

impl View<'_> {
    #[inline]
    pub(super) fn find(&self, key: &(impl Equivalent<Key> + Hash)) -> Option<&Entry> {
        self.0.get(key)
    }
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Self {
        let entries = papaya::HashMap::builder().hasher(AsHashed::default()).build();
        Self { entries, queues: Mutex::new(Queues::new(bounds)) }
    }

    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        View(self.entries.pin())
    }

    /// Says how many live entries had to go. `None`: there can never be room for this one.
    pub(super) fn insert(&self, key: &Key, mut entry: Entry, now: Instant) -> Option<u64> {
        entry.weigh(key.len());
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if !queues.can_hold(&entry) {
            return None;
        }
        let entries = self.entries.pin();
        match entries.get(key) {
            Some(before) => queues.replace(before, &entry),
            None => queues.push(key, &entry),
        }
        entries.insert(key.clone(), entry);
        let mut evicted = 0;
        while let Some(gone) = queues.evict(now, |key| entries.get(key)) {
            entries.remove(&gone.key);
            evicted += u64::from(gone.was_live);
        }
        Some(evicted)
    }

    pub(super) fn clear(&self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        self.entries.pin().clear();
        queues.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).bytes()
    }
}

/// A key brings its hash along.
type AsHashed = BuildHasherDefault<Brought>;

#[derive(Default)]
pub(super) struct Brought(u64);

impl Hasher for Brought {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::access::verdict::Verdict;

    const PLENTY: usize = 1 << 30;

    fn table(entries: usize, bytes: usize) -> Table {
        Table::new(Bounds { entries, bytes })
    }

    fn entry(now: Instant) -> Entry {
        Entry::new(Arc::new(Verdict::allow()), 0, now + Duration::from_secs(60))
    }

    fn key(number: u32) -> Key {
        Key::of_bytes(&number.to_le_bytes())
    }

    fn is_held(table: &Table, number: u32) -> bool {
        table.view().find(&key(number)).is_some_and(Entry::take_use)
    }

    #[test]
    fn who_inserts_does_not_stop_who_looks_up() {
        let (now, table) = (Instant::now(), table(10_000, PLENTY));
        for number in 0..1000 {
            table.insert(&key(number), entry(now), now);
        }
        let _held = table.queues.lock().unwrap();
        assert!((0..1000).all(|number| is_held(&table, number)));
    }

    #[test]
    fn the_table_never_holds_more_than_its_bounds() {
        let now = Instant::now();
        for entries in [1, 2, 9, 64, 1000] {
            let table = table(entries, PLENTY);
            let mut evicted = 0;
            for number in 0..5000 {
                evicted += table.insert(&key(number), entry(now), now).unwrap();
                assert!(table.len() <= entries, "{entries}");
            }
            assert_eq!(evicted, 5000 - table.len() as u64, "{entries}");
        }
        let none = table(0, PLENTY);
        assert_eq!(none.insert(&key(1), entry(now), now), None);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn what_is_large_takes_the_place_of_many() {
        let now = Instant::now();
        let table = table(1000, 100_000);
        let large = |bytes: usize| {
            let verdict = Verdict { body: vec![0; bytes].into(), ..Verdict::deny(403) };
            Entry::new(Arc::new(verdict), 0, now + Duration::from_secs(60))
        };
        for number in 0..150 {
            table.insert(&key(number), entry(now), now);
        }
        assert_eq!(table.len(), 150);
        assert!(table.insert(&key(1000), large(50_000), now).unwrap() > 50);
        assert!(table.bytes() <= 100_000);
        assert_eq!(table.insert(&key(1001), large(100_001), now), None, "no room for it even alone");
        assert!(table.len() > 50);
    }

    #[test]
    fn an_answer_that_changes_is_counted_once() {
        let (now, table) = (Instant::now(), table(2, PLENTY));
        for _ in 0..100 {
            table.insert(&key(1), entry(now), now);
        }
        assert_eq!(table.len(), 1);
        let one = table.bytes();
        table.insert(&key(2), entry(now), now);
        assert_eq!(table.bytes(), 2 * one);
        table.clear();
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn what_is_dead_goes_before_what_is_used() {
        let (now, table) = (Instant::now(), table(2, PLENTY));
        table.insert(&key(1), entry(now), now);
        table.insert(&key(2), entry(now), now);
        assert!(is_held(&table, 1) && is_held(&table, 2));
        table.view().find(&key(2)).unwrap().void();
        assert_eq!(table.insert(&key(3), entry(now), now), Some(0), "nothing alive had to go");
        assert!(is_held(&table, 1) && !is_held(&table, 2));
    }

    /// 100 questions asked again and again, and between two rounds 300 that are never asked again.
    #[test]
    fn a_scan_does_not_push_out_what_is_in_use() {
        let (now, table) = (Instant::now(), table(200, PLENTY));
        let (mut hits, mut next) = (0, 1_000_000);
        for round in 0..50 {
            for number in 0..100 {
                let hit = is_held(&table, number);
                hits += u32::from(hit && round >= 2);
                if !hit {
                    table.insert(&key(number), entry(now), now);
                }
            }
            for _ in 0..300 {
                next += 1;
                table.insert(&key(next), entry(now), now);
            }
        }
        // Least recently used would hit none: 400 come between two uses, and 200 have room.
        assert!(hits > 4700, "{hits} of 4800");
    }
}
