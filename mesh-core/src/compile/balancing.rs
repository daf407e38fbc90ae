//! Balancing: from what is written to what a picker takes.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::cluster::Locality;
use crate::cluster::balancing::{BalancerKind, Balancing, LeastRequest};
use crate::cluster::group::Settings;
use crate::cluster::load_weight::ReportRule;
use crate::cluster::priority::Rule;
use crate::cluster::slow_start::SlowStart;
use crate::cluster::subset::{Fallback, Subsets};
use crate::cluster::subsetting::Subsetting;
use crate::config::balancing::{self as written, SubsetFallback};
use crate::config::cluster::{Balancer, Cluster};
use crate::config::document::Document;

/// Everything a picker is built with.
pub(super) fn balancing(cluster: &Cluster, document: &Document) -> Result<Balancing, String> {
    let set = cluster.balancing.clone().unwrap_or_default();
    Ok(Balancing {
        kind: match cluster.balancer.unwrap_or(document.defaults.balancer) {
            Balancer::PeakEwma => BalancerKind::PeakEwma,
            Balancer::LeastRequest => BalancerKind::LeastRequest,
            Balancer::RoundRobin => BalancerKind::RoundRobin,
            Balancer::Random => BalancerKind::Random,
            Balancer::WeightedRoundRobin => BalancerKind::WeightedRoundRobin,
        },
        least_request: LeastRequest {
            choices: set.least_request.choice_count.min(10) as u8,
            bias: set.least_request.active_request_bias,
        },
        reports: report_rule(&set.weighted_round_robin),
        rule: Rule {
            overprovisioning_percent: (set.overprovisioning_factor * 100.0).round() as u32,
            panic_percent: set.panic_threshold.0.round() as u32,
        },
        fails_on_panic: set.fail_traffic_on_panic,
        slow_start: set.slow_start.as_ref().map(slow_start).transpose()?,
        localities: localities(&set),
    })
}

/// The subsets that the rules name of this cluster.
pub(super) fn subsets(cluster: &Cluster, document: &Document) -> Subsets {
    let rules = document.routes.iter().flat_map(|route| &route.rules);
    let backends = rules.flat_map(|rule| &rule.backends).filter(|backend| backend.cluster == cluster.name);
    let selectors = backends.map(|backend| backend.subset.clone()).filter(|subset| !subset.is_empty());
    let set = cluster.balancing.clone().unwrap_or_default();
    let fallback = match set.subset_fallback {
        SubsetFallback::None => Fallback::None,
        SubsetFallback::Any => Fallback::Any,
        SubsetFallback::Default => Fallback::Default(set.default_subset),
    };
    Subsets::new(selectors.collect(), fallback)
}

/// Which endpoints are used. A seed that is not written is drawn once, and then kept.
pub(super) fn subsetting(cluster: &Cluster, previous: Option<&Settings>) -> Option<Subsetting> {
    let set = cluster.balancing.as_ref()?.subsetting.as_ref()?;
    let drawn =
        || previous.and_then(|previous| previous.subsetting).map_or_else(|| fastrand::u64(..), |kept| kept.seed);
    Some(Subsetting { size: NonZeroU32::new(set.size)?, seed: set.seed.map_or_else(drawn, u64::from) })
}

fn report_rule(written: &written::WeightedRoundRobin) -> ReportRule {
    ReportRule {
        blackout: written.blackout_period.0,
        expiry: written.weight_expiration_period.0,
        update_period: written.weight_update_period.0,
        error_penalty: written.error_utilization_penalty,
    }
}

fn slow_start(written: &written::SlowStart) -> Result<SlowStart, String> {
    SlowStart::new(written.window.0, written.aggression, written.min_weight_percent.0)
        .map_err(|error| error.to_string())
}

fn localities(set: &written::Balancing) -> Option<Arc<std::collections::BTreeMap<Locality, u32>>> {
    let place =
        |one: &written::LocalityWeight| (Locality { region: one.region.clone(), zone: one.zone.clone() }, one.weight.0);
    (!set.locality_weights.is_empty()).then(|| Arc::new(set.locality_weights.iter().map(place).collect()))
}
