//! Names: each is given once, and each reference has something to refer to.

use std::collections::HashMap;

use super::Report;
use crate::config::access::Access;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::policy::{CacheAttribute, Check};
use crate::config::value::Name;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let root = Path::ROOT;
    once("cluster", &root.field("clusters"), document.clusters.iter().map(|cluster| Some(&cluster.name)), report);
    once("listener", &root.field("listeners"), document.listeners.iter().map(|listener| Some(&listener.name)), report);
    once("route", &root.field("routes"), document.routes.iter().map(|route| route.name.as_ref()), report);
    once("guard", &root.field("guards"), document.guards.iter().map(|guard| Some(&guard.name)), report);
    check_hosts(document, report);
    let policy = root.field("policy");
    let listeners: Vec<&str> = document.listeners.iter().map(|listener| listener.name.as_str()).collect();
    check_access(&document.policy.access, &policy.field("access"), &listeners, report);
    check_checks(document, &policy.field("checks"), &listeners, report);
    let issuers = policy.field("end_users");
    once("issuer", &issuers, document.policy.end_users.iter().map(|issuer| Some(&issuer.name)), report);
    let limits = policy.field("rate_limits");
    once("rate limit", &limits, document.policy.rate_limits.iter().map(|limit| Some(&limit.name)), report);
    for (index, limit) in document.policy.rate_limits.iter().enumerate() {
        refer_listeners(limit.listeners.as_deref(), &limits.index(index), &listeners, report);
    }
}

/// Each name at most once; the second one is the mistake.
fn once<'n>(kind: &str, list: &Path<'_>, names: impl Iterator<Item = Option<&'n Name>>, report: &mut Report<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, name) in names.enumerate() {
        let Some(name) = name else { continue };
        if let Some(first) = seen.insert(name.as_str(), index) {
            let line = report.positions.at(&list.index(first)).0;
            let message = format!("the {kind} `{name}` is written twice");
            report.error_with(&list.index(index).field("name"), message, &format!("the first one is in line {line}"));
        }
    }
}

/// A host belongs to one route: two would make the order of routes matter.
fn check_hosts(document: &Document, report: &mut Report<'_>) {
    let routes = Path::ROOT.field("routes");
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let hosts = entry.field("hosts");
        for (host_index, host) in route.hosts.iter().enumerate() {
            let path = hosts.index(host_index);
            let line = report.positions.at(&path).0;
            if let Some(first) = seen.insert(host.as_str(), line) {
                let message = format!("the host `{host}` is already served by a route");
                report.error_with(&path, message, &format!("the first one is in line {first}"));
            }
        }
        once("rule", &entry.field("rules"), route.rules.iter().map(|rule| rule.name.as_ref()), report);
    }
}

fn check_access(access: &Access, path: &Path<'_>, listeners: &[&str], report: &mut Report<'_>) {
    let rules = path.field("rules");
    once("access rule", &rules, access.rules.iter().map(|rule| Some(&rule.name)), report);
    for (index, rule) in access.rules.iter().enumerate() {
        refer_listeners(rule.listeners.as_deref(), &rules.index(index), listeners, report);
    }
}

fn check_checks(document: &Document, path: &Path<'_>, listeners: &[&str], report: &mut Report<'_>) {
    let checks = &document.policy.checks;
    let clusters: Vec<&str> = document.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    once("check", path, checks.iter().map(|check| Some(&check.name)), report);
    for (index, check) in checks.iter().enumerate() {
        let entry = path.index(index);
        if let Some(cluster) = &check.cluster {
            report.refer(&entry.field("cluster"), ("cluster", cluster.as_str()), &clusters);
        }
        refer_listeners(check.listeners.as_deref(), &entry, listeners, report);
        check_cache_key(check, &entry, report);
    }
}

fn check_cache_key(check: &Check, entry: &Path<'_>, report: &mut Report<'_>) {
    let Some(cache) = &check.cache else { return };
    let cache_path = entry.field("cache");
    let key = cache_path.field("key");
    let written = cache.key.as_deref().unwrap_or_default();
    for (index, attribute) in written.iter().enumerate() {
        if written[..index].contains(attribute) {
            report.error(&key.index(index), format!("the attribute `{attribute}` is written twice"));
        }
        if matches!(attribute, CacheAttribute::Principal | CacheAttribute::Listener) {
            report.warn(&key.index(index), format!("`{attribute}` is always part of the key"));
        }
    }
}

fn refer_listeners(names: Option<&[Name]>, entry: &Path<'_>, listeners: &[&str], report: &mut Report<'_>) {
    let list = entry.field("listeners");
    for (index, name) in names.into_iter().flatten().enumerate() {
        report.refer(&list.index(index), ("listener", name.as_str()), listeners);
    }
}
