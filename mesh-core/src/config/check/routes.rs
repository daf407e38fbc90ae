//! Rules: backends that exist, matchers that say one thing, rewrites that can be done, rules that can match.

use super::{Report, shadow};
use crate::config::access::AccessRule;
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::route::{HeaderMatch, Matches, RequestMatch, Rule, SourceMatch, Test};
use crate::config::rule::{HeaderChanges, unchangeable};
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
    let mirror = path.field("mirror");
    for (index, copy) in rule.mirror.iter().enumerate() {
        report.refer(&mirror.index(index).field("cluster"), ("cluster", copy.cluster.as_str()), clusters);
    }
    check_answer(rule, path, report);
    check_header_changes(rule.request_headers.as_ref(), &path.field("request_headers"), report);
    check_header_changes(rule.response_headers.as_ref(), &path.field("response_headers"), report);
    if !rule.backends.is_empty() && rule.backends.iter().all(|backend| backend.weight.0 == 0) {
        report.error_with(&backends, "all backends have the weight 0", "give one of them a weight");
    }
    check_matches(&rule.matches, &path.field("match"), report);
    check_rewrite(rule, &path.field("rewrite"), report);
    if let Some(abort) = rule.fault.as_ref().and_then(|fault| fault.abort.as_ref())
        && abort.status.is_some() == abort.grpc_status.is_some()
    {
        let at = path.field("fault");
        report.error_with(&at.field("abort"), "which answer?", "write exactly one of `status` and `grpc_status`");
    }
}

/// A rule sends on or answers itself; what has no effect then is a mistake.
fn check_answer(rule: &Rule, path: &Path<'_>, report: &mut Report<'_>) {
    let ways = [!rule.backends.is_empty(), rule.redirect.is_some(), rule.direct_response.is_some()];
    match ways.into_iter().filter(|is_written| *is_written).count() {
        0 => {
            report.error_with(path, "the rule leads nowhere", "give it `backends`, a `redirect` or a `direct_response`")
        }
        1 => {}
        _ => report.error_with(
            path,
            "the rule says twice what happens",
            "`backends`, `redirect` and `direct_response` exclude each other",
        ),
    }
    if rule.backends.is_empty() {
        let without_effect = [
            ("rewrite", rule.rewrite.is_some()),
            ("request_headers", rule.request_headers.is_some()),
            ("mirror", !rule.mirror.is_empty()),
            ("fault", rule.fault.is_some()),
            ("retry", rule.retry.is_some()),
            ("hedge", rule.hedge.is_some()),
        ];
        for (field, _) in without_effect.into_iter().filter(|(_, is_written)| *is_written) {
            report.error_with(&path.field(field), "it has no effect", "the rule answers by itself; leave it out");
        }
    }
    check_direct_response(rule, path, report);
    check_redirect(rule, path, report);
}

/// Neither HTTP/1.1 nor HTTP/2 carries a body with these.
fn check_direct_response(rule: &Rule, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(direct) = rule.direct_response.as_ref().filter(|direct| !direct.body.is_empty())
        && matches!(direct.status, 204 | 205 | 304)
    {
        let message = format!("a response with the status {} has no body", direct.status);
        report.error_with(&path.field("direct_response").field("body"), message, "leave it out (RFC 9110, 15)");
    }
}

fn check_redirect(rule: &Rule, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(redirect) = &rule.redirect else { return };
    let at = path.field("redirect");
    if redirect.status.is_some_and(|status| matches!(status, 304..=306)) {
        report.error_with(&at.field("status"), "it is no redirect", "one of 301, 302, 303, 307 and 308");
    }
    if let Some(host) = redirect.host.as_deref().filter(|host| !is_bare_host(host)) {
        report.error(&at.field("host"), format!("`{host}` is not a host without port"));
    }
    if redirect.path.is_some() && redirect.prefix.is_some() {
        report.error_with(&at.field("prefix"), "the path is changed twice", "write `path` or `prefix`");
    }
    if redirect.prefix.is_some() && !matches_a_prefix(rule) {
        report.error_with(&at.field("prefix"), NO_PREFIX, "add `path: { prefix: /... }` to the match");
    }
}

fn is_bare_host(host: &str) -> bool {
    host.parse::<http::uri::Authority>().is_ok_and(|authority| authority.port().is_none() && !host.contains('@'))
}

fn check_header_changes(changes: Option<&HeaderChanges>, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(changes) = changes else { return };
    for name in changes.remove.iter().chain(changes.set.keys()).chain(changes.add.keys()) {
        if let Some(why) = unchangeable(name.as_str()) {
            report.error_with(path, format!("`{}` cannot be changed", name.as_str()), why);
        }
    }
}

fn matches_a_prefix(rule: &Rule) -> bool {
    let has_prefix =
        |entry: &RequestMatch| entry.path.as_ref().is_some_and(|p| p.prefix.is_some() || p.raw_prefix.is_some());
    !rule.matches.is_any() && rule.matches.0.iter().all(has_prefix)
}

const NO_PREFIX: &str = "a prefix can only be rewritten where every alternative matches a path prefix";

fn check_rewrite(rule: &Rule, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(rewrite) = &rule.rewrite else { return };
    if let Some(host) = &rewrite.host
        && !host.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
    {
        report.error(&path.field("host"), format!("`{host}` is not a host or host:port"));
    }
    if rewrite.prefix.is_some() && !matches_a_prefix(rule) {
        report.error_with(&path.field("prefix"), NO_PREFIX, "add `path: { prefix: /... }` to the match");
    }
    let Some(template) = &rewrite.template else { return };
    if rewrite.prefix.is_some() {
        report.error_with(&path.field("template"), "the path is changed twice", "write `prefix` or `template`");
    }
    let lacks = |name: &str| rule.matches.is_any() || !rule.matches.0.iter().all(|entry| captures(entry, name));
    if let Some(name) = template.names().find(|name| lacks(name)) {
        let hint = format!("add `path: {{ template: \"/.../{{{name}}}\" }}` to the match");
        report.error_with(&path.field("template"), format!("no operator of the match is called `{name}`"), &hint);
    }
}

fn captures(entry: &RequestMatch, name: &str) -> bool {
    let template = entry.path.as_ref().and_then(|path| path.template.as_ref());
    template.is_some_and(|template| template.names().any(|known| known == name))
}

fn check_matches(matches: &Matches, path: &Path<'_>, report: &mut Report<'_>) {
    for (index, entry) in matches.0.iter().enumerate() {
        let at = report.alternative(path, index);
        if let Some(matcher) = &entry.path {
            check_one_test(&matcher.tests(), &at.field("path"), "exact, prefix, raw_prefix, regex or template", report);
        }
        check_headers(&entry.headers, &at.field("headers"), report);
        check_source(entry.source.as_ref(), &at.field("source"), report);
        let query = at.field("query");
        for (index, parameter) in entry.query.iter().enumerate() {
            check_one_test(&parameter.tests(), &query.index(index), "exact, regex or present", report);
        }
    }
}

fn check_source(source: Option<&SourceMatch>, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(source) = source else { return };
    if source.principals.is_empty() && source.namespaces.is_empty() {
        report.error_with(path, "it says nothing", "name `principals` or `namespaces`, or leave it out");
    }
    let list = path.field("principals");
    for (index, pattern) in source.principals.iter().enumerate() {
        check_principal(pattern, &list.index(index), report);
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
