//! The waiting room of a server: requests that a full limit has no place for yet.
//!
//! Decides: who waits, who goes next, and who has waited for nothing. Never: sleeps; whoever waits ends
//! its own wait at its deadline and is found gone. Invariant: never more than `max` wait, a higher class
//! goes before a lower one, and whoever is past its deadline never goes.
//!
//! # The order
//! Within a class first come, first served, as long as the first has at least a quarter of its time left. Once
//! it has not, the queue is too long for everybody in it, and who came last goes first: serving in order
//! would make each of them late (Facebook, "Fail at Scale", 2015: adaptive LIFO). That it is the time left
//! which decides, not how long the queue has been standing, lets a burst through that can still be served
//! in time; `docs/simulation.md` has the curves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::criticality::Criticality;

/// Those who wait, by class.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    max: usize,
    max_wait: Duration,
    classes: [VecDeque<Waiting<T>>; 4],
}

#[derive(Debug)]
struct Waiting<T> {
    ticket: T,
    since: Instant,
    until: Instant,
}

/// Who asks to wait.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its class.
    pub class: Criticality,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
}

/// What became of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered<T> {
    /// It waits, until then at most.
    Waits(Instant),
    /// It waits; somebody of a lower class had to leave for it.
    Displaced(Instant, T),
    /// The room is full of its equals or betters.
    Full(T),
}

impl<T> WaitingRoom<T> {
    /// At most `max` wait, each at most `max_wait`.
    pub fn new(max: usize, max_wait: Duration) -> Self {
        Self { max, max_wait, classes: Default::default() }
    }

    /// Other bounds, on reload. Who waits stays.
    pub fn resize(&mut self, max: usize, max_wait: Duration) {
        (self.max, self.max_wait) = (max, max_wait);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    /// Whether there is no room for one more.
    pub fn is_full(&self) -> bool {
        self.len() >= self.max
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(VecDeque::is_empty)
    }

    /// The class of who goes next. Those of higher classes who waited in vain leave: a place that is asked for in
    /// their name would go to a lower class.
    pub fn best_class(&mut self, now: Instant) -> Option<Criticality> {
        Criticality::ALL.into_iter().rev().find(|class| {
            let waiting = &mut self.classes[class.index()];
            while waiting.front().is_some_and(|first| first.until <= now) {
                waiting.pop_front();
            }
            !waiting.is_empty()
        })
    }

    /// Lets an arrival wait, if need be in the place of the longest waiting one of the lowest class.
    pub fn enter(&mut self, arrival: Arrival, ticket: T, now: Instant) -> Entered<T> {
        let longest = crate::time::after(now, self.max_wait);
        let until = arrival.deadline.map_or(longest, |deadline| deadline.min(longest));
        let displaced = if self.is_full() { self.displace(arrival.class) } else { None };
        if self.is_full() {
            return Entered::Full(ticket);
        }
        self.classes[arrival.class.index()].push_back(Waiting { ticket, since: now, until });
        displaced.map_or(Entered::Waits(until), |ticket| Entered::Displaced(until, ticket))
    }

    /// Who goes next. Those who waited in vain leave with it.
    pub fn next(&mut self, now: Instant) -> Option<T> {
        let mut next = None;
        for class in self.classes.iter_mut().rev() {
            while class.front().is_some_and(|waiting| waiting.until <= now) {
                class.pop_front();
            }
            while next.is_none() {
                let is_late = class.front().is_some_and(|first| first.is_late(now));
                let waiting = if is_late { class.pop_back() } else { class.pop_front() };
                let Some(waiting) = waiting else { break };
                next = (waiting.until > now).then_some(waiting.ticket);
            }
        }
        next
    }

    /// Removes who left by itself.
    pub fn retain(&mut self, is_here: impl Fn(&T) -> bool) {
        for class in &mut self.classes {
            class.retain(|waiting| is_here(&waiting.ticket));
        }
    }

    fn displace(&mut self, by: Criticality) -> Option<T> {
        let lower = Criticality::ALL.into_iter().take_while(|class| *class < by);
        let class = lower.map(Criticality::index).find(|class| !self.classes[*class].is_empty())?;
        self.classes[class].pop_front().map(|waiting| waiting.ticket)
    }
}

impl<T> Waiting<T> {
    /// Whether more than three quarters of its time are over.
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > self.until.saturating_duration_since(now) * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRITICAL: Arrival = Arrival { class: Criticality::Critical, deadline: None };
    const BATCH: Arrival = Arrival { class: Criticality::Sheddable, deadline: None };

    fn room() -> (WaitingRoom<u32>, Instant) {
        (WaitingRoom::new(3, Duration::from_secs(1)), Instant::now())
    }

    #[test]
    fn the_first_goes_first_while_it_has_time_and_the_last_once_it_has_not() {
        let (mut room, now) = room();
        for ticket in 1..=3 {
            assert_eq!(room.enter(CRITICAL, ticket, now), Entered::Waits(now + Duration::from_secs(1)));
        }
        assert_eq!(room.next(now + Duration::from_millis(750)), Some(1));
        let late = now + Duration::from_millis(751);
        assert_eq!((room.next(late), room.next(late), room.next(late)), (Some(3), Some(2), None));
    }

    #[test]
    fn a_full_room_makes_place_for_a_higher_class_only() {
        let (mut room, now) = room();
        let wait = now + Duration::from_secs(1);
        for ticket in 1..=3 {
            room.enter(if ticket == 2 { CRITICAL } else { BATCH }, ticket, now);
        }
        assert_eq!(room.enter(BATCH, 4, now), Entered::Full(4));
        assert_eq!(room.enter(CRITICAL, 5, now), Entered::Displaced(wait, 1));
        assert_eq!(room.enter(CRITICAL, 6, now), Entered::Displaced(wait, 3));
        assert_eq!(room.enter(CRITICAL, 7, now), Entered::Full(7));
        assert_eq!(room.len(), 3);
    }

    #[test]
    fn who_is_past_its_deadline_never_goes() {
        let (mut room, now) = room();
        let soon = now + Duration::from_millis(10);
        room.enter(CRITICAL, 1, now);
        room.enter(Arrival { deadline: Some(soon), ..CRITICAL }, 2, now);
        room.enter(BATCH, 3, now);
        assert_eq!((room.next(soon), room.next(soon)), (Some(1), Some(3)));
        room.enter(CRITICAL, 4, now);
        assert_eq!(room.next(now + Duration::from_secs(1)), None, "longer than the longest wait");
        assert!(room.is_empty());
    }

    #[test]
    fn a_higher_class_goes_before_who_came_earlier() {
        let (mut room, now) = room();
        room.enter(BATCH, 1, now);
        room.enter(CRITICAL, 2, now);
        assert_eq!(room.best_class(now), Some(Criticality::Critical));
        assert_eq!((room.next(now), room.next(now)), (Some(2), Some(1)));
    }

    #[test]
    fn who_waited_in_vain_does_not_stand_for_its_class() {
        let (mut room, now) = room();
        let soon = now + Duration::from_millis(10);
        room.enter(BATCH, 1, now);
        room.enter(Arrival { deadline: Some(soon), ..CRITICAL }, 2, now);
        assert_eq!(room.best_class(soon), Some(Criticality::Sheddable));
        assert_eq!((room.len(), room.next(soon)), (1, Some(1)));
    }

    #[test]
    fn who_left_by_itself_takes_no_place() {
        let (mut room, now) = room();
        for ticket in 1..=3 {
            room.enter(CRITICAL, ticket, now);
        }
        room.retain(|ticket| *ticket == 2);
        assert_eq!((room.len(), room.next(now)), (1, Some(2)));
    }
}
