//! In which order a full server's queue is served.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mesh_core::policy::criticality::Criticality;
use mesh_core::policy::waiting::{Arrival, WaitingRoom};

use crate::curve::{Latencies, Table};
use crate::server::Service;
use crate::timeline::{Timeline, arrival, ms};

/// A queue in front of a fixed number of places.
trait Queue {
    /// Whether the arrival may wait.
    fn enter(&mut self, job: Instant, deadline: Instant, now: Instant) -> bool;
    fn next(&mut self, now: Instant) -> Option<Instant>;
}

struct NoQueue;

impl Queue for NoQueue {
    fn enter(&mut self, _: Instant, _: Instant, _: Instant) -> bool {
        false
    }
    fn next(&mut self, _: Instant) -> Option<Instant> {
        None
    }
}

/// First in, first out, and nothing is thrown away.
struct Fifo(VecDeque<Instant>);

impl Queue for Fifo {
    fn enter(&mut self, job: Instant, _: Instant, _: Instant) -> bool {
        let has_room = self.0.len() < ROOM;
        if has_room {
            self.0.push_back(job);
        }
        has_room
    }
    fn next(&mut self, _: Instant) -> Option<Instant> {
        self.0.pop_front()
    }
}

/// The same, but who is past its deadline is thrown away before it starts.
struct FifoWithDeadline(VecDeque<(Instant, Instant)>);

impl Queue for FifoWithDeadline {
    fn enter(&mut self, job: Instant, deadline: Instant, _: Instant) -> bool {
        let has_room = self.0.len() < ROOM;
        if has_room {
            self.0.push_back((job, deadline));
        }
        has_room
    }
    fn next(&mut self, now: Instant) -> Option<Instant> {
        std::iter::from_fn(|| self.0.pop_front()).find(|(_, deadline)| *deadline > now).map(|(job, _)| job)
    }
}

/// Facebook's variant of CoDel: once the queue has not been empty for 100 ms, nobody waits more than 5 ms.
struct CoDel(VecDeque<Instant>, Option<Instant>);

impl Queue for CoDel {
    fn enter(&mut self, job: Instant, _: Instant, now: Instant) -> bool {
        if self.0.is_empty() {
            self.1 = Some(now);
        }
        let has_room = self.0.len() < ROOM;
        if has_room {
            self.0.push_back(job);
        }
        has_room
    }
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let is_standing = self.1.is_some_and(|since| now - since > ms(100.0));
        let wait = if is_standing { ms(5.0) } else { ms(100.0) };
        std::iter::from_fn(|| self.0.pop_front()).find(|job| now - *job <= wait)
    }
}

/// The library's.
struct Ours {
    room: WaitingRoom<Instant>,
    knows_deadline: bool,
}

impl Queue for Ours {
    fn enter(&mut self, job: Instant, deadline: Instant, now: Instant) -> bool {
        let deadline = self.knows_deadline.then_some(deadline);
        let arrival = Arrival { class: Criticality::Critical, deadline };
        matches!(self.room.enter(arrival, job, now), mesh_core::policy::waiting::Entered::Waits(_))
    }
    fn next(&mut self, now: Instant) -> Option<Instant> {
        self.room.next(now)
    }
}

const ROOM: usize = 200;
const WORKERS: u32 = 20;
/// A caller waits this long.
const PATIENCE: Duration = Duration::from_millis(100);

fn queue(name: &str) -> Box<dyn Queue> {
    let ours = |knows_deadline| Ours { room: WaitingRoom::new(ROOM, ms(100.0)), knows_deadline };
    match name {
        "no_queue" => Box::new(NoQueue),
        "fifo" => Box::new(Fifo(VecDeque::new())),
        "fifo_deadline" => Box::new(FifoWithDeadline(VecDeque::new())),
        "codel" => Box::new(CoDel(VecDeque::new(), None)),
        "ours" => Box::new(ours(true)),
        "ours_no_deadline" => Box::new(ours(false)),
        other => panic!("no queue is called {other}"),
    }
}

const NAMES: [&str; 6] = ["no_queue", "fifo", "fifo_deadline", "codel", "ours", "ours_no_deadline"];

enum Event {
    Arrive,
    Served(Instant),
}

/// Share answered in time, and latencies of what was started.
fn play(name: &str, rate: f64, bursts: f64) -> (f64, Latencies) {
    let (mut rng, mut line, mut queue) = (fastrand::Rng::with_seed(29), Timeline::new(), queue(name));
    let (mut busy, mut offered, mut good, mut latencies) = (0, 0_usize, 0_usize, Latencies::default());
    let service = Service::Exponential(10.0);
    line.plan(ms(0.0), Event::Arrive);
    while let Some(event) = line.next() {
        if line.seconds() > 12.0 {
            break;
        }
        let now = line.now();
        match event {
            Event::Arrive => {
                // In every second a quarter is a burst.
                let is_burst = line.seconds().fract() < 0.25;
                let rate = if is_burst { rate * bursts } else { rate };
                line.plan(arrival(rate, &mut rng), Event::Arrive);
                offered += 1;
                if busy < WORKERS {
                    busy += 1;
                    line.plan(service.draw(&mut rng), Event::Served(now));
                } else {
                    queue.enter(now, now + PATIENCE, now);
                }
            }
            Event::Served(arrived) => {
                good += usize::from(now - arrived <= PATIENCE);
                latencies.add(now - arrived);
                match queue.next(now) {
                    Some(job) => line.plan(service.draw(&mut rng), Event::Served(job)),
                    None => busy -= 1,
                }
            }
        }
    }
    (good as f64 / offered as f64, latencies)
}

/// Requests a second, and how many times that a burst is; the server can do 2000.
const LOADS: [(&str, f64, f64); 4] =
    [("0.8x", 1600.0, 1.0), ("0.8x with bursts of 2x", 1280.0, 2.0), ("1.2x", 2400.0, 1.0), ("2x", 4000.0, 1.0)];

pub fn queue_disciplines() -> Table {
    let mut table = Table::new("queue_disciplines", &["load", "queue", "in_time", "p50_ms", "p99_ms"]);
    for (load, rate, bursts) in LOADS {
        for name in NAMES {
            let (good, latencies) = play(name, rate, bursts);
            table.row(load, name, &[good, latencies.percentile(50.0), latencies.percentile(99.0)]);
        }
    }
    table
}

#[test]
fn the_waiting_room_serves_bursts_like_a_queue_and_overload_like_none() {
    let table = queue_disciplines();
    table.print();
    for (load, ..) in LOADS {
        let in_time = |name: &str| table.value(load, name, "in_time");
        let best = NAMES.iter().map(|name| in_time(name)).fold(0.0, f64::max);
        assert!(in_time("ours") >= 0.95 * best, "{load}: {} of {best}", in_time("ours"));
    }
    assert!(table.value("2x", "fifo", "in_time") < 0.3, "a plain queue makes everybody late");
}
