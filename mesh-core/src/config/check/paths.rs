//! Paths: rules on them that another spelling could dodge, and settings that contradict each other.
//!
//! A listener that judges every reading of a path (the default) leaves nothing to dodge, and gives no warning.

use super::Report;
use crate::config::access::Action;
use crate::config::authorization::{Action as PolicyAction, AuthorizationPolicy};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::listener::{Listener, ListenerProtocol};
use crate::config::path::{EscapedSlashes, JudgedPaths};

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let listeners = Path::ROOT.field("listeners");
    for (index, listener) in document.listeners.iter().enumerate() {
        if !listener.keep_escaped_slashes.is_empty()
            && listener.path_with_escaped_slashes_action == EscapedSlashes::KeepUnchanged
        {
            let hint = "every path keeps them; write another `path_with_escaped_slashes_action`, or leave it out";
            report.error_with(&listeners.index(index).field("keep_escaped_slashes"), "it has no effect", hint);
        }
    }
    let policy = Path::ROOT.field("policy");
    check_rules(document, &policy, report);
    check_policies(document, &policy, report);
}

fn check_rules(document: &Document, policy: &Path<'_>, report: &mut Report<'_>) {
    let access = policy.field("access");
    let rules = access.field("rules");
    for (index, rule) in document.policy.access.rules.iter().enumerate().filter(|(_, rule)| !rule.paths.is_empty()) {
        let entry = rules.index(index);
        let paths = entry.field("paths");
        let is_here = |listener: &Listener| rule.listeners.as_ref().is_none_or(|names| names.contains(&listener.name));
        warn(document.listeners.iter().filter(|listener| is_here(listener)), rule.action, (&paths, report));
        for (at, pattern) in rule.paths.iter().enumerate() {
            check_spelling(document, pattern.as_str(), (&paths.index(at), report));
        }
    }
}

fn check_policies(document: &Document, policy: &Path<'_>, report: &mut Report<'_>) {
    let authorization = policy.field("authorization");
    let policies = authorization.field("policies");
    for (index, written) in document.policy.authorization.policies.iter().enumerate() {
        let action = match written.spec.action {
            PolicyAction::Allow => Action::Allow,
            PolicyAction::Deny | PolicyAction::Custom => Action::Deny,
            PolicyAction::Audit => continue,
        };
        if names_paths(written) {
            warn(document.listeners.iter(), action, (&policies.index(index), report));
        }
    }
}

fn names_paths(policy: &AuthorizationPolicy) -> bool {
    let operations = policy.spec.rules.iter().flat_map(|rule| &rule.to).map(|to| &to.operation);
    operations.into_iter().any(|operation| !operation.paths.is_empty() || !operation.not_paths.is_empty())
}

/// Another spelling dodges a deny; an allow it only dodges into, by what leads out of the path it names.
fn warn<'d>(listeners: impl Iterator<Item = &'d Listener>, action: Action, at: (&Path<'_>, &mut Report<'_>)) {
    let (path, report) = at;
    for listener in listeners {
        let open = doors(listener, action);
        if !open.is_empty() {
            let message =
                format!("on the listener `{}` another spelling may dodge it: {}", listener.name, open.join(", "));
            let hint = "leave out `judged_paths: as_handed_on`, or close what is named";
            report.warn_with(path, message, hint);
        }
    }
}

/// What the listener leaves in paths that whoever reads them further on may resolve.
fn doors(listener: &Listener, action: Action) -> Vec<&'static str> {
    if listener.judged_paths == JudgedPaths::EveryReading || listener.protocol == ListenerProtocol::Tcp {
        return Vec::new();
    }
    let keeps = listener.path_with_escaped_slashes_action == EscapedSlashes::KeepUnchanged
        || !listener.keep_escaped_slashes.is_empty();
    let doors = [
        (!listener.normalize_path, "`/x/../`, `/./` and needless escapes stay (`normalize_path: false`)"),
        (action == Action::Deny && !listener.merge_slashes, "`//` stays (`merge_slashes: false`)"),
        (keeps, "`%2F` stays (`path_with_escaped_slashes_action`)"),
    ];
    doors.into_iter().filter(|(is_open, _)| *is_open).map(|(_, door)| door).collect()
}

/// A pattern in a spelling that no path has after normalisation matches nothing: in a deny rule it lets everybody in.
fn check_spelling(document: &Document, pattern: &str, at: (&Path<'_>, &mut Report<'_>)) {
    let (path, report) = at;
    let mut http = document.listeners.iter().filter(|listener| listener.protocol == ListenerProtocol::Http).peekable();
    let is_resolved = pattern.contains("/./") || pattern.contains("/../") || pattern.contains('\\');
    if is_resolved && http.peek().is_some() && http.all(|listener| listener.normalize_path) {
        report.error_with(path, format!("`{pattern}` matches no path"), "paths are normalised before they are judged");
    }
}
