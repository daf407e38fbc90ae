//! Hash tables that can be built, policies that read one thing, sessions that are carried by one.

use super::Report;
use crate::config::cluster::{Balancer, Cluster};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::hashing::{Cookie, HashPolicy, RingHash, Session, is_prime};
use crate::config::route::{Backend, Rule};

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let clusters = Path::ROOT.field("clusters");
    for (index, cluster) in document.clusters.iter().enumerate() {
        let path = clusters.index(index);
        check_tables(cluster, cluster.balancer.unwrap_or(document.defaults.balancer), &path, report);
        check_policies(&cluster.hash_policy, &path.field("hash_policy"), report);
        check_session(cluster.session.as_ref(), &path.field("session"), report);
    }
    let routes = Path::ROOT.field("routes");
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let rules = entry.field("rules");
        for (index, rule) in route.rules.iter().enumerate() {
            let path = rules.index(index);
            check_policies(&rule.hash_policy, &path.field("hash_policy"), report);
            check_session(rule.session.as_ref(), &path.field("session"), report);
            check_split(rule, document, &path, report);
        }
    }
}

fn check_tables(cluster: &Cluster, balancer: Balancer, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(RingHash { minimum_ring_size: low, maximum_ring_size: high, .. }) = &cluster.ring_hash
        && low > high
    {
        let message = format!("`minimum_ring_size` ({low}) is above `maximum_ring_size` ({high})");
        report.error(&path.field("ring_hash"), message);
    }
    if let Some(maglev) = &cluster.maglev
        && !is_prime(maglev.table_size)
    {
        let message = format!("the table size {} is not a prime number", maglev.table_size);
        let hint = "65537 is one; with more than 650 endpoints take 655373 or 5000011";
        report.error_with(&path.field("maglev").field("table_size"), message, hint);
    }
    let is_hashing = matches!(balancer, Balancer::RingHash | Balancer::Maglev);
    for (field, is_written, is_used) in [
        ("ring_hash", cluster.ring_hash.is_some(), balancer == Balancer::RingHash),
        ("maglev", cluster.maglev.is_some(), balancer == Balancer::Maglev),
        ("consistent_hashing", cluster.consistent_hashing.is_some(), is_hashing),
        ("hash_policy", !cluster.hash_policy.is_empty(), is_hashing),
    ] {
        if is_written && !is_used {
            report.warn(&path.field(field), format!("`{field}` says nothing to this cluster's balancer"));
        }
    }
}

/// What binds a client to its endpoint binds it to a backend only if the rule says so, too.
fn check_split(rule: &Rule, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    if rule.sticky && rule.hash_policy.is_empty() {
        let hint = "say under `hash_policy` what the requests of one client have in common, a cookie with a `ttl` say";
        report.error_with(&path.field("sticky"), "`sticky` needs a `hash_policy` of the rule", hint);
    }
    let is_drawn = rule.backends.iter().filter(|backend| backend.weight.0 > 0).count() > 1;
    let with_session = |backend: &Backend| {
        document.clusters.iter().any(|cluster| cluster.name == backend.cluster && cluster.session.is_some())
    };
    if is_drawn && !rule.sticky && (rule.session.is_some() || rule.backends.iter().any(with_session)) {
        let message = "the session keeps a client with an endpoint of one backend, and each request is drawn for anew: \
                       `sticky: true` keeps it with the backend";
        report.warn(&path.field("backends"), message);
    }
}

/// RFC 6265 4.1.1: what a `set-cookie` can say without saying more than is meant.
fn check_cookie(cookie: Option<&Cookie>, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(cookie) = cookie else { return };
    if http::HeaderName::from_bytes(cookie.name.as_bytes()).is_err() {
        report.error(&path.field("name"), format!("`{}` is no name of a cookie", cookie.name));
    }
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    let is_path = cookie.path.is_empty() || (cookie.path.starts_with('/') && cookie.path.bytes().all(is_plain));
    if !is_path {
        report.error(&path.field("path"), format!("`{}` is no path of a cookie", cookie.path));
    }
}

fn check_policies(policies: &[HashPolicy], path: &Path<'_>, report: &mut Report<'_>) {
    for (index, policy) in policies.iter().enumerate() {
        let entry = path.index(index);
        check_cookie(policy.cookie.as_ref(), &entry.field("cookie"), report);
        let message = match policy.parts() {
            1 => continue,
            0 => "the hash policy says nothing to read",
            _ => "the hash policy says more than one thing to read",
        };
        let found = report.positions.error(&entry, message);
        report.found.push(found.expecting("exactly one of header, cookie, query_parameter or source"));
    }
}

fn check_session(session: Option<&Session>, path: &Path<'_>, report: &mut Report<'_>) {
    check_cookie(session.and_then(|session| session.cookie.as_ref()), &path.field("cookie"), report);
    let message = match session.map(|session| (session.cookie.is_some(), session.header.is_some())) {
        Some((false, false)) => "the session is carried by nothing",
        Some((true, true)) => "the session is carried by more than one thing",
        Some(_) | None => return,
    };
    let found = report.positions.error(path, message);
    report.found.push(found.expecting("exactly one of cookie or header"));
}
