//! One pick among 10, 1 000 and 100 000 endpoints, by every balancer, and by tower's.

use std::borrow::Cow;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mesh_core::cluster::hashing::{HashConfig, TableConfig};
use mesh_core::cluster::maglev::TableSize;
use mesh_core::cluster::picker::Asked;
use mesh_core::cluster::ring_hash::RingConfig;
use mesh_core::cluster::{BalancerKind, Candidate, Picker};
use mesh_core::endpoint::load::{Load, Outcome};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use tower::{BoxError, Service};

use super::{Run, Subject};

/// Picks alone, and picks whose request is counted in and out, as tower's.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for size in [10, 1_000, 100_000] {
        for (name, kind) in balancers() {
            all.push(Subject::ours(format!("pick {name} {size}"), None, move || picks(kind, size)));
        }
        let tower = format!("take tower p2c peak_ewma {size}");
        all.push(Subject::theirs(tower.clone(), move || towers(size)));
        let kind = BalancerKind::PeakEwma;
        all.push(Subject::ours(format!("take peak_ewma {size}"), Some(tower), move || takes(kind, size)));
    }
    all
}

fn balancers() -> Vec<(&'static str, BalancerKind)> {
    let hash = |table| BalancerKind::Hash(HashConfig { table, bound: None });
    vec![
        ("peak_ewma", BalancerKind::PeakEwma),
        ("least_request", BalancerKind::LeastRequest),
        ("round_robin", BalancerKind::RoundRobin),
        ("random", BalancerKind::Random),
        ("weighted_round_robin", BalancerKind::WeightedRoundRobin),
        ("ring_hash", hash(TableConfig::Ring(RingConfig::default()))),
        ("maglev", hash(TableConfig::Maglev(TableSize::default()))),
    ]
}

struct Member {
    load: Arc<Load>,
    key: String,
}

impl Candidate for Member {
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
        false
    }

    fn hash_key(&self) -> Option<Cow<'_, str>> {
        Some(self.key.as_str().into())
    }
}

fn picker(kind: BalancerKind, size: usize) -> Picker<Member> {
    let now = Instant::now();
    let member = |index| Arc::new(Member { load: Arc::new(Load::new(now)), key: format!("10.0.0.1:{index}") });
    Picker::new(kind, (0..size).map(member).collect(), 1)
}

fn picks(kind: BalancerKind, size: usize) -> Run {
    let (picker, mut rng, now) = (picker(kind, size), fastrand::Rng::with_seed(1), Instant::now());
    Box::new(move |times| {
        for _ in 0..times {
            let ask = Asked { hash: Some(rng.u64(..)), ..Asked::at(now) };
            std::hint::black_box(picker.pick(ask, &mut rng).ok());
        }
    })
}

fn takes(kind: BalancerKind, size: usize) -> Run {
    let (picker, mut rng) = (picker(kind, size), fastrand::Rng::with_seed(1));
    Box::new(move |times| {
        for _ in 0..times {
            let now = Instant::now();
            if let Ok(picked) = picker.pick(Asked::at(now), &mut rng) {
                picked.endpoint.load.start(now).finish(Instant::now(), Outcome::Answered);
            }
        }
    })
}

/// Answers at once.
#[derive(Clone)]
struct Nothing;

impl Service<()> for Nothing {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

fn towers(size: usize) -> Run {
    let (rtt, decay_nanos) = (Duration::from_millis(30), 10e9);
    let service = |_| PeakEwma::new(Nothing, rtt, decay_nanos, CompleteOnResponse::default());
    let mut balance = Balance::new(ServiceList::new::<()>((0..size).map(service).collect::<Vec<_>>()));
    Box::new(move |times| {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..times {
            // It takes its new services in turns, some in each poll.
            while balance.poll_ready(&mut context).is_pending() {}
            let answer = pin!(balance.call(())).poll(&mut context);
            std::hint::black_box(answer.is_ready());
        }
    })
}
