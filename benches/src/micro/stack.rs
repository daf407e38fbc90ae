//! A request through whole stacks of layers, every policy at rest: nothing fails, nothing is late, nothing
//! is full. Against the stacks that tower's layers make.
//!
//! `policies` is what both have: timeout, concurrency limit that sheds, retries with a budget. `balanced`
//! adds the balancer over ten services; tower's is not `Clone`, so a retry above it needs a `Buffer`, which
//! is a queue, a task and a channel per request. `every layer` is all of ours that decide without a peer.

use std::time::Duration;

use mesh_core::access::rbac::{Effect, Rules};
use mesh_core::cluster::BalancerKind;
use mesh_core::layer::{
    AccessLayer, Balance, CircuitBreakerLayer, ConcurrencyLayer, HedgeLayer, Member, RetryLayer, ShedLayer,
    TimeoutLayer, TraceLayer,
};
use mesh_core::policy::concurrency::Terms;
use mesh_core::policy::criticality::Shares;
use mesh_core::policy::retry::RetryPolicy;
use tower::balance::p2c;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use tower::{Layer, ServiceBuilder};

use super::service::{Answering, requests};
use super::{Run, Subject, hedge, retry};

/// What the rows of layers have in common.
pub fn request() -> Vec<Subject> {
    vec![Subject::theirs("request alone".to_owned(), || requests(Answering::default))]
}

/// Ours and tower's.
pub fn subjects() -> Vec<Subject> {
    let [policies, balanced] = ["stack tower policies", "stack tower balanced"].map(str::to_owned);
    let name = |what: &str| format!("stack {what}");
    vec![
        Subject::theirs(policies.clone(), their_policies),
        Subject::at_most(15, name("policies"), Some(policies), our_policies),
        Subject::theirs(balanced.clone(), their_balanced),
        Subject::at_most(16, name("balanced"), Some(balanced), our_balanced),
        Subject::at_most(48, name("every layer"), None, every_layer),
    ]
}

fn our_policies() -> Run {
    let policies = ServiceBuilder::new()
        .layer(TimeoutLayer::new(TIMEOUT))
        .layer(ConcurrencyLayer::new(AT_ONCE))
        .layer(RetryLayer::new(RetryPolicy::default()));
    requests(|| policies.service(Answering::default()))
}

fn our_balanced() -> Run {
    let policies = ServiceBuilder::new()
        .layer(TimeoutLayer::new(TIMEOUT))
        .layer(ConcurrencyLayer::new(AT_ONCE))
        .layer(RetryLayer::new(RetryPolicy::default()));
    requests(|| policies.service(balance(Answering::default())))
}

fn every_layer() -> Run {
    let limit = Terms { max: AT_ONCE, adaptive: None, shares: Shares::default() };
    let layers = ServiceBuilder::new()
        .layer(AccessLayer::new(Rules::new(Effect::Allow, Vec::new()), "bench"))
        .layer(ShedLayer::new(limit, AT_ONCE as usize, TIMEOUT))
        .layer(TraceLayer::new(0.0))
        .layer(TimeoutLayer::new(TIMEOUT))
        .layer(ConcurrencyLayer::new(AT_ONCE))
        .layer(RetryLayer::new(RetryPolicy::default()))
        .layer(HedgeLayer::new(hedge::policy()))
        .layer(TimeoutLayer::per_attempt(TIMEOUT));
    requests(|| layers.service(balance(CircuitBreakerLayer::default().layer(Answering::default()))))
}

fn balance<S: Clone>(service: S) -> Balance<S> {
    Balance::new(BalancerKind::PeakEwma, (0..MEMBERS).map(|_| Member::new(service.clone(), 1)).collect())
}

fn their_policies() -> Run {
    let policies = ServiceBuilder::new()
        .timeout(TIMEOUT)
        .load_shed()
        .concurrency_limit(AT_ONCE as usize)
        .retry(retry::Again::default());
    requests(|| policies.service(Answering::default()))
}

fn their_balanced() -> Run {
    let policies = ServiceBuilder::new()
        .timeout(TIMEOUT)
        .load_shed()
        .concurrency_limit(AT_ONCE as usize)
        .retry(retry::Again::default());
    let (rtt, decay_nanos) = (Duration::from_millis(30), 10e9);
    let member = |_| PeakEwma::new(Answering::default(), rtt, decay_nanos, CompleteOnResponse::default());
    requests(|| {
        let members = ServiceList::new::<http::Request<mesh_core::Body>>((0..MEMBERS).map(member).collect::<Vec<_>>());
        policies.service(Buffer::new(p2c::Balance::new(members), AT_ONCE as usize))
    })
}

/// Long enough never to end one, short enough for a timer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Never reached.
const AT_ONCE: u32 = 1_024;
/// Services that are balanced over.
const MEMBERS: usize = 10;
