//! The compiled routes: authority and request in, one rule out.
//!
//! Decides: the virtual host, and in it the first rule that matches, in the order written.
//! Never: knows what a rule leads to (the action is the caller's type) and never falls back to
//! another virtual host when no rule of the best one matches.
//! Invariant: one request has one answer, which depends on nothing but the table and the request.

use super::host::{HostIndex, HostPattern};
use super::matcher::{RequestHead, RequestMatch, first_match};
use super::path::PathMatcher;
use super::rewrite::Taken;
use super::template::PathTemplate;

/// All virtual hosts of a configuration.
#[derive(Debug)]
pub struct RouteTable<T> {
    hosts: Vec<VirtualHost<T>>,
    index: HostIndex,
}

/// Rules for a set of hosts.
#[derive(Debug, Clone)]
pub struct VirtualHost<T> {
    /// Its name in logs and metrics.
    pub name: String,
    /// The hosts it answers for.
    pub hosts: Vec<HostPattern>,
    /// Its rules; the first that matches is taken.
    pub rules: Vec<Rule<T>>,
}

/// One rule: when it applies and what it leads to.
#[derive(Debug, Clone)]
pub struct Rule<T> {
    /// Its name in logs and metrics.
    pub name: String,
    /// Alternatives, any of which is enough; none at all takes every request.
    pub matches: Vec<RequestMatch>,
    /// What the rule leads to.
    pub action: T,
}

/// The rule a request takes.
#[derive(Debug)]
pub struct Matched<'t, T> {
    /// The rule.
    pub rule: &'t Rule<T>,
    /// The name of its virtual host.
    pub host: &'t str,
    /// Its place in the virtual host, from 0.
    pub rule_index: usize,
    /// Bytes of the path taken by a prefix match; `None` if it was no prefix match.
    pub prefix_len: Option<usize>,
    /// The template that matched; `None` if none did.
    pub template: Option<&'t PathTemplate>,
}

impl<'t, T> Matched<'t, T> {
    /// What the match took of the path, for a rewrite.
    pub fn taken(&self) -> Taken<'t> {
        Taken { prefix: self.prefix_len, template: self.template }
    }
}

/// Why no rule was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No virtual host answers for the authority.
    NoHost,
    /// The virtual host has no rule that matches.
    NoRule,
}

/// How one rule fared, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTrial<'t> {
    /// The rule's name.
    pub rule: &'t str,
    /// Whether it matched.
    pub matched: bool,
    /// What failed: one condition per alternative, joined with `; or `.
    pub failed: Option<String>,
}

/// A rule that no request can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed<'t> {
    /// The virtual host.
    pub host: &'t str,
    /// The rule that can never match.
    pub rule: &'t str,
    /// The earlier rule that takes one of its alternatives.
    pub by: &'t str,
}

impl<T> RouteTable<T> {
    /// Indexes the hosts. The same pattern in two virtual hosts is refused: neither could be right.
    pub fn new(hosts: Vec<VirtualHost<T>>) -> Result<Self, String> {
        let mut index = HostIndex::default();
        for (number, host) in hosts.iter().enumerate() {
            for pattern in &host.hosts {
                index.insert(pattern, number).map_err(|first| {
                    format!("host `{pattern}` is in `{}` and in `{}`", hosts[first].name, host.name)
                })?;
            }
        }
        Ok(Self { hosts, index })
    }

    /// The rule for a request; `authority` may carry a port.
    pub fn lookup(&self, authority: &str, head: RequestHead<'_>) -> Result<Matched<'_, T>, Miss> {
        let host = self.virtual_host(authority).ok_or(Miss::NoHost)?;
        for (rule_index, rule) in host.rules.iter().enumerate() {
            if let Some(alternative) = first_match(&rule.matches, head) {
                let (prefix_len, template) = (prefix_len(alternative), template(alternative));
                return Ok(Matched { rule, host: &host.name, rule_index, prefix_len, template });
            }
        }
        Err(Miss::NoRule)
    }

    /// The rule for a bare connection: the first that takes every request. A connection has nothing that a
    /// condition could hold for.
    pub fn lookup_connection(&self, authority: &str) -> Result<&Rule<T>, Miss> {
        let host = self.virtual_host(authority).ok_or(Miss::NoHost)?;
        host.rules.iter().find(|rule| rule.covers(&RequestMatch::default())).ok_or(Miss::NoRule)
    }

    /// The virtual host that answers for an authority.
    pub fn virtual_host(&self, authority: &str) -> Option<&VirtualHost<T>> {
        self.index.find(authority).and_then(|number| self.hosts.get(number))
    }

    /// Every virtual host, in the order given.
    pub fn virtual_hosts(&self) -> &[VirtualHost<T>] {
        &self.hosts
    }

    /// The rules tried for a request, in order, up to the one that is taken. Empty: no host.
    pub fn explain(&self, authority: &str, head: RequestHead<'_>) -> Vec<RuleTrial<'_>> {
        let mut trials = Vec::new();
        for rule in self.virtual_host(authority).map_or(&[][..], |host| &host.rules) {
            let trial = rule.trial(head);
            let matched = trial.matched;
            trials.push(trial);
            if matched {
                break;
            }
        }
        trials
    }

    /// Rules that can never match because earlier ones take all their alternatives.
    pub fn shadowed(&self) -> Vec<Shadowed<'_>> {
        let per_host = self.hosts.iter().flat_map(|host| {
            (1..host.rules.len()).filter_map(|later| {
                let by = shadow(&host.rules[..later], &host.rules[later])?;
                Some(Shadowed { host: &host.name, rule: &host.rules[later].name, by: &by.name })
            })
        });
        per_host.collect()
    }
}

impl<T> Rule<T> {
    fn trial(&self, head: RequestHead<'_>) -> RuleTrial<'_> {
        let matched = first_match(&self.matches, head).is_some();
        let failures = || {
            let texts: Vec<_> =
                self.matches.iter().filter_map(|one| one.first_failure(head)).map(|one| one.to_string()).collect();
            texts.join("; or ")
        };
        RuleTrial { rule: &self.name, matched, failed: (!matched).then(failures) }
    }

    fn covers(&self, other: &RequestMatch) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|mine| mine.covers(other))
    }
}

/// A rule without conditions matched the root, which a prefix rewrite may replace.
fn prefix_len(alternative: Option<&RequestMatch>) -> Option<usize> {
    match alternative.and_then(|alternative| alternative.path.as_ref()) {
        Some(path) => path.prefix_len(),
        None => Some(0),
    }
}

fn template(alternative: Option<&RequestMatch>) -> Option<&PathTemplate> {
    match alternative?.path.as_ref()? {
        PathMatcher::Template(template) => Some(template),
        _ => None,
    }
}

/// The earlier rule that hides `rule`: the one that takes its first alternative, if all are taken.
fn shadow<'t, T>(earlier: &'t [Rule<T>], rule: &Rule<T>) -> Option<&'t Rule<T>> {
    let everything = [RequestMatch::default()];
    let alternatives = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
    let mut coverers = alternatives.iter().map(|one| earlier.iter().find(|candidate| candidate.covers(one)));
    let first = coverers.next().flatten()?;
    coverers.all(|coverer| coverer.is_some()).then_some(first)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
