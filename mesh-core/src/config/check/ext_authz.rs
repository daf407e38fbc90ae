//! Remote checks whose settings contradict each other, or ask for what their form of asking does not have.

use super::Report;
use super::limits::not_zero;
use crate::config::diagnostic::Path;
use crate::config::ext_authz::{HttpCheck, everything};
use crate::config::policy::{Check, FailureMode};
use crate::config::rule::unchangeable;

pub(super) fn check(check: &Check, path: &Path<'_>, report: &mut Report<'_>) {
    if check.deny_at_disable && check.filter_enabled == everything() {
        let hint = "write `filter_enabled` below 100, or drop it";
        report.error_with(&path.field("deny_at_disable"), "every request is asked about: nothing is refused so", hint);
    }
    if check.failure_mode_allow_header_add && check.failure == FailureMode::Closed {
        let message = "a failure lets no request through: there is none to mark";
        report.error_with(&path.field("failure_mode_allow_header_add"), message, "write `failure: open`, or drop it");
    }
    if let Some(body) = check.with_request_body {
        not_zero(body.timeout, &path.field("with_request_body").field("timeout"), report);
    }
    check_who(check, path, report);
    if let Some(http) = &check.http {
        check_http(http, &path.field("http"), report);
        check_form(check, path, report);
    }
}

/// A cluster answers, or a policy here; never both, never nobody.
fn check_who(check: &Check, path: &Path<'_>, report: &mut Report<'_>) {
    match (&check.cluster, &check.rego) {
        (None, None) => report.error_with(path, "nobody answers the check", "name its `cluster`, or write its `rego`"),
        (Some(_), Some(_)) => {
            report.error_with(&path.field("rego"), "a `cluster` answers the check already", "drop one of the two");
        }
        (None, Some(_)) if check.http.is_some() => {
            report.error_with(&path.field("http"), "a policy in this process is not asked over HTTP", "drop it");
        }
        _ => {}
    }
}

/// What is about requests, in a check of connections alone.
pub(super) fn check_of_connections(check: &Check, path: &Path<'_>, report: &mut Report<'_>) {
    for (field, is_written) in [
        ("with_request_body", check.with_request_body.is_some()),
        ("http", check.http.is_some()),
        ("metadata_context_namespaces", !check.metadata_context_namespaces.is_empty()),
        ("log_metadata", check.log_metadata),
    ] {
        if is_written {
            report.error(&path.field(field), format!("`{field}` is about requests, and a TCP listener has none"));
        }
    }
}

/// What only a `CheckRequest` has a field for.
fn check_form(check: &Check, path: &Path<'_>, report: &mut Report<'_>) {
    let body = path.field("with_request_body");
    let packs = check.with_request_body.is_some_and(|body| body.pack_as_bytes);
    for (at, is_written) in [
        (path.field("context_extensions"), !check.context_extensions.is_empty()),
        (path.field("include_peer_certificate"), check.include_peer_certificate),
        (path.field("include_tls_session"), check.include_tls_session),
        (path.field("metadata_context_namespaces"), !check.metadata_context_namespaces.is_empty()),
        (body.field("pack_as_bytes"), packs),
    ] {
        if is_written {
            report.error_with(&at, "a question over plain HTTP has no place for it", "drop it, or ask by gRPC");
        }
    }
    if check.log_metadata {
        let at = path.field("log_metadata");
        report.error_with(&at, "an answer over plain HTTP has no metadata", "drop it, or ask by gRPC");
    }
}

fn check_http(http: &HttpCheck, path: &Path<'_>, report: &mut Report<'_>) {
    for (field, written) in [("path_prefix", &http.path_prefix), ("path_override", &http.path_override)] {
        if let Some(text) = written {
            check_path(text, &path.field(field), report);
        }
    }
    if http.path_prefix.is_some() && http.path_override.is_some() {
        report.error_with(&path.field("path_override"), "the question would have two paths", "drop `path_prefix`");
    }
    let added = path.field("headers_to_add");
    for (name, value) in &http.headers_to_add {
        let at = added.field(name.as_str());
        if let Some(why) = unchangeable(name.as_str()) {
            report.error(&at, format!("`{name}` cannot be changed: {why}", name = name.as_str()));
        }
        if !value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) {
            report.error(&at, "a header's value has no control characters");
        }
    }
}

fn check_path(text: &str, path: &Path<'_>, report: &mut Report<'_>) {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !text.starts_with('/') || !text.bytes().all(is_plain) {
        let found = report.positions.error(path, format!("`{text}` is not a path"));
        report.found.push(found.expecting("a path like /check, encoded, without a query"));
    }
}
