//! Rules: backends that exist, matchers that say one thing, rewrites that can be done, rules that can match.

use super::{Report, shadow};
use crate::config::access::AccessRule;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::route::{HeaderMatch, Matches, RequestMatch, Rule, Test};
use crate::config::value::{SpiffeIdText, TextPattern, TextPatternKind, TextValue};

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let clusters: Vec<&str> = document.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let routes = Path::ROOT.field("routes");
    for (route_index, route) in document.routes.iter().enumerate() {
        let entry = routes.index(route_index);
        let rules = entry.field("rules");
        for (rule_index, rule) in route.rules.iter().enumerate() {
            check_rule(rule, &rules.index(rule_index), &clusters, report);
            if let Some(earlier) = shadow::shadowing(&route.rules, rule_index) {
                let line = report.positions.at(&rules.index(earlier)).0;
                let hint = format!("the rule in line {line} takes all of its requests; the first match wins");
                report.error_with(&rules.index(rule_index), "the rule can never match", &hint);
            }
        }
    }
    let policy = Path::ROOT.field("policy");
    let checks = policy.field("checks");
    for (index, check) in document.policy.checks.iter().enumerate() {
        check_matches(&check.matches, &checks.index(index).field("match"), report);
    }
    let access = policy.field("access");
    let rules = access.field("rules");
    for (index, rule) in document.policy.access.rules.iter().enumerate() {
        check_access_rule(rule, &rules.index(index), report);
    }
}

fn check_rule(rule: &Rule, path: &Path<'_>, clusters: &[&str], report: &mut Report<'_>) {
    let backends = path.field("backends");
    for (index, backend) in rule.backends.iter().enumerate() {
        report.refer(&backends.index(index).field("cluster"), ("cluster", backend.cluster.as_str()), clusters);
    }
    if rule.backends.iter().all(|backend| backend.weight.0 == 0) {
        report.error_with(&backends, "all backends have the weight 0", "give one of them a weight");
    }
    check_matches(&rule.matches, &path.field("match"), report);
    check_rewrite(rule, &path.field("rewrite"), report);
}

fn check_rewrite(rule: &Rule, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(rewrite) = &rule.rewrite else { return };
    if let Some(host) = &rewrite.host
        && !host.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
    {
        report.error(&path.field("host"), format!("`{host}` is not a host or host:port"));
    }
    let has_prefix =
        |entry: &RequestMatch| entry.path.as_ref().is_some_and(|p| p.prefix.is_some() || p.raw_prefix.is_some());
    if rewrite.prefix.is_some() && (rule.matches.is_any() || !rule.matches.0.iter().all(has_prefix)) {
        let message = "a prefix can only be rewritten where every alternative matches a path prefix";
        report.error_with(&path.field("prefix"), message, "add `path: { prefix: /... }` to the match");
    }
}

fn check_matches(matches: &Matches, path: &Path<'_>, report: &mut Report<'_>) {
    for (index, entry) in matches.0.iter().enumerate() {
        let at = report.alternative(path, index);
        if let Some(matcher) = &entry.path {
            check_one_test(&matcher.tests(), &at.field("path"), "exact, prefix, raw_prefix or regex", report);
        }
        check_headers(&entry.headers, &at.field("headers"), report);
        let query = at.field("query");
        for (index, parameter) in entry.query.iter().enumerate() {
            check_one_test(&parameter.tests(), &query.index(index), "exact, regex or present", report);
        }
    }
}

pub(super) fn check_headers(headers: &[HeaderMatch], path: &Path<'_>, report: &mut Report<'_>) {
    for (index, header) in headers.iter().enumerate() {
        let expected = "exact, prefix, suffix, contains, regex or present";
        check_one_test(&header.tests(), &path.index(index), expected, report);
    }
}

fn check_one_test(tests: &[Test<'_>], path: &Path<'_>, expected: &str, report: &mut Report<'_>) {
    let message = match tests.len() {
        0 => "the matcher says nothing to match",
        1 => return,
        _ => "the matcher says more than one thing to match",
    };
    let found = report.positions.error(path, message).expecting(format!("exactly one of {expected}"));
    report.found.push(found);
}

fn check_access_rule(rule: &AccessRule, path: &Path<'_>, report: &mut Report<'_>) {
    check_headers(&rule.headers, &path.field("headers"), report);
    for (field, patterns) in [("principals", &rule.principals), ("not_principals", &rule.not_principals)] {
        let list = path.field(field);
        for (index, pattern) in patterns.iter().enumerate() {
            check_principal(pattern, &list.index(index), report);
        }
    }
    let paths = path.field("paths");
    for (index, pattern) in rule.paths.iter().enumerate() {
        let (TextPatternKind::Exact(text) | TextPatternKind::Prefix(text)) = pattern.kind() else { continue };
        if !text.starts_with('/') {
            report.error_with(&paths.index(index), format!("`{pattern}` matches no path"), "a path starts with `/`");
        }
    }
}

/// A pattern that no SPIFFE ID matches is a mistake: in a deny rule it would let everybody in.
fn check_principal(pattern: &TextPattern, path: &Path<'_>, report: &mut Report<'_>) {
    let scheme = "spiffe://";
    match pattern.kind() {
        TextPatternKind::Exact(text) => {
            if let Err(error) = SpiffeIdText::parse(text) {
                let found = report.positions.error(path, format!("`{text}` is no principal: {}", error.message));
                report.found.push(found.expecting("a SPIFFE ID, or one with `*` at one end").hinting(error.hint));
            }
        }
        TextPatternKind::Prefix(text) if !text.starts_with(scheme) && !scheme.starts_with(text) => {
            report.error_with(path, format!("`{pattern}` matches no principal"), "a principal starts with `spiffe://`");
        }
        TextPatternKind::Prefix(_) | TextPatternKind::Suffix(_) | TextPatternKind::Any => {}
    }
}
