//! Bare connections: they have two ends, and nothing that only requests have is asked of them.

use super::{Report, ext_authz};
use crate::config::cluster::{Balancer, Cluster, Protocol};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::hashing::HashPolicy;
use crate::config::listener::{Listener, ListenerProtocol};
use crate::config::path::{EscapedSlashes, JudgedPaths};
use crate::config::policy::CacheAttribute;
use crate::config::route::{Matches, Rule};
use crate::config::value::Name;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let listeners = Path::ROOT.field("listeners");
    for (index, listener) in document.listeners.iter().enumerate().filter(|(_, listener)| is_tcp(listener)) {
        check_listener(listener, &listeners.index(index), report);
    }
    let clusters = Path::ROOT.field("clusters");
    for (index, cluster) in document.clusters.iter().enumerate().filter(|(_, c)| c.protocol == Protocol::Tcp) {
        check_cluster(cluster, document, &clusters.index(index), report);
    }
    let routes = Path::ROOT.field("routes");
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let rules = entry.field("rules");
        for (index, rule) in route.rules.iter().enumerate() {
            check_rule(rule, document, &rules.index(index), report);
        }
    }
    check_policy(document, report);
}

fn is_tcp(listener: &Listener) -> bool {
    listener.protocol == ListenerProtocol::Tcp
}

fn check_listener(listener: &Listener, path: &Path<'_>, report: &mut Report<'_>) {
    if listener.forward {
        let hint = "accept the connections and dial onward, or write `protocol: http`";
        report.error_with(&path.field("forward"), "`routes` are for requests, and a TCP listener has none", hint);
    }
    for (field, is_written) in [
        ("load_reports", listener.load_reports.is_some()),
        ("concurrency", listener.concurrency.is_some()),
        ("health", listener.health.is_some()),
        ("normalize_path", !listener.normalize_path),
        ("merge_slashes", listener.merge_slashes),
        ("path_with_escaped_slashes_action", listener.path_with_escaped_slashes_action != EscapedSlashes::default()),
        ("judged_paths", listener.judged_paths != JudgedPaths::default()),
    ] {
        if is_written {
            report.error(&path.field(field), format!("`{field}` is about requests, and a TCP listener has none"));
        }
    }
}

fn check_cluster(cluster: &Cluster, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    check_hashes(&cluster.hash_policy, &path.field("hash_policy"), report);
    if cluster.session.is_some() {
        report.error(&path.field("session"), "a connection carries no session: there is no request to hold it");
    }
    let asks_http = cluster.health_check.as_ref().is_some_and(|check| check.http.is_some() || check.grpc.is_some());
    if asks_http {
        report.error_with(&path.field("health_check"), "the cluster speaks no HTTP", "ask by `tcp`");
    }
    if cluster.balancer.unwrap_or(document.defaults.balancer) == Balancer::WeightedRoundRobin {
        report.warn(&path.field("balancer"), "load reports come with responses, and a connection has none");
    }
}

fn check_hashes(policies: &[HashPolicy], path: &Path<'_>, report: &mut Report<'_>) {
    for (index, _) in policies.iter().enumerate().filter(|(_, policy)| policy.source.is_none()) {
        report.error_with(&path.index(index), "a connection has nothing of the kind to hash", "hash its `source`");
    }
}

/// A rule leads to connections or to requests, not to both.
fn check_rule(rule: &Rule, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    let speaks_tcp = |name: &Name| document.clusters.iter().any(|c| c.name == *name && c.protocol == Protocol::Tcp);
    let mirror = path.field("mirror");
    for (index, _) in rule.mirror.iter().enumerate().filter(|(_, copy)| speaks_tcp(&copy.cluster)) {
        report.error(&mirror.index(index).field("cluster"), "the cluster speaks TCP, and only requests are copied");
    }
    let tcp = rule.backends.iter().filter(|backend| speaks_tcp(&backend.cluster)).count();
    if tcp == 0 {
        return;
    }
    if tcp < rule.backends.len() {
        report.error(&path.field("backends"), "the rule leads to clusters of HTTP and to clusters of TCP");
    }
    for (field, is_written) in [
        ("match", !rule.matches.is_any()),
        ("rewrite", rule.rewrite.is_some()),
        ("request_headers", rule.request_headers.is_some()),
        ("response_headers", rule.response_headers.is_some()),
        ("fault", rule.fault.is_some()),
        ("mirror", !rule.mirror.is_empty()),
        ("hedge", rule.hedge.is_some()),
        ("session", rule.session.is_some()),
    ] {
        if is_written {
            report.error(&path.field(field), format!("`{field}` is about requests, and the rule leads to TCP"));
        }
    }
    check_hashes(&rule.hash_policy, &path.field("hash_policy"), report);
}

/// What names TCP listeners only, and asks for what connections do not have.
fn check_policy(document: &Document, report: &mut Report<'_>) {
    let is_one = |name: &Name| document.listeners.iter().any(|listener| listener.name == *name && is_tcp(listener));
    let only_tcp = |names: &Option<Vec<Name>>| names.as_ref().is_some_and(|names| names.iter().all(is_one));
    let policy = Path::ROOT.field("policy");
    let access = policy.field("access");
    let rules = access.field("rules");
    for (index, rule) in document.policy.access.rules.iter().enumerate().filter(|(_, rule)| only_tcp(&rule.listeners)) {
        for (field, is_written) in [
            ("methods", !rule.methods.is_empty()),
            ("paths", !rule.paths.is_empty()),
            ("hosts", !rule.hosts.is_empty()),
            ("headers", !rule.headers.is_empty()),
        ] {
            if is_written {
                report.error(&rules.index(index).field(field), format!("a connection has no {field}"));
            }
        }
    }
    let checks = policy.field("checks");
    for (index, check) in document.policy.checks.iter().enumerate().filter(|(_, check)| only_tcp(&check.listeners)) {
        check_match(&check.matches, &checks.index(index), report);
        ext_authz::check_of_connections(check, &checks.index(index), report);
    }
    let limits = policy.field("rate_limits");
    for (index, limit) in document.policy.rate_limits.iter().enumerate().filter(|(_, l)| only_tcp(&l.listeners)) {
        let entry = limits.index(index);
        check_match(&limit.matches, &entry, report);
        let by = entry.field("by");
        let known = [CacheAttribute::Principal, CacheAttribute::SourceIp, CacheAttribute::Listener];
        for (index, fact) in limit.by.iter().enumerate().filter(|(_, fact)| !known.contains(fact)) {
            report.error(&by.index(index), format!("a connection has no `{fact}`"));
        }
    }
}

fn check_match(matches: &Matches, entry: &Path<'_>, report: &mut Report<'_>) {
    if !matches.is_any() {
        report.error(&entry.field("match"), "a connection meets no condition on requests");
    }
}
