//! How a cluster's endpoints are chosen between, as it is written.
//!
//! Decides: each setting's default and its origin. Never: chooses.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{Percent, Weight};

/// What goes beyond the choice of a balancer.
///
/// The order: the rule's `subset`, then `subsetting`, then the endpoint's `priority`, then its locality
/// (by `locality_weights` if they are written, else the nearest first), then the balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Balancing {
    /// How much endpoints may take over for lost ones of their priority level or locality, as a factor.
    /// Default: 1.4 (Envoy): a level keeps all of its traffic while 72 % of it are healthy.
    #[schemars(range(min = 1, max = 1000))]
    pub overprovisioning_factor: f64,
    /// Share of healthy endpoints, in percent, below which health is ignored; 0 = never. Default: 50 (Envoy).
    pub panic_threshold: Percent,
    /// Below the panic threshold, fail at once instead of using every endpoint. Default: false (Envoy).
    pub fail_traffic_on_panic: bool,
    /// The share of each locality, times its health. A locality that is not listed gets nothing; an
    /// endpoint without one is in that of empty names. Replaces the preference for near endpoints.
    /// Default: none, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locality_weights: Vec<LocalityWeight>,
    /// A new endpoint, or one that comes back, gets its share bit by bit. Default: off (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// For the balancer `least_request`.
    pub least_request: LeastRequest,
    /// For the balancer `weighted_round_robin`.
    pub weighted_round_robin: WeightedRoundRobin,
    /// Use only some of the endpoints. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subsetting: Option<Subsetting>,
    /// Where a request goes whose rule names a `subset` without endpoints. Default: none (Envoy).
    pub subset_fallback: SubsetFallback,
    /// The labels of the endpoints that `subset_fallback: default` means.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub default_subset: BTreeMap<String, String>,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            overprovisioning_factor: 1.4,
            panic_threshold: Percent(50.0),
            fail_traffic_on_panic: false,
            locality_weights: Vec::new(),
            slow_start: None,
            least_request: LeastRequest::default(),
            weighted_round_robin: WeightedRoundRobin::default(),
            subsetting: None,
            subset_fallback: SubsetFallback::None,
            default_subset: BTreeMap::new(),
        }
    }
}

/// The share of one locality.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LocalityWeight {
    /// Region. Default: empty.
    pub region: String,
    /// Zone within the region. Default: empty.
    pub zone: String,
    /// Share relative to the other localities; 0 = none. Default: 1.
    pub weight: Weight,
}

/// How a new endpoint gets its share: `max(min_weight_percent, (age / window) ^ (1 / aggression))` of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes to the full share.
    pub window: TimeSpan,
    /// 1 = a straight line; above, the share grows faster at first. Default: 1 (Envoy).
    #[serde(default = "one")]
    pub aggression: f64,
    /// Where it starts. Default: 10 (Envoy).
    #[serde(default = "ten_percent")]
    pub min_weight_percent: Percent,
}

/// The endpoint with the fewest requests of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeastRequest {
    /// How many endpoints are drawn. Default: 2 (Envoy; gRPC A48 takes 2 to 10).
    #[schemars(range(min = 2, max = 10))]
    pub choice_count: u32,
    /// How much requests in flight count against weight; 0 = not at all. Default: 1 (Envoy).
    #[schemars(range(min = 0, max = 10))]
    pub active_request_bias: f64,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choice_count: 2, active_request_bias: 1.0 }
    }
}

/// Turns by what endpoints report of their load (gRPC A58).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WeightedRoundRobin {
    /// An endpoint reports this long before its reports count. Default: 10s (gRPC A58).
    pub blackout_period: TimeSpan,
    /// Reports are forgotten after this long without one. Default: 180s (gRPC A58).
    pub weight_expiration_period: TimeSpan,
    /// How often weights are taken into account; 100ms or more. Default: 1s (gRPC A58).
    pub weight_update_period: TimeSpan,
    /// How much errors count against an endpoint; 0 = not at all. Default: 1 (gRPC A58).
    #[schemars(range(min = 0, max = 1000))]
    pub error_utilization_penalty: f64,
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self {
            blackout_period: TimeSpan::secs(10),
            weight_expiration_period: TimeSpan::secs(180),
            weight_update_period: TimeSpan::secs(1),
            error_utilization_penalty: 1.0,
        }
    }
}

/// Use only some endpoints of each priority level, the same ones for as long as they are there
/// (gRPC A68): for clusters so large that a connection from everyone to everyone is too much. No client
/// needs a number, and none knows of another; so loads differ: see the notes on `size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subsetting {
    /// How many. An endpoint is used by `clients * size / endpoints` clients on average, more or less the
    /// square root of that: keep it above 10.
    #[schemars(range(min = 1))]
    pub size: u32,
    /// Which ones. Default: random for each process, so that clients use different ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
}

/// What to do for a subset without endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubsetFallback {
    /// The request fails.
    #[default]
    None,
    /// Any endpoint.
    Any,
    /// The endpoints with the labels of `default_subset`.
    Default,
}

fn one() -> f64 {
    1.0
}

fn ten_percent() -> Percent {
    Percent(10.0)
}
