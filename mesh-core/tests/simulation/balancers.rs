//! One of ten endpoints is ten times slower: what the balancers make of it.

use std::sync::Arc;
use std::time::Instant;

use mesh_core::cluster::picker::Asked;
use mesh_core::cluster::{BalancerKind, Candidate, Picker};
use mesh_core::endpoint::load::{InFlight, Load, Outcome};

use crate::curve::{Latencies, Table};
use crate::server::{Server, Service};
use crate::timeline::{Timeline, arrival, ms};

struct Endpoint {
    load: Arc<Load>,
}

impl Candidate for Endpoint {
    fn load(&self) -> &Load {
        &self.load
    }
    fn weight(&self) -> u32 {
        1
    }
    fn is_available(&self, _: Instant) -> bool {
        true
    }
    fn is_local(&self) -> bool {
        true
    }
}

enum Event {
    Arrive,
    Reach(usize, Job),
    Served(usize, Job),
    Answered(Job),
}

struct Job {
    arrived: std::time::Duration,
    slot: InFlight,
}

/// Ten servers, the first of them ten times slower; requests arrive at random.
struct Run {
    kind: BalancerKind,
    /// Requests a second.
    rate: f64,
    workers: usize,
    service: Service,
    seed: u64,
}

const SERVERS: usize = 10;
const SLOWNESS: f64 = 10.0;
const WARM_UP_SECONDS: f64 = 3.0;
const SECONDS: f64 = 10.0;

impl Run {
    fn play(&self) -> Latencies {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut line = Timeline::new();
        let endpoints: Vec<_> =
            (0..SERVERS).map(|_| Arc::new(Endpoint { load: Arc::new(Load::new(line.now())) })).collect();
        let picker = Picker::new(self.kind, endpoints, self.seed);
        let mut servers: Vec<_> = (0..SERVERS).map(|_| Server::new(self.service, self.workers)).collect();
        servers[0].slowness = SLOWNESS;
        let mut latencies = Latencies::default();
        line.plan(ms(0.0), Event::Arrive);
        while let Some(event) = line.next() {
            match event {
                Event::Arrive if line.seconds() < SECONDS => {
                    let pick = picker.pick(Asked::at(line.now()), &mut rng).unwrap();
                    let job = Job { arrived: line.elapsed(), slot: pick.endpoint.load.start(line.now()) };
                    line.plan(network(&mut rng), Event::Reach(pick.index, job));
                    line.plan(arrival(self.rate, &mut rng), Event::Arrive);
                }
                Event::Arrive => {}
                Event::Reach(at, job) => {
                    if let Some((job, takes)) = servers[at].arrive(job, &mut rng) {
                        line.plan(takes, Event::Served(at, job));
                    }
                }
                Event::Served(at, job) => {
                    line.plan(network(&mut rng), Event::Answered(job));
                    if let Some((next, takes)) = servers[at].finish(&mut rng) {
                        line.plan(takes, Event::Served(at, next));
                    }
                }
                Event::Answered(job) => {
                    job.slot.finish(line.now(), Outcome::Answered);
                    if job.arrived.as_secs_f64() >= WARM_UP_SECONDS {
                        latencies.add(line.elapsed() - job.arrived);
                    }
                }
            }
        }
        latencies
    }
}

/// One way, 0.2 ms to 0.3 ms: a data centre.
fn network(rng: &mut fastrand::Rng) -> std::time::Duration {
    ms(0.2 + 0.1 * rng.f64())
}

const KINDS: [(&str, BalancerKind); 3] = [
    ("round_robin", BalancerKind::RoundRobin),
    ("least_request", BalancerKind::LeastRequest),
    ("peak_ewma", BalancerKind::PeakEwma),
];

/// Load as a share of what nine good servers and a slow one can carry.
const LOADS: [f64; 4] = [0.1, 0.3, 0.6, 0.8];

pub fn slow_endpoint(service: Service) -> Table {
    let mut table = Table::new("slow_endpoint", &["balancer", "load", "p50_ms", "p90_ms", "p99_ms", "p999_ms"]);
    let workers = 4;
    for load in LOADS {
        // 5 ms a request: 200 a second for a worker; the slow server is worth a tenth of a good one.
        let capacity = (SERVERS as f64 - 1.0 + 1.0 / SLOWNESS) * workers as f64 * 200.0;
        for (name, kind) in KINDS {
            let run = Run { kind, rate: load * capacity, workers, service, seed: 7 };
            let seen = run.play();
            let row: Vec<f64> = [50.0, 90.0, 99.0, 99.9].iter().map(|p| seen.percentile(*p)).collect();
            table.row(name, load, &row);
        }
    }
    table
}

#[test]
fn with_one_of_ten_endpoints_ten_times_slower_the_default_halves_the_p99_of_round_robin() {
    let services = [("exponential", Service::Exponential(5.0)), ("log-normal", Service::LogNormal(4.4, 0.5))];
    for (name, service) in services {
        let table = slow_endpoint(service);
        println!("{name}");
        table.print();
        for load in LOADS {
            let p99 = |kind| table.value(kind, &load.to_string(), "p99_ms");
            let (default, robin, least) = (p99("peak_ewma"), p99("round_robin"), p99("least_request"));
            assert!(default <= 0.5 * robin, "{name} at {load}: {default} against round robin's {robin}");
            assert!(default <= 1.1 * least, "{name} at {load}: {default} against least request's {least}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let run =
            Run { kind: BalancerKind::PeakEwma, rate: 500.0, workers: 4, service: Service::Exponential(5.0), seed: 3 };
        let seen = run.play();
        (seen.count(), seen.percentile(99.0).to_bits())
    };
    assert_eq!(run(), run());
}
