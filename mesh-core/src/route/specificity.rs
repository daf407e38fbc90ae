//! Gateway API precedence, made into list order.
//!
//! Decides: the order in which rules written without an order are tried. Used once, at import: the
//! table itself knows only the order written.
//! Never: looks at a request. Invariant: after sorting, "first match wins" gives the answer that
//! "most specific match wins" asks for.

use std::cmp::Reverse;

use super::matcher::RequestMatch;
use super::path::PathMatcher;
use super::table::Rule;

/// One rule per alternative, most specific first: exact path, then regex, then the longest prefix,
/// then no path; a method; most headers; most query parameters; and last the order written.
///
/// Gateway API leaves the place of a regex open; here, as in Envoy Gateway, it goes before prefixes:
/// it is written as an exception to one. The action is cloned for each alternative.
pub fn sort_by_specificity<T: Clone>(rules: Vec<Rule<T>>) -> Vec<Rule<T>> {
    let mut single: Vec<Rule<T>> = rules.into_iter().flat_map(one_per_alternative).collect();
    single.sort_by_key(|rule| Reverse(rank(rule.matches.first())));
    single
}

fn one_per_alternative<T: Clone>(mut rule: Rule<T>) -> Vec<Rule<T>> {
    if rule.matches.len() <= 1 {
        return vec![rule];
    }
    let alternatives = std::mem::take(&mut rule.matches);
    alternatives.into_iter().map(|alternative| Rule { matches: vec![alternative], ..rule.clone() }).collect()
}

type Rank = (u8, usize, bool, usize, usize);

fn rank(alternative: Option<&RequestMatch>) -> Rank {
    let Some(conditions) = alternative else { return Rank::default() };
    let (kind, length) = match &conditions.path {
        Some(PathMatcher::Exact(text)) => (3, text.as_str().len()),
        Some(PathMatcher::Regex(regex)) => (2, regex.as_str().len()),
        Some(PathMatcher::Template(template)) => (2, template.as_str().len()),
        Some(PathMatcher::Prefix(text) | PathMatcher::RawPrefix(text)) => (1, text.as_str().len()),
        // No path is the prefix `/` (Gateway API's default).
        None => (1, 0),
    };
    (kind, length, !conditions.methods.is_any(), conditions.headers.len(), conditions.query.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_split_into_its_alternatives_and_ties_keep_the_order_written() {
        let prefix = |path| RequestMatch { path: PathMatcher::prefix(path).ok(), ..RequestMatch::default() };
        let rule = |name: &str, matches| Rule { name: name.to_owned(), matches, action: () };
        let sorted = sort_by_specificity(vec![
            rule("all", vec![]),
            rule("a", vec![prefix("/x"), prefix("/long")]),
            rule("b", vec![prefix("/x")]),
        ]);
        let order: Vec<_> = sorted.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(order, ["a", "a", "b", "all"]);
        assert_eq!(sorted[0].matches, [prefix("/long")]);
    }
}
