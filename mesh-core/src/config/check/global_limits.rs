//! Limits that are counted for several processes: names that refer to something, actions of one kind, a cluster that
//! can be asked, a file that can be one.

use std::collections::HashMap;

use super::Report;
use crate::config::cluster::Protocol;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::global_limit::{Action, DescriptorRule, GlobalRateLimit, Lease};
use crate::config::listener::ListenerProtocol;
use crate::config::value::Name;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let policy = Path::ROOT.field("policy");
    let limits = policy.field("global_rate_limits");
    // One metric tells of local and global limits, so that a name belongs to one of either.
    let locals = policy.field("rate_limits");
    let local = document.policy.rate_limits.iter().enumerate();
    let mut seen: HashMap<&str, u32> =
        local.map(|(index, limit)| (limit.name.as_str(), report.positions.at(&locals.index(index)).0)).collect();
    for (index, limit) in document.policy.rate_limits.iter().enumerate() {
        let path = limit.shared.as_ref().and_then(|path| path.to_str());
        if path.is_some_and(|path| path.is_empty() || path.ends_with('/')) {
            let hint = "write the path of a file that the processes may create, such as /run/shop/limits";
            report.error_with(&locals.index(index).field("shared"), "this names no file", hint);
        }
    }
    for (index, limit) in document.policy.global_rate_limits.iter().enumerate() {
        let entry = limits.index(index);
        let line = report.positions.at(&entry).0;
        if let Some(first) = seen.insert(limit.name.as_str(), line) {
            let message = format!("the rate limit `{}` is written twice", limit.name);
            report.error_with(&entry.field("name"), message, &format!("the first one is in line {first}"));
        }
        check_limit(limit, document, &entry, report);
    }
}

fn check_limit(limit: &GlobalRateLimit, document: &Document, entry: &Path<'_>, report: &mut Report<'_>) {
    check_place((&limit.cluster, limit.listeners.as_deref()), document, entry, report);
    if limit.timeout.is_zero() {
        let hint = "write the time that a request may wait for the answer, such as 20ms";
        report.error_with(&entry.field("timeout"), "the timeout is 0s: no answer would be in time", hint);
    }
    if let Some(lease) = &limit.lease {
        check_lease(lease, &entry.field("lease"), report);
    }
    let is_tcp = only_tcp(limit.listeners.as_deref(), document);
    if is_tcp && !limit.matches.is_any() {
        report.error(&entry.field("match"), "a connection meets no condition on requests");
    }
    check_rules(&limit.descriptors, is_tcp, &entry.field("descriptors"), report);
}

/// What makes entries, each action by itself.
pub(super) fn check_rules(rules: &[DescriptorRule], is_tcp: bool, path: &Path<'_>, report: &mut Report<'_>) {
    for (index, rule) in rules.iter().enumerate() {
        let rule_path = path.index(index);
        let actions = rule_path.field("actions");
        for (index, action) in rule.actions.iter().enumerate() {
            check_action(action, is_tcp, &actions.index(index), report);
        }
    }
}

/// The listeners that a limit names, and its cluster: rate limit services are gRPC, and gRPC needs HTTP/2.
pub(super) fn check_place(
    (name, listeners): (&Name, Option<&[Name]>),
    document: &Document,
    entry: &Path<'_>,
    report: &mut Report<'_>,
) {
    let known: Vec<&str> = document.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let list = entry.field("listeners");
    for (index, name) in listeners.into_iter().flatten().enumerate() {
        report.refer(&list.index(index), ("listener", name.as_str()), &known);
    }
    let clusters: Vec<&str> = document.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    report.refer(&entry.field("cluster"), ("cluster", name.as_str()), &clusters);
    let cluster = document.clusters.iter().find(|cluster| cluster.name == *name);
    let spoken = match cluster.map(|cluster| cluster.protocol) {
        Some(Protocol::Http1) => "HTTP/1.1",
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Auto | Protocol::Http2) | None => return,
    };
    let message = format!("the cluster `{name}` speaks {spoken} and a rate limit service needs gRPC");
    report.error_with(&entry.field("cluster"), message, "write `protocol: http2` in the cluster");
}

fn check_lease(lease: &Lease, path: &Path<'_>, report: &mut Report<'_>) {
    if lease.min > lease.max {
        let message = format!("`min` ({}) is above `max` ({})", lease.min, lease.max);
        report.error(path, message);
    }
    if lease.ttl.is_zero() {
        report.error_with(&path.field("ttl"), "a grant that lasts 0s is of no use", "drop `lease` or give it a ttl");
    }
}

/// Whether nothing but connections comes to these listeners.
pub(super) fn only_tcp(listeners: Option<&[Name]>, document: &Document) -> bool {
    let is_one = |name: &Name| {
        document.listeners.iter().any(|known| known.name == *name && known.protocol == ListenerProtocol::Tcp)
    };
    listeners.is_some_and(|names| names.iter().all(is_one))
}

fn check_action(action: &Action, is_tcp: bool, path: &Path<'_>, report: &mut Report<'_>) {
    if action.kinds() != 1 {
        let what = if action.kinds() == 0 { "makes nothing" } else { "is of several kinds" };
        let hint = "write one of source_cluster, destination_cluster, remote_address, masked_remote_address, \
                    generic_key, request_headers, header_value_match, query_parameter_value_match, claim, attribute";
        return report.error_with(path, format!("the action {what}"), hint);
    }
    if is_tcp && (action.request_headers.is_some() || action.claim.is_some()) {
        report.error(path, "a connection has no headers and no token");
    }
    let Some(header) = &action.request_headers else { return };
    let name = path.field("request_headers");
    let name = name.field("header_name");
    let lower = header.header_name.to_ascii_lowercase();
    let is_pseudo = [":method", ":path", ":authority", ":scheme"].contains(&lower.as_str());
    if !is_pseudo && http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
        let hint = "a header name like x-user, or one of :method, :path, :authority, :scheme";
        report.error_with(&name, format!("`{}` is no name of a header", header.header_name), hint);
    }
    if ["authorization", "proxy-authorization", "cookie"].contains(&lower.as_str()) {
        report
            .warn(&name, format!("the rate limit service gets to see `{lower}`; count by a claim or by the principal"));
    }
}
