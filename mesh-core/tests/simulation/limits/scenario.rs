//! What a limiter has to live through.

use std::time::{Duration, Instant};

use crate::curve::Latencies;
use crate::server::{Server, Service};
use crate::timeline::{Timeline, arrival, ms};

/// A limiter, as the simulation asks it.
pub trait Limiter {
    fn limit(&self) -> u32;
    /// A request ended; `in_flight` is what there was when it was admitted, itself included.
    fn record(&mut self, sample: Seen, now: Instant);
}

#[derive(Clone, Copy)]
pub struct Seen {
    pub started: Instant,
    pub rtt: Duration,
    pub in_flight: u32,
}

/// A change at a moment.
pub enum Change {
    Workers(usize),
    Slowness(f64),
    Rate(f64),
}

pub struct Scenario {
    pub name: &'static str,
    pub service: Service,
    pub workers: usize,
    pub rate: f64,
    pub changes: &'static [(f64, Change)],
    pub seconds: f64,
}

/// A caller waits this long; an answer that comes later is no good to anybody.
const PATIENCE: Duration = Duration::from_millis(250);

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "half load",
        service: Service::Exponential(10.0),
        workers: 20,
        rate: 1000.0,
        changes: &[],
        seconds: 12.0,
    },
    Scenario {
        name: "overload 1.5x",
        service: Service::Exponential(10.0),
        workers: 20,
        rate: 3000.0,
        changes: &[],
        seconds: 24.0,
    },
    Scenario {
        name: "capacity falls to a quarter and returns",
        service: Service::Exponential(10.0),
        workers: 20,
        rate: 1200.0,
        changes: &[(8.0, Change::Workers(5)), (16.0, Change::Workers(20))],
        seconds: 24.0,
    },
    Scenario {
        name: "service slower, capacity ample",
        service: Service::Exponential(10.0),
        workers: 200,
        rate: 1500.0,
        changes: &[(8.0, Change::Slowness(4.0))],
        seconds: 24.0,
    },
    Scenario {
        name: "heavy tail, 60 % load",
        service: Service::Pareto(4.0, 1.5),
        workers: 20,
        rate: 1000.0,
        changes: &[],
        seconds: 24.0,
    },
    Scenario {
        name: "heavy tail, overload 1.5x",
        service: Service::Pareto(4.0, 1.5),
        workers: 20,
        rate: 2500.0,
        changes: &[],
        seconds: 24.0,
    },
    Scenario {
        name: "burst after idling",
        service: Service::LogNormal(9.0, 0.4),
        workers: 20,
        rate: 400.0,
        changes: &[(8.0, Change::Rate(4000.0)), (12.0, Change::Rate(400.0)), (16.0, Change::Rate(4000.0))],
        seconds: 20.0,
    },
];

/// How it went.
#[derive(Default)]
pub struct Result {
    offered: usize,
    refused: usize,
    /// Answered in time.
    good: usize,
    latencies: Latencies,
    /// Ten a second.
    pub limits: Vec<u32>,
}

impl Result {
    /// Share of the offered that was answered in time, share refused, percentiles, limit.
    pub fn row(&self) -> [f64; 6] {
        let share = |count: usize| count as f64 / self.offered as f64;
        let mean = self.limits.iter().map(|limit| f64::from(*limit)).sum::<f64>() / self.limits.len() as f64;
        let max = self.limits.iter().copied().max().unwrap_or(0);
        let (p50, p99) = (self.latencies.percentile(50.0), self.latencies.percentile(99.0));
        [share(self.good), share(self.refused), p50, p99, mean, f64::from(max)]
    }
}

enum Event {
    Arrive,
    Served(Job),
    Change(usize),
    Watch,
}

#[derive(Clone, Copy)]
struct Job {
    started: Instant,
    in_flight: u32,
}

impl Scenario {
    pub fn play(&self, mut limiter: Box<dyn Limiter>, seed: u64) -> Result {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut line = Timeline::new();
        let mut server = Server::new(self.service, self.workers);
        let (mut rate, mut in_flight, mut result) = (self.rate, 0_u32, Result::default());
        line.plan(ms(0.0), Event::Arrive);
        line.plan(ms(0.0), Event::Watch);
        for (index, (at, _)) in self.changes.iter().enumerate() {
            line.plan(Duration::from_secs_f64(*at), Event::Change(index));
        }
        while let Some(event) = line.next() {
            if line.seconds() > self.seconds {
                break;
            }
            match event {
                Event::Arrive => {
                    line.plan(arrival(rate, &mut rng), Event::Arrive);
                    result.offered += 1;
                    if in_flight >= limiter.limit() {
                        result.refused += 1;
                        continue;
                    }
                    in_flight += 1;
                    if let Some((job, takes)) = server.arrive(Job { started: line.now(), in_flight }, &mut rng) {
                        line.plan(takes, Event::Served(job));
                    }
                }
                Event::Served(job) => {
                    in_flight -= 1;
                    let rtt = line.now() - job.started;
                    result.latencies.add(rtt);
                    result.good += usize::from(rtt <= PATIENCE);
                    limiter.record(Seen { started: job.started, rtt, in_flight: job.in_flight }, line.now());
                    if let Some((next, takes)) = server.finish(&mut rng) {
                        line.plan(takes, Event::Served(next));
                    }
                }
                Event::Change(index) => match &self.changes[index].1 {
                    Change::Rate(new) => rate = *new,
                    Change::Slowness(new) => server.slowness = *new,
                    Change::Workers(new) => {
                        server.workers = *new;
                        while let Some((next, takes)) = server.top_up(&mut rng) {
                            line.plan(takes, Event::Served(next));
                        }
                    }
                },
                Event::Watch => {
                    result.limits.push(limiter.limit());
                    line.plan(ms(100.0), Event::Watch);
                }
            }
        }
        result
    }
}
