//! Limits that a server assigns: names that refer to something, buckets that can be told apart, behaviours of one kind
//! that last for a while.

use std::collections::HashMap;
use std::time::Duration;

use super::Report;
use super::global_limits::{check_place, check_rules, only_tcp};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::global_limit::DescriptorRule;
use crate::config::rate_limit_quota::{ExpiredAssignment, RateLimitQuota, RateLimitStrategy};

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let policy = Path::ROOT.field("policy");
    let quotas = policy.field("rate_limit_quotas");
    let (local, global) = (policy.field("rate_limits"), policy.field("global_rate_limits"));
    // One metric tells of all rate limits, so that a name belongs to one of them.
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for (index, limit) in document.policy.rate_limits.iter().enumerate() {
        seen.entry(limit.name.as_str()).or_insert(report.positions.at(&local.index(index)).0);
    }
    for (index, limit) in document.policy.global_rate_limits.iter().enumerate() {
        seen.entry(limit.name.as_str()).or_insert(report.positions.at(&global.index(index)).0);
    }
    for (index, quota) in document.policy.rate_limit_quotas.iter().enumerate() {
        let entry = quotas.index(index);
        let line = report.positions.at(&entry).0;
        if let Some(other) = seen.insert(quota.name.as_str(), line) {
            let message = format!("the rate limit `{}` is written twice", quota.name);
            report.error_with(&entry.field("name"), message, &format!("the other one is in line {other}"));
        }
        check_quota(quota, document, &entry, report);
    }
}

fn check_quota(quota: &RateLimitQuota, document: &Document, entry: &Path<'_>, report: &mut Report<'_>) {
    check_place((&quota.cluster, quota.listeners.as_deref()), document, entry, report);
    let is_tcp = only_tcp(quota.listeners.as_deref(), document);
    if is_tcp && !quota.matches.is_any() {
        report.error(&entry.field("match"), "a connection meets no condition on requests");
    }
    let buckets = entry.field("buckets");
    check_rules(&quota.buckets, is_tcp, &buckets, report);
    for (index, rule) in quota.buckets.iter().enumerate() {
        check_keys(rule, &buckets.index(index), report);
    }
    if quota.reporting_interval.0 <= SHORTEST {
        let hint = "write how often the server is told what was used, such as 5s";
        report.error_with(&entry.field("reporting_interval"), "the interval must be above 100ms", hint);
    }
    if let Some(written) = &quota.no_assignment_behavior {
        let path = entry.field("no_assignment_behavior");
        check_strategy(&written.fallback_rate_limit, &path.field("fallback_rate_limit"), report);
    }
    if let Some(written) = &quota.expired_assignment_behavior {
        check_expired(written, &entry.field("expired_assignment_behavior"), report);
    }
}

/// A bucket's id has one value for each key.
fn check_keys(rule: &DescriptorRule, path: &Path<'_>, report: &mut Report<'_>) {
    let actions = path.field("actions");
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (index, action) in rule.actions.iter().enumerate() {
        let Some(key) = action.key().filter(|_| action.kinds() == 1) else { continue };
        let action_path = actions.index(index);
        let line = report.positions.at(&action_path).0;
        if let Some(first) = seen.get(&key) {
            let message = format!("two entries of the bucket have the key `{key}`, and it can have one");
            let hint = format!("the first one is in line {first}: write another `descriptor_key`");
            report.error_with(&action_path, message, &hint);
        }
        seen.entry(key).or_insert(line);
    }
}

fn check_strategy(strategy: &RateLimitStrategy, path: &Path<'_>, report: &mut Report<'_>) {
    if strategy.kinds() != 1 {
        let what = if strategy.kinds() == 0 { "says nothing" } else { "is of several kinds" };
        let hint = "write one of blanket_rule, requests_per_time_unit, token_bucket";
        return report.error_with(path, format!("the strategy {what}"), hint);
    }
    if strategy.token_bucket.as_ref().is_some_and(|bucket| bucket.fill_interval.is_zero()) {
        let hint = "write the time after which there are tokens again, such as 1s";
        let bucket = path.field("token_bucket");
        report.error_with(&bucket.field("fill_interval"), "the interval is 0s: all would pass", hint);
    }
}

fn check_expired(written: &ExpiredAssignment, path: &Path<'_>, report: &mut Report<'_>) {
    match (&written.fallback_rate_limit, &written.reuse_last_assignment) {
        (Some(strategy), None) => check_strategy(strategy, &path.field("fallback_rate_limit"), report),
        (None, Some(_)) => {}
        (both, _) => {
            let what = if both.is_some() { "is of two kinds" } else { "says nothing" };
            let hint = "write one of fallback_rate_limit, reuse_last_assignment";
            report.error_with(path, format!("the behaviour {what}"), hint);
        }
    }
    if written.expired_assignment_behavior_timeout.is_zero() {
        let hint = "write how long it holds, such as 60s, or drop `expired_assignment_behavior`";
        let timeout = path.field("expired_assignment_behavior_timeout");
        report.error_with(&timeout, "a behaviour that holds for 0s is none", hint);
    }
}

/// Envoy's bound.
const SHORTEST: Duration = Duration::from_millis(100);
