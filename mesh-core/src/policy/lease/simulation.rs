//! Processes that lease from one server which counts in fixed windows: seeded, with answers that are late, lost, or
//! come out of order.

use std::collections::BinaryHeap;

use super::*;

const WINDOW_MS: u64 = 1_000;
const WINDOWS: u64 = 10;
const SEEDS: u64 = 12;

/// All or nothing, as Envoy's reference server counts: what is refused counts, too.
struct Server {
    limit: u32,
    window: u64,
    counted: u32,
}

impl Server {
    fn answer(&mut self, amount: u32, at_ms: u64, epoch: Instant) -> Grant {
        if at_ms / WINDOW_MS != self.window {
            (self.window, self.counted) = (at_ms / WINDOW_MS, 0);
        }
        self.counted += amount;
        let until = Some(epoch + Duration::from_millis((self.window + 1) * WINDOW_MS));
        let is_over = self.counted > self.limit;
        let remaining = (!is_over).then(|| self.limit - self.counted);
        Grant { amount: if is_over { 0 } else { amount }, until, remaining, is_quota: false }
    }
}

/// One event, the earliest first.
#[derive(PartialEq, Eq)]
struct Event {
    at_ms: u64,
    process: usize,
    /// `None`: a request comes.
    answer: Option<(Ask, Grant, bool)>,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at_ms.cmp(&self.at_ms).then(other.process.cmp(&self.process))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Run {
    rng: fastrand::Rng,
    epoch: Instant,
    server: Server,
    leases: Vec<Lease>,
    events: BinaryHeap<Event>,
    /// What each process let pass, and was granted.
    passed: Vec<u32>,
    granted: Vec<u32>,
    per_window: Vec<u32>,
    questions: u32,
}

impl Run {
    fn new(seed: u64, (processes, limit): (usize, u32), terms: Terms) -> Self {
        let (mut rng, epoch) = (fastrand::Rng::with_seed(seed), Instant::now());
        let mut events = BinaryHeap::new();
        for process in 0..processes {
            let mut at_ms = 0;
            let busy = rng.u64(1..20);
            while at_ms < WINDOWS * WINDOW_MS {
                at_ms += rng.u64(0..=busy);
                events.push(Event { at_ms, process, answer: None });
            }
        }
        Self {
            rng,
            epoch,
            server: Server { limit, window: 0, counted: 0 },
            leases: (0..processes).map(|_| Lease::new(terms, epoch)).collect(),
            events,
            passed: vec![0; processes],
            granted: vec![0; processes],
            per_window: vec![0; WINDOWS as usize + 1],
            questions: 0,
        }
    }

    fn run(&mut self, mut assert: impl FnMut(&Self, usize)) {
        while let Some(Event { at_ms, process, answer }) = self.events.pop() {
            match answer {
                None => self.request(at_ms, process),
                Some(answer) => self.answer(at_ms, process, answer),
            }
            assert(self, process);
        }
    }

    fn request(&mut self, at_ms: u64, process: usize) {
        let now = self.epoch + Duration::from_millis(at_ms);
        let Step { decision, ask } = self.leases[process].take(now);
        if decision == Decision::Pass {
            self.pass(at_ms, process);
        }
        let Some(ask) = ask else { return };
        self.questions += 1;
        let arrives = at_ms + self.rng.u64(0..20);
        let grant = self.server.answer(ask.amount, arrives, self.epoch);
        let answer = Some((ask, grant, decision == Decision::Wait));
        self.events.push(Event { at_ms: arrives + self.rng.u64(0..20), process, answer });
    }

    fn answer(&mut self, at_ms: u64, process: usize, (ask, grant, is_awaited): (Ask, Grant, bool)) {
        let now = self.epoch + Duration::from_millis(at_ms);
        self.granted[process] += grant.amount;
        self.leases[process].settle(&ask, grant, now);
        if is_awaited && self.leases[process].resume(now) == Decision::Pass {
            self.pass(at_ms, process);
        }
    }

    fn pass(&mut self, at_ms: u64, process: usize) {
        self.passed[process] += 1;
        if let Some(window) = self.per_window.get_mut((at_ms / WINDOW_MS) as usize) {
            *window += 1;
        }
    }
}

#[test]
fn no_process_lets_more_through_than_it_was_granted_and_its_terms_allow() {
    for (max, in_advance) in [(10, true), (37, true), (1000, true), (10, false), (1000, false)] {
        let terms = Terms::new((10, max), Duration::from_secs(60), in_advance).unwrap();
        let bound = if in_advance { max } else { 0 };
        for seed in 0..SEEDS {
            let mut run = Run::new(seed, (3, 10 + seed as u32 * 60), terms);
            run.run(|run, process| {
                let (passed, granted) = (run.passed[process], run.granted[process]);
                assert!(passed <= granted + bound, "seed {seed}: {passed} of {granted}, bound {bound}");
            });
        }
    }
}

/// What is granted ends with its window, so each window exceeds the limit by what is spent in advance at its end.
#[test]
fn no_window_exceeds_the_limit_by_more_than_the_documented_bound() {
    for (processes, max, in_advance) in [(1, 20, true), (3, 20, true), (3, 1000, false)] {
        let terms = Terms::new((10, max), Duration::from_secs(60), in_advance).unwrap();
        let bound = if in_advance { max * processes as u32 } else { 0 };
        for seed in 0..SEEDS {
            let limit = 5 + seed as u32 * 30;
            let mut run = Run::new(seed, (processes, limit), terms);
            run.run(|_, _| ());
            for (window, passed) in run.per_window.iter().enumerate() {
                assert!(*passed <= limit + bound, "seed {seed}, window {window}: {passed} of {limit}, bound {bound}");
            }
        }
    }
}

/// The bounds above would also hold if nothing passed, or if each request were asked about.
#[test]
fn what_is_granted_is_used_and_few_questions_are_asked() {
    for seed in 0..10 {
        let terms = Terms::new((10, 1000), Duration::from_secs(60), true).unwrap();
        let mut run = Run::new(seed, (2, 100_000), terms);
        let requests = run.events.len() as u32;
        run.run(|_, _| ());
        assert_eq!(run.passed.iter().sum::<u32>(), requests, "seed {seed}: the limit is far away");
        assert!(run.questions * 5 < requests, "seed {seed}: {} questions for {requests}", run.questions);

        let mut run = Run::new(seed, (2, 40), terms);
        run.run(|_, _| ());
        let used: u32 = run.passed.iter().sum();
        assert!(used * 2 > 40 * WINDOWS as u32, "seed {seed}: {used} of {}", 40 * WINDOWS);
    }
}
