//! The breaker against a model simple enough to be kept on paper.

use proptest::prelude::*;

use super::*;

/// The breaker as a person would keep it on paper, by the names of the attempts.
#[derive(Default)]
struct Naive {
    now: u64,
    streak: u32,
    opened: u32,
    open_until: Option<u64>,
    trial: Option<Paper>,
}

struct Paper {
    until: u64,
    out: Vec<u32>,
    good: u32,
    bad: u32,
}

/// Limits of the naive model: failures in a row, probes, tolerated failures; waits of 0.5 s, 1 s, 2 s, 4 s.
#[derive(Debug, Clone, Copy)]
struct Rules {
    failures: u32,
    probes: u32,
    tolerated: u32,
}

impl Naive {
    fn admit(&mut self, name: u32, rules: Rules) -> bool {
        if let Some(paper) = self.trial.as_mut().filter(|paper| self.now < paper.until) {
            let free = paper.out.len() as u32 + paper.good + paper.bad < rules.probes;
            if free {
                paper.out.push(name);
            }
            return free;
        }
        let waiting = self.trial.is_some() || self.open_until.is_some();
        if self.open_until.is_some_and(|until| self.now < until) {
            return false;
        }
        if waiting {
            self.open_until = None;
            self.trial = Some(Paper { until: self.now + 2_000, out: vec![name], good: 0, bad: 0 });
        }
        true
    }

    fn finish(&mut self, name: u32, admitted_closed: bool, outcome: Outcome, rules: Rules) {
        if let Some(paper) = self.trial.as_mut() {
            let Some(at) = paper.out.iter().position(|out| *out == name) else { return };
            paper.out.swap_remove(at);
            match outcome {
                Outcome::Success => paper.good += 1,
                Outcome::Failure | Outcome::Throttled => paper.bad += 1,
                Outcome::Ignored => {}
            }
            if paper.bad > rules.tolerated {
                self.open();
            } else if paper.good + paper.bad == rules.probes {
                *self = Self { now: self.now, ..Self::default() };
            }
        } else if self.open_until.is_none() && admitted_closed {
            match outcome {
                Outcome::Success => self.streak = 0,
                Outcome::Failure => self.streak += 1,
                Outcome::Throttled | Outcome::Ignored => {}
            }
            if self.streak >= rules.failures {
                self.open();
            }
        }
    }

    fn open(&mut self) {
        (self.streak, self.trial) = (0, None);
        self.opened += 1;
        self.open_until = Some(self.now + (500 << (self.opened - 1).min(3)));
    }

    fn state(&self) -> State {
        match (&self.trial, self.open_until) {
            (Some(_), _) => State::HalfOpen,
            (None, Some(until)) if self.now < until => State::Open,
            (None, Some(_)) => State::HalfOpen,
            (None, None) => State::Closed,
        }
    }
}

proptest! {
    #[test]
    fn the_breaker_agrees_with_a_model_on_paper(
        steps in prop::collection::vec((0_u64..700, 0_u8..8, any::<prop::sample::Index>()), 1..250),
        failures in 1_u32..4,
        (probes, tolerated) in (1_u32..5).prop_flat_map(|probes| (Just(probes), 0..probes)),
    ) {
        let rules = Rules { failures, probes, tolerated };
        let start = Instant::now();
        let breaker = CircuitBreaker::new(consecutive(failures.into(), probes.into(), tolerated), start);
        let (mut rng, mut naive) = (fastrand::Rng::with_seed(1), Naive::default());
        // Attempts in flight: name, permit, and how many transitions the model had made when it was admitted.
        let mut out: Vec<(u32, Permit, u32)> = Vec::new();
        let mut transitions = 0;
        for (name, (gap, action, pick)) in steps.into_iter().enumerate() {
            naive.now += gap / 2;
            let now = start + Duration::from_millis(naive.now);
            if action < 4 || out.is_empty() {
                let would_refuse = breaker.is_open(now);
                let permit = breaker.admit(now);
                prop_assert_eq!(permit.is_err(), would_refuse);
                prop_assert_eq!(permit.is_ok(), naive.admit(name as u32, rules));
                out.extend(permit.ok().map(|permit| (name as u32, permit, transitions)));
            } else {
                let (name, permit, era) = out.swap_remove(pick.index(out.len()));
                let outcome = [Outcome::Success, Outcome::Failure, Outcome::Throttled, Outcome::Ignored];
                let outcome = outcome[usize::from(action - 4)];
                let (before, ordinary) = (naive.state(), !permit.is_probe());
                naive.finish(name, ordinary && era == transitions, outcome, rules);
                if action == 7 {
                    drop(permit);
                } else {
                    permit.record(outcome, now, &mut rng);
                }
                transitions += u32::from(before != naive.state());
            }
            prop_assert_eq!(breaker.state(now), naive.state());
            let probing = naive.trial.as_ref().map_or(0, |paper| paper.out.len());
            prop_assert!(probing <= probes as usize);
        }
    }
}
