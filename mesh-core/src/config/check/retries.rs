//! Retries that contradict themselves, on the values that result from defaults and overrides.

use super::Report;
use super::limits::{not_zero, ordered};
use super::routes::check_headers;
use crate::config::diagnostic::Path;
use crate::config::policy::{Retry, RetryCondition, RetryJitter};

pub(super) fn check(retry: &Retry, path: &Path<'_>, report: &mut Report<'_>) {
    if retry.attempts > 0 && retry.conditions.is_empty() {
        report.error_with(
            &path.field("conditions"),
            "retries without a condition",
            "write `attempts: 0` to switch them off",
        );
    }
    check_list(retry, RetryCondition::RetriableStatusCodes, path, report);
    check_list(retry, RetryCondition::RetriableHeaders, path, report);
    for (name, list) in [
        ("retriable_headers", &retry.retriable_headers),
        ("retriable_request_headers", &retry.retriable_request_headers),
    ] {
        check_headers(list, &path.field(name), report);
    }
    if retry.jitter == RetryJitter::Envoy && (retry.multiplier - DOUBLE).abs() > f64::EPSILON {
        let hint = "choose another jitter: full, equal, grpc or none";
        report.error_with(&path.field("multiplier"), "the jitter `envoy` always doubles", hint);
    }
    not_zero(retry.base, &path.field("base"), report);
    ordered(("base", retry.base), ("max", retry.max), path, report);
}

/// A condition and the list that it reads belong together: one without the other does nothing.
fn check_list(retry: &Retry, condition: RetryCondition, path: &Path<'_>, report: &mut Report<'_>) {
    let (field, name, is_empty) = match condition {
        RetryCondition::RetriableHeaders => {
            ("retriable_headers", "retriable-headers", retry.retriable_headers.is_empty())
        }
        _ => ("retriable_status_codes", "retriable-status-codes", retry.retriable_status_codes.is_empty()),
    };
    let is_named = retry.conditions.contains(&condition);
    if is_named && is_empty {
        let message = format!("`{name}` without `{field}` matches nothing");
        report.error(&path.field("conditions"), message);
    }
    if !is_named && !is_empty && retry.attempts > 0 {
        let hint = format!("add `{name}` to `conditions`");
        report.error_with(&path.field(field), format!("`{field}` is not read"), &hint);
    }
}

/// What Envoy's jitter multiplies by.
const DOUBLE: f64 = 2.0;
