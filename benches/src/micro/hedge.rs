//! A request through the hedge layer that is answered before a copy is due; against tower's.
//!
//! Both know enough to hedge, wait for the 95th percentile, and have the copy at hand.

use std::time::Duration;

use http::Request;
use mesh_core::body::Body;
use mesh_core::layer::HedgeLayer;
use mesh_core::policy::budget::BudgetConfig;
use mesh_core::policy::hedge::{HedgeDelay, HedgePolicy};
use tower::Layer;
use tower::hedge::{Hedge, Policy};

use super::Subject;
use super::service::{Answering, copy, requests};

/// No copy is sent.
pub fn subjects() -> Vec<Subject> {
    let tower = "hedge tower not due".to_owned();
    let theirs = || requests(|| Hedge::new(Answering::default(), Copying, SAMPLES.into(), 0.95, WINDOW));
    let ours = || requests(|| HedgeLayer::new(policy()).layer(Answering::default()));
    vec![Subject::theirs(tower.clone(), theirs), Subject::at_most(17, "hedge not due".to_owned(), Some(tower), ours)]
}

/// What a rule that hedges has by default: one copy, 5 % of requests and one a second.
pub fn policy() -> HedgePolicy {
    HedgePolicy {
        max_hedges: 1,
        delay: HedgeDelay::Percentile(95.0),
        min_samples: SAMPLES,
        budget: BudgetConfig::new(0.05, 1, Duration::from_secs(10)).unwrap_or_default(),
        hint_cap: Duration::from_secs(60),
    }
}

/// Every request may be copied.
#[derive(Clone)]
struct Copying;

impl Policy<Request<Body>> for Copying {
    fn clone_request(&self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(copy(request))
    }

    fn can_retry(&self, _: &Request<Body>) -> bool {
        true
    }
}

/// Answers before a percentile counts.
const SAMPLES: u32 = 50;
/// How long they count.
const WINDOW: Duration = Duration::from_secs(30);
