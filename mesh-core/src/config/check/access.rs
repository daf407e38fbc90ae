//! Access rules: a contradiction in how far they hold, or in what holds without them.

use super::Report;
use crate::config::access::Action;
use crate::config::authorization::Action as PolicyAction;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::value::Name;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let policy = Path::ROOT.field("policy");
    let access = policy.field("access");
    let rules = access.field("rules");
    for (index, rule) in document.policy.access.rules.iter().enumerate() {
        if rule.dry_run && rule.enforce_percent.0 < 100.0 {
            let path = rules.index(index);
            report.error_with(
                &path.field("enforce_percent"),
                "in dry run nothing is enforced",
                "leave out one of them",
            );
        }
    }
    check_defaults(document, report);
}

/// A listener may be stricter than the mesh, and must not seem to be laxer.
fn check_defaults(document: &Document, report: &mut Report<'_>) {
    let listeners = Path::ROOT.field("listeners");
    let is_closed = document.policy.access.default == Action::Deny;
    for (index, listener) in document.listeners.iter().enumerate() {
        let entry = listeners.index(index);
        let path = entry.field("access_default");
        match listener.access_default {
            Some(Action::Allow) if is_closed => {
                let hint = "write an allow rule for this listener";
                report.error_with(&path, "`policy.access.default` is deny, and a listener cannot undo it", hint);
            }
            Some(Action::Deny) if !is_closed && !lets_anybody_in(document, listener.name.as_str()) => {
                report.warn(&path, "nobody is let in: neither an allow rule nor an ALLOW policy is there");
            }
            _ => {}
        }
    }
}

/// Whether something may let a request in by name. Whose an ALLOW policy is, only compilation knows.
fn lets_anybody_in(document: &Document, listener: &str) -> bool {
    let is_for = |names: &[Name]| names.iter().any(|name| name.as_str() == listener);
    let mut rules = document.policy.access.rules.iter();
    rules.any(|rule| rule.action == Action::Allow && rule.listeners.as_deref().is_none_or(is_for))
        || has_allow_policy(document)
}

/// Whether there is a policy of action ALLOW.
pub(super) fn has_allow_policy(document: &Document) -> bool {
    document.policy.authorization.policies.iter().any(|policy| policy.spec.action == PolicyAction::Allow)
}
