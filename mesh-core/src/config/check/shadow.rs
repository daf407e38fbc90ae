//! Which rules can never match, because earlier ones take all of their requests.
//!
//! Decides: by containment of single alternatives. Never: reports a rule that some request reaches
//! (a regular expression is only compared with itself and with exact texts).

use crate::config::route::{HeaderMatch, PathMatch, RequestMatch, Rule, Test};

/// The earlier rule that takes the last request of this one, if none is left.
pub(super) fn shadowing(rules: &[Rule], index: usize) -> Option<usize> {
    let any = [RequestMatch::default()];
    let alternatives = |rule: &Rule| if rule.matches.is_any() { any.to_vec() } else { rule.matches.0.clone() };
    let takers = alternatives(&rules[index]).into_iter().map(|wanted| {
        let covering = |rule: &Rule| alternatives(rule).iter().any(|broad| covers(broad, &wanted));
        rules[..index].iter().position(covering)
    });
    takers.collect::<Option<Vec<usize>>>()?.into_iter().max()
}

/// Whether every request that `narrow` matches is matched by `broad`.
fn covers(broad: &RequestMatch, narrow: &RequestMatch) -> bool {
    let path = match (&broad.path, &narrow.path) {
        (None, _) => true,
        (Some(broad), None) => broad.tests().iter().all(|test| is_root(*test)),
        (Some(broad), Some(narrow)) => path_covers(broad, narrow),
    };
    let methods = broad.methods.is_empty()
        || (!narrow.methods.is_empty() && narrow.methods.iter().all(|method| broad.methods.contains(method)));
    let headers = broad.headers.iter().all(|wanted| narrow.headers.iter().any(|given| header_implies(given, wanted)));
    let query = broad.query.iter().all(|wanted| narrow.query.contains(wanted));
    let source = broad.source.is_none() || broad.source == narrow.source;
    path && methods && headers && query && source
}

fn header_implies(given: &HeaderMatch, wanted: &HeaderMatch) -> bool {
    // A value matcher, inverted or not, needs the header to be there; the inverse of `present` does not.
    let needs_presence = !matches!(given.test(), Some(Test::Present(_)));
    let asks_presence = wanted.present == Some(true) && !wanted.invert;
    given == wanted || (given.name == wanted.name && asks_presence && needs_presence)
}

fn path_covers(broad: &PathMatch, narrow: &PathMatch) -> bool {
    let (Some(broad), Some(narrow)) = (broad.test(), narrow.test()) else { return false };
    match (broad, narrow) {
        (broad, _) if is_root(broad) => true,
        (Test::Exact(broad), Test::Exact(narrow))
        | (Test::Regex(broad), Test::Regex(narrow))
        | (Test::Template(broad), Test::Template(narrow)) => broad == narrow,
        (Test::SegmentPrefix(broad), Test::Template(narrow)) => within(broad, literal_head(narrow)),
        (Test::Regex(broad), Test::Exact(narrow)) => {
            regex::Regex::new(&format!("^(?:{broad})$")).is_ok_and(|regex| regex.is_match(narrow))
        }
        (Test::SegmentPrefix(broad), Test::Exact(narrow) | Test::SegmentPrefix(narrow)) => within(broad, narrow),
        (Test::SegmentPrefix(broad), Test::Prefix(narrow)) => narrow.starts_with(&format!("{}/", trimmed(broad))),
        (Test::Prefix(broad), Test::SegmentPrefix(narrow)) => trimmed(narrow).starts_with(broad),
        (Test::Prefix(broad), Test::Exact(narrow) | Test::Prefix(narrow)) => narrow.starts_with(broad),
        _ => false,
    }
}

/// Whether the path lies at or below the prefix, by segment.
fn within(prefix: &str, path: &str) -> bool {
    let rest = path.strip_prefix(trimmed(prefix));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The segments before a template's first operator.
fn literal_head(template: &str) -> &str {
    let head = template.split('{').next().unwrap_or_default();
    if head.len() == template.len() { head } else { trimmed(head) }
}

fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

fn is_root(test: Test<'_>) -> bool {
    matches!(test, Test::SegmentPrefix("/") | Test::Prefix("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(yaml: &str) -> RequestMatch {
        let tree = crate::config::tree::Node::read(yaml, "x").unwrap();
        serde_json::from_value(tree.to_json()).unwrap()
    }

    #[test]
    fn a_match_covers_another_only_if_it_takes_all_of_its_requests() {
        for (broad, narrow, expected) in [
            ("{}", "{ path: { prefix: /a } }", true),
            ("{ path: { prefix: /a } }", "{}", false),
            ("{ path: { prefix: / } }", "{}", true),
            ("{ path: { prefix: /a } }", "{ path: { exact: /a/b } }", true),
            ("{ path: { prefix: /a } }", "{ path: { exact: /ab } }", false),
            ("{ path: { prefix: /a/ } }", "{ path: { prefix: /a } }", true),
            ("{ path: { prefix: /a } }", "{ path: { raw_prefix: /a } }", false),
            ("{ path: { prefix: /a } }", "{ path: { raw_prefix: /a/b } }", true),
            ("{ path: { raw_prefix: /a } }", "{ path: { prefix: /ab } }", true),
            ("{ path: { raw_prefix: /a/ } }", "{ path: { prefix: /a } }", false),
            ("{ path: { regex: '/[a-z]+' } }", "{ path: { exact: /abc } }", true),
            ("{ path: { regex: '/[a-z]+' } }", "{ path: { exact: /1 } }", false),
            ("{ path: { regex: '/[a-z]+' } }", "{ path: { prefix: /a } }", false),
            ("{ path: { prefix: /a } }", "{ path: { template: '/a/{*}' } }", true),
            ("{ path: { prefix: /a/b } }", "{ path: { template: '/a/{*}' } }", false),
            ("{ path: { prefix: / } }", "{ path: { template: '/{*}' } }", true),
            ("{ path: { template: '/a/{*}' } }", "{ path: { template: '/a/{*}' } }", true),
            ("{ path: { template: '/a/{**}' } }", "{ path: { exact: /a/b } }", false),
            ("{}", "{ source: { namespaces: [a] } }", true),
            ("{ source: { namespaces: [a] } }", "{}", false),
            ("{ source: { namespaces: [a] } }", "{ source: { namespaces: [a] } }", true),
            ("{ methods: [GET, HEAD] }", "{ methods: [GET] }", true),
            ("{ methods: [GET] }", "{ methods: [GET, HEAD] }", false),
            ("{ methods: [GET] }", "{}", false),
            ("{ headers: [{ name: a, exact: x }] }", "{ headers: [{ name: A, exact: x }], methods: [GET] }", true),
            ("{ headers: [{ name: a, exact: x }] }", "{ headers: [{ name: a, exact: y }] }", false),
            ("{ headers: [{ name: a, present: true }] }", "{ headers: [{ name: a, exact: y }] }", true),
            ("{ headers: [{ name: a, present: true }] }", "{ headers: [{ name: a, present: false }] }", false),
            ("{ headers: [{ name: a, present: true, invert: true }] }", "{ headers: [{ name: a, exact: y }] }", false),
            (
                "{ query: [{ name: a, exact: x }] }",
                "{ query: [{ name: a, exact: x }, { name: b, present: true }] }",
                true,
            ),
            ("{ query: [{ name: a, exact: x }] }", "{}", false),
        ] {
            assert_eq!(covers(&one(broad), &one(narrow)), expected, "{broad} covers {narrow}");
        }
    }
}
