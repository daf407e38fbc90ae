//! Balancing: numbers a balancer cannot work with, localities nobody is in, subsets nothing is in.

use std::collections::HashSet;

use super::Report;
use crate::config::balancing::{Balancing, SubsetFallback};
use crate::config::cluster::Cluster;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::route::Rule;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let clusters = Path::ROOT.field("clusters");
    for (index, cluster) in document.clusters.iter().enumerate() {
        if let Some(balancing) = &cluster.balancing {
            check_balancing(balancing, &clusters.index(index).field("balancing"), report);
            check_localities(cluster, balancing, &clusters.index(index).field("balancing"), report);
        }
    }
    let routes = Path::ROOT.field("routes");
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let rules = entry.field("rules");
        for (index, rule) in route.rules.iter().enumerate() {
            check_subsets(rule, document, &rules.index(index).field("backends"), report);
        }
    }
}

fn check_balancing(balancing: &Balancing, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(slow) = &balancing.slow_start {
        let path = path.field("slow_start");
        if slow.window.0.is_zero() {
            report.error_with(&path.field("window"), "a slow start takes longer than 0s", "leave `slow_start` out");
        }
        if !(slow.aggression.is_finite() && slow.aggression > 0.0) {
            report.error(&path.field("aggression"), "the aggression is above 0");
        }
    }
    let reports = &balancing.weighted_round_robin;
    if reports.weight_update_period.0.as_millis() < 100 {
        let path = path.field("weighted_round_robin");
        report.error(&path.field("weight_update_period"), "weights are updated every 100ms at most");
    }
    if reports.weight_expiration_period.0 <= reports.blackout_period.0 {
        let path = path.field("weighted_round_robin");
        report.error(
            &path.field("weight_expiration_period"),
            "reports expire before they count: not longer than `blackout_period`",
        );
    }
    if balancing.subset_fallback == SubsetFallback::Default && balancing.default_subset.is_empty() {
        report.error(&path.field("subset_fallback"), "there is no `default_subset` to fall back to");
    }
}

fn check_localities(cluster: &Cluster, balancing: &Balancing, path: &Path<'_>, report: &mut Report<'_>) {
    let weights = &balancing.locality_weights;
    if weights.is_empty() {
        return;
    }
    let path = path.field("locality_weights");
    if weights.iter().all(|locality| locality.weight.0 == 0) {
        report.error_with(&path, "all localities have the weight 0", "give one of them a weight");
    }
    let mut seen = HashSet::new();
    for (index, locality) in weights.iter().enumerate() {
        if !seen.insert((locality.region.as_str(), locality.zone.as_str())) {
            report.error(&path.index(index), "the locality is listed twice");
        }
    }
    let unlisted = |endpoint: &&crate::config::cluster::Endpoint| {
        let place = endpoint.locality.as_ref();
        !seen.contains(&place.map_or(("", ""), |place| (place.region.as_str(), place.zone.as_str())))
    };
    if let Some(endpoint) = cluster.endpoints.iter().flatten().find(unlisted) {
        let message = format!("the endpoint `{}` is in none of these localities: it gets no traffic", endpoint.address);
        report.warn(&path, message);
    }
}

/// Endpoints in the document are known: a subset of them that is empty is a mistake.
fn check_subsets(rule: &Rule, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    for (index, backend) in rule.backends.iter().enumerate() {
        let cluster = document.clusters.iter().find(|cluster| cluster.name == backend.cluster);
        let Some(endpoints) = cluster.and_then(|cluster| cluster.endpoints.as_ref()) else { continue };
        let falls_back = cluster
            .and_then(|cluster| cluster.balancing.as_ref())
            .is_some_and(|balancing| balancing.subset_fallback != SubsetFallback::None);
        let is_in = |endpoint: &crate::config::cluster::Endpoint| {
            backend.subset.iter().all(|(name, value)| endpoint.labels.get(name) == Some(value))
        };
        if !backend.subset.is_empty() && !falls_back && !endpoints.iter().any(is_in) {
            let message = format!("no endpoint of the cluster `{}` has these labels", backend.cluster);
            report.error(&path.index(index).field("subset"), message);
        }
    }
}
