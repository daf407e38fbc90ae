//! Times and numbers that contradict each other, on the values that result from defaults and overrides.

use super::{Report, admission, ext_authz, retries};
use crate::config::cluster::Cluster;
use crate::config::diagnostic::Path;
use crate::config::document::{Defaults, Document};
use crate::config::duration::TimeSpan;
use crate::config::guard::{Guard, GuardRetry};
use crate::config::policy::{Check, CircuitBreaker, Outlier, Retry, RetryBudget};
use crate::config::route::Rule;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let defaults = &document.defaults;
    check_defaults(defaults, report);
    let routes = Path::ROOT.field("routes");
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let rules = entry.field("rules");
        for (index, rule) in route.rules.iter().enumerate() {
            check_rule(rule, defaults, &rules.index(index), report);
        }
    }
    let clusters = Path::ROOT.field("clusters");
    for (index, cluster) in document.clusters.iter().enumerate() {
        check_cluster(cluster, defaults, &clusters.index(index), report);
    }
    let guards = Path::ROOT.field("guards");
    for (index, guard) in document.guards.iter().enumerate() {
        check_guard(guard, defaults, &guards.index(index), report);
    }
    let listeners = Path::ROOT.field("listeners");
    for (index, listener) in document.listeners.iter().enumerate() {
        if let Some(concurrency) = &listener.concurrency {
            admission::check_listener(concurrency, &listeners.index(index).field("concurrency"), report);
        }
    }
    let policy = Path::ROOT.field("policy");
    let checks = policy.field("checks");
    for (index, check) in document.policy.checks.iter().enumerate() {
        check_check(check, &checks.index(index), report);
    }
}

fn check_defaults(defaults: &Defaults, report: &mut Report<'_>) {
    let path = Path::ROOT.field("defaults");
    check_attempt(defaults.timeout, defaults.attempt_timeout, &path, report);
    retries::check(&defaults.retry, &path.field("retry"), report);
    check_budget(&defaults.retry_budget, &path.field("retry_budget"), report);
    check_breaker(&defaults.circuit_breaker, &path.field("circuit_breaker"), report);
    check_outlier(&defaults.outlier, &path.field("outlier"), report);
    admission::check_limit(&defaults.concurrency_limit, &path.field("concurrency_limit"), report);
    not_zero(defaults.connect_timeout, &path.field("connect_timeout"), report);
}

/// An override is checked on what results, and only where something was overridden.
fn check_rule(rule: &Rule, defaults: &Defaults, path: &Path<'_>, report: &mut Report<'_>) {
    if rule.timeout.is_some() || rule.attempt_timeout.is_some() {
        let timeout = rule.timeout.unwrap_or(defaults.timeout);
        check_attempt(timeout, rule.attempt_timeout.unwrap_or(defaults.attempt_timeout), path, report);
    }
    if let Some(retry) = &rule.retry {
        retries::check(&retry.over(&defaults.retry), &path.field("retry"), report);
    }
}

fn check_cluster(cluster: &Cluster, defaults: &Defaults, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(budget) = &cluster.retry_budget {
        check_budget(&budget.over(&defaults.retry_budget), &path.field("retry_budget"), report);
    }
    if let Some(breaker) = &cluster.circuit_breaker {
        check_breaker(&breaker.over(&defaults.circuit_breaker), &path.field("circuit_breaker"), report);
    }
    if let Some(breaker) = &cluster.cluster_circuit_breaker {
        check_breaker(&breaker.over(&defaults.circuit_breaker), &path.field("cluster_circuit_breaker"), report);
    }
    if let Some(outlier) = &cluster.outlier {
        check_outlier(&outlier.over(&defaults.outlier), &path.field("outlier"), report);
    }
    if let Some(limit) = &cluster.concurrency_limit {
        let limit = limit.over(&defaults.concurrency_limit);
        admission::check_limit(&limit, &path.field("concurrency_limit"), report);
    }
    if let Some(timeout) = cluster.connect_timeout {
        not_zero(timeout, &path.field("connect_timeout"), report);
    }
    let http2 = path.field("http2");
    let keepalive = http2.field("keepalive");
    not_zero(cluster.http2.keepalive.interval, &keepalive.field("interval"), report);
    not_zero(cluster.http2.keepalive.timeout, &keepalive.field("timeout"), report);
}

fn check_guard(guard: &Guard, defaults: &Defaults, path: &Path<'_>, report: &mut Report<'_>) {
    if guard.timeout.is_some() || guard.attempt_timeout.is_some() {
        let timeout = guard.timeout.unwrap_or(defaults.timeout);
        check_attempt(timeout, guard.attempt_timeout.unwrap_or(defaults.attempt_timeout), path, report);
    }
    if guard.retry != GuardRetry::default() {
        check_waits(&guard.retry.over(&defaults.retry), &path.field("retry"), report);
    }
    if let Some(budget) = &guard.retry_budget {
        check_budget(&budget.over(&defaults.retry_budget), &path.field("retry_budget"), report);
    }
    if let Some(breaker) = &guard.circuit_breaker {
        check_breaker(&breaker.over(&defaults.circuit_breaker), &path.field("circuit_breaker"), report);
    }
}

fn check_check(check: &Check, path: &Path<'_>, report: &mut Report<'_>) {
    not_zero(check.timeout, &path.field("timeout"), report);
    ext_authz::check(check, path, report);
    let Some(cache) = &check.cache else { return };
    if cache.ttl.is_zero() && cache.negative_ttl.is_zero() {
        report.error_with(&path.field("cache"), "the cache keeps nothing", "drop `cache` or give it a ttl");
    }
    let caps = [("ttl", cache.ttl, "max_ttl", cache.max_ttl)];
    let negative = ("negative_ttl", cache.negative_ttl, "max_negative_ttl", cache.max_negative_ttl);
    for (name, ttl, cap_name, cap) in caps.into_iter().chain([negative]) {
        let Some(cap) = cap.filter(|cap| *cap < ttl) else { continue };
        let message = format!("`{cap_name}` ({cap}) is shorter than `{name}` ({ttl})");
        report.error(&path.field("cache").field(cap_name), message);
    }
}

fn check_attempt(timeout: TimeSpan, attempt: TimeSpan, path: &Path<'_>, report: &mut Report<'_>) {
    if !timeout.is_zero() && attempt > timeout {
        let message = format!("the attempt timeout ({attempt}) is longer than the timeout ({timeout})");
        report.error(&report_at(path, ["attempt_timeout", "timeout"], report), message);
    }
}

fn check_waits(retry: &Retry, path: &Path<'_>, report: &mut Report<'_>) {
    not_zero(retry.base, &path.field("base"), report);
    ordered(("base", retry.base), ("max", retry.max), path, report);
}

fn check_budget(budget: &RetryBudget, path: &Path<'_>, report: &mut Report<'_>) {
    not_zero(budget.window, &path.field("window"), report);
}

fn check_breaker(breaker: &CircuitBreaker, path: &Path<'_>, report: &mut Report<'_>) {
    not_zero(breaker.window, &path.field("window"), report);
    not_zero(breaker.open, &path.field("open"), report);
    ordered(("open", breaker.open), ("max_open", breaker.max_open), path, report);
    not_zero(breaker.max_half_open, &path.field("max_half_open"), report);
    if breaker.half_open_failures >= breaker.half_open_requests {
        let message = "as many requests may fail as are let through: the breaker would never open again";
        report.error(&report_at(path, ["half_open_failures", "half_open_requests"], report), message);
    }
    if breaker.window_requests > 0 && breaker.min_requests > breaker.window_requests {
        let message = format!(
            "the window holds {} requests, fewer than `min_requests` ({}): the breaker would never open",
            breaker.window_requests, breaker.min_requests
        );
        report.error(&report_at(path, ["window_requests", "min_requests"], report), message);
    }
    if !breaker.slow_call.is_zero() && breaker.max_slow_percent.0 <= 0.0 {
        let message = "a share of 0 is reached by no slow answer at all";
        report.error_with(&path.field("max_slow_percent"), message, "write `slow_call: 0s` to switch it off");
    }
}

fn check_outlier(outlier: &Outlier, path: &Path<'_>, report: &mut Report<'_>) {
    not_zero(outlier.interval, &path.field("interval"), report);
    not_zero(outlier.base_ejection, &path.field("base_ejection"), report);
    ordered(("base_ejection", outlier.base_ejection), ("max_ejection", outlier.max_ejection), path, report);
}

pub(super) fn not_zero(span: TimeSpan, path: &Path<'_>, report: &mut Report<'_>) {
    if span.is_zero() {
        let found = report.positions.error(path, "the time is zero").expecting("a time longer than 0s");
        report.found.push(found);
    }
}

pub(super) fn ordered(
    low: (&'static str, TimeSpan),
    high: (&'static str, TimeSpan),
    path: &Path<'_>,
    report: &mut Report<'_>,
) {
    if low.1 > high.1 {
        let message = format!("`{}` ({}) is longer than `{}` ({})", low.0, low.1, high.0, high.1);
        report.error(&report_at(path, [low.0, high.0], report), message);
    }
}

/// The first of the fields that was written: the other one may come from a default.
fn report_at<'p>(path: &'p Path<'p>, fields: [&'static str; 2], report: &Report<'_>) -> Path<'p> {
    let [first, second] = fields.map(|field| path.field(field));
    if report.positions.has(&first) { first } else { second }
}
