//! Local access rules.
//!
//! Decides: whether a request may go on, by rules written in the configuration. Any matching deny rule
//! refuses; with allow rules in force one of them must match; without any, the default decides.
//! Never: does I/O, decodes or normalizes a path (the listener did), asks who the caller is.
//! Invariant: an unauthenticated caller never satisfies a `principals` condition, not even `*`.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;

use super::attributes::Attributes;
use super::expression::Expression;
use super::rollout::{Draw, Rollout, Stage};
use crate::route::host;

/// All rules of a process, in the order written.
#[derive(Debug)]
pub struct Rules {
    default: Effect,
    rules: Vec<Rule>,
    is_partial: bool,
    has_conditions: bool,
}

impl Rules {
    /// Rules and what happens when no allow rule is in force.
    pub fn new(default: Effect, rules: Vec<Rule>) -> Self {
        let is_partial = rules.iter().any(|rule| rule.rollout.is_partial());
        let has_conditions = rules.iter().any(|rule| rule.condition.is_some());
        Self { default, rules, is_partial, has_conditions }
    }

    /// Whether a rule is not in force for every request.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// The rules whose condition could not be evaluated since this was asked last, and how often.
    pub fn take_failures(&self) -> impl Iterator<Item = (&str, u64)> {
        let asked = if self.has_conditions { &*self.rules } else { &[] };
        let failures = asked.iter().filter_map(|rule| Some((&*rule.name, rule.condition.as_ref()?.take_failures())));
        failures.filter(|(_, count)| *count > 0)
    }

    /// Decides about one request; a rule that is in force for a share of them counts as in force.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision<'_> {
        self.decide_at(attributes, Stage::Now(Draw::STRICT))
    }

    /// Decides about one request by the rules of `stage`.
    pub fn decide_at(&self, attributes: &Attributes<'_>, stage: Stage) -> Decision<'_> {
        let counts = |rule: &&Rule| rule.is_for(attributes.listener) && rule.rollout.is_in_force(stage);
        let here = || self.rules.iter().filter(counts);
        let matching = |effect| here().find(|rule| rule.action == effect && rule.matches(attributes));
        if let Some(rule) = matching(Effect::Deny) {
            return Decision::Deny { rule: Some(&rule.name), reason: DenyReason::DenyRule };
        }
        if let Some(rule) = matching(Effect::Allow) {
            return Decision::Allow { rule: Some(&rule.name) };
        }
        if here().any(|rule| rule.action == Effect::Allow) {
            return Decision::Deny { rule: None, reason: DenyReason::NoAllowRule };
        }
        match self.default {
            Effect::Allow => Decision::Allow { rule: None },
            Effect::Deny => Decision::Deny { rule: None, reason: DenyReason::Default },
        }
    }
}

/// What a rule, or the default, does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effect {
    /// Lets the request on.
    #[default]
    Allow,
    /// Refuses it.
    Deny,
}

/// The outcome, with the rule that brought it about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The request may go on.
    Allow {
        /// The allow rule that matched; `None`: the default.
        rule: Option<&'a str>,
    },
    /// The request is refused.
    Deny {
        /// The deny rule that matched.
        rule: Option<&'a str>,
        /// Why.
        reason: DenyReason,
    },
}

/// Why a request was refused. For logs and metrics; the peer is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// A deny rule matched.
    DenyRule,
    /// There are allow rules and none matched.
    NoAllowRule,
    /// There is no allow rule and the default is deny.
    Default,
}

impl DenyReason {
    /// Stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DenyRule => "deny_rule",
            Self::NoAllowRule => "no_allow_rule",
            Self::Default => "default",
        }
    }
}

/// One rule: all conditions that are written must hold, one alternative of each is enough.
#[derive(Default)]
pub struct Rule {
    /// Name in logs and metrics.
    pub name: String,
    /// What a match does.
    pub action: Effect,
    /// Listeners the rule is for; empty: all.
    pub listeners: Vec<String>,
    /// Who may match; empty: anyone, authenticated or not.
    pub principals: Vec<Pattern>,
    /// Who must not match.
    pub not_principals: Vec<Pattern>,
    /// Methods, compared exactly.
    pub methods: Vec<String>,
    /// Paths, compared without the query.
    pub paths: Vec<Pattern>,
    /// Hosts, compared without the port and without case.
    pub hosts: Vec<Pattern>,
    /// Header conditions; all must hold.
    pub headers: Vec<Box<dyn HeaderCondition>>,
    /// A condition in CEL. Where it cannot be evaluated, a deny rule counts it as met and an allow rule does not.
    pub condition: Option<Arc<Expression>>,
    /// The share of requests it is in force for.
    pub rollout: Rollout,
}

impl Rule {
    fn is_for(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| name == listener)
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if attributes.is_tcp {
            return self.matches_connection(attributes);
        }
        self.matches_caller(attributes.principal)
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == attributes.method))
            && any(&self.paths, attributes.path)
            && (self.hosts.is_empty() || any(&self.hosts, &host_name(attributes.host)))
            && self.headers.iter().all(|condition| condition.matches(attributes.headers))
            && self.meets_condition(attributes)
    }

    /// Of a bare connection only the caller is known. A rule that asks for more never allows, and denies as if it
    /// had been answered: as Istio's policies do.
    fn matches_connection(&self, attributes: &Attributes<'_>) -> bool {
        let asks_of_requests = self.condition.as_ref().is_some_and(|condition| condition.is_about_requests());
        let asks_for_more = !self.methods.is_empty()
            || !self.paths.is_empty()
            || !self.hosts.is_empty()
            || !self.headers.is_empty()
            || asks_of_requests;
        (self.action == Effect::Deny || !asks_for_more)
            && self.matches_caller(attributes.principal)
            && (asks_of_requests || self.meets_condition(attributes))
    }

    fn meets_condition(&self, attributes: &Attributes<'_>) -> bool {
        let Some(condition) = &self.condition else { return true };
        condition.holds(attributes).unwrap_or(self.action == Effect::Deny)
    }

    fn matches_caller(&self, principal: Option<&str>) -> bool {
        let Some(principal) = principal else { return self.principals.is_empty() };
        any(&self.principals, principal) && !self.not_principals.iter().any(|pattern| pattern.matches(principal))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("name", &self.name).field("action", &self.action).finish_non_exhaustive()
    }
}

/// A condition on request headers. Closures over `&HeaderMap` are conditions.
pub trait HeaderCondition: Send + Sync {
    /// Whether the headers satisfy it.
    fn matches(&self, headers: &HeaderMap) -> bool;
}

impl<F: Fn(&HeaderMap) -> bool + Send + Sync> HeaderCondition for F {
    fn matches(&self, headers: &HeaderMap) -> bool {
        self(headers)
    }
}

/// A string pattern: `text`, `prefix*`, `*suffix` or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Anything that is there.
    Any,
    /// Exactly this.
    Exact(String),
    /// Starts with this.
    Prefix(String),
    /// Ends with this.
    Suffix(String),
}

impl Pattern {
    /// Reads a pattern. A `*` that is neither first nor last is an ordinary character.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            return Self::Any;
        }
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (None, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    /// A pattern for a host: no case, no dot at the end.
    pub fn host(text: &str) -> Self {
        match text.ends_with('*') {
            true => Self::parse(&text.to_ascii_lowercase()),
            false => Self::parse(&host::normalized(text)),
        }
    }

    /// Whether a value that is there fits.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
        }
    }
}

fn any(patterns: &[Pattern], value: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(value))
}

/// As routes compare it, without port. The brackets of an IPv6 literal stay.
fn host_name(authority: &str) -> String {
    host::split_port(&host::normalized(authority)).0.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AttributesBuf;

    const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/productpage";

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text)).collect()
    }

    fn rule(name: &str, action: Effect) -> Rule {
        Rule { name: name.into(), action, ..Rule::default() }
    }

    #[test]
    fn a_rule_on_requests_never_allows_a_connection_and_denies_it_all_the_same() {
        let attributes = AttributesBuf { is_tcp: true, ..AttributesBuf::default() };
        let caller = attributes.principal.clone().unwrap();
        let conditions: [fn(&mut Rule); 4] = [
            |rule| rule.methods = vec![String::new()],
            |rule| rule.paths = vec![Pattern::Any],
            |rule| rule.hosts = vec![Pattern::Any],
            |rule| rule.headers = vec![Box::new(|_: &HeaderMap| true)],
        ];
        let decides = |default, rule| match Rules::new(default, vec![rule]).decide(&attributes.borrow()) {
            Decision::Allow { .. } => Effect::Allow,
            Decision::Deny { .. } => Effect::Deny,
        };
        for condition in conditions {
            let with = |action, principal: &str| {
                let mut rule = Rule { principals: patterns(&[principal]), ..rule("r", action) };
                condition(&mut rule);
                rule
            };
            assert_eq!(decides(Effect::Allow, with(Effect::Allow, &caller)), Effect::Deny);
            assert_eq!(decides(Effect::Allow, with(Effect::Deny, &caller)), Effect::Deny);
            assert_eq!(decides(Effect::Allow, with(Effect::Deny, PRODUCTPAGE)), Effect::Allow);
        }
        let by_caller = Rule { principals: patterns(&[&caller]), ..rule("r", Effect::Allow) };
        assert_eq!(decides(Effect::Deny, by_caller), Effect::Allow);
    }

    #[cfg(feature = "cel")]
    #[test]
    fn a_condition_that_cannot_be_evaluated_refuses_in_either_kind_of_rule() {
        let with = |action, text: &str| {
            let condition = Some(Arc::new(Expression::read(text).unwrap()));
            Rules::new(Effect::Allow, vec![Rule { condition, ..rule("r", action) }])
        };
        let passes = |rules: &Rules, is_tcp| {
            let attributes = AttributesBuf { is_tcp, ..AttributesBuf::default() };
            matches!(rules.decide(&attributes.borrow()), Decision::Allow { .. })
        };
        let (unknown, of_caller) = ("request.headers.x == 'a'", "source.principal.endsWith('/sa/caller')");
        for (action, text, request, connection) in [
            (Effect::Allow, "request.method == 'GET'", true, false),
            (Effect::Allow, "request.method == 'PUT'", false, false),
            (Effect::Allow, unknown, false, false),
            (Effect::Allow, of_caller, true, true),
            (Effect::Deny, "request.method == 'GET'", false, false),
            (Effect::Deny, "request.method == 'PUT'", true, false),
            (Effect::Deny, unknown, false, false),
            (Effect::Deny, of_caller, false, false),
            (Effect::Deny, "source.principal.endsWith('/sa/other')", true, true),
            (Effect::Deny, "connection.sni == 'a'", false, false),
        ] {
            let rules = with(action, text);
            assert_eq!((passes(&rules, false), passes(&rules, true)), (request, connection), "{action:?} {text}");
        }
        let rules = with(Effect::Deny, unknown);
        assert!(!passes(&rules, false) && !passes(&rules, false));
        assert_eq!(rules.take_failures().collect::<Vec<_>>(), [("r", 2)]);
        assert_eq!(rules.take_failures().count(), 0);
    }

    #[test]
    fn a_pattern_is_exact_prefix_suffix_or_any() {
        for (pattern, value, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a", false),
            ("*.html", "/x.html", true),
            ("*.html", "/x.htm", false),
            ("*", "", true),
            ("/a*b", "/axb", false),
            ("/a*b", "/a*b", true),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(value), expected, "{pattern} {value}");
        }
    }

    #[test]
    fn each_condition_alone_can_refuse_a_match() {
        let base = AttributesBuf {
            principal: Some(PRODUCTPAGE.into()),
            host: "user@Details.Example.:9080".into(),
            path: "/details/0".into(),
            ..AttributesBuf::default()
        };
        let deny = |change: fn(&mut Rule)| {
            let mut rule = rule("r", Effect::Deny);
            change(&mut rule);
            Rules::new(Effect::Allow, vec![rule])
        };
        let table: [(&str, Rules, bool); 15] = [
            ("no condition", deny(|_| {}), true),
            ("listener", deny(|r| r.listeners = vec!["inbound".into()]), true),
            ("other listener", deny(|r| r.listeners = vec!["admin".into()]), false),
            ("principal", deny(|r| r.principals = patterns(&["x", PRODUCTPAGE])), true),
            ("other principal", deny(|r| r.principals = patterns(&["spiffe://other/*"])), false),
            ("any principal", deny(|r| r.principals = patterns(&["*"])), true),
            ("excluded principal", deny(|r| r.not_principals = patterns(&["*/sa/productpage"])), false),
            ("method", deny(|r| r.methods = vec!["GET".into()]), true),
            ("method has case", deny(|r| r.methods = vec!["get".into()]), false),
            ("path", deny(|r| r.paths = patterns(&["/details/*"])), true),
            ("other path", deny(|r| r.paths = patterns(&["/details"])), false),
            ("host with user and final dot", deny(|r| r.hosts = vec![Pattern::host("details.example.")]), true),
            ("host without port or case", deny(|r| r.hosts = vec![Pattern::host("DETAILS.example")]), true),
            ("header", deny(|r| r.headers = vec![Box::new(|h: &HeaderMap| h.contains_key("x"))]), false),
            ("no header", deny(|r| r.headers = vec![Box::new(|h: &HeaderMap| !h.contains_key("x"))]), true),
        ];
        for (name, rules, is_denied) in table {
            let denied = matches!(rules.decide(&base.borrow()), Decision::Deny { rule: Some("r"), .. });
            assert_eq!(denied, is_denied, "{name}");
        }
    }

    #[test]
    fn an_unauthenticated_caller_matches_no_principal_and_every_exclusion() {
        let anonymous = AttributesBuf { principal: None, ..AttributesBuf::default() };
        let mut allow_any = rule("any", Effect::Allow);
        allow_any.principals = patterns(&["*"]);
        let rules = Rules::new(Effect::Allow, vec![allow_any]);
        assert_eq!(rules.decide(&anonymous.borrow()), Decision::Deny { rule: None, reason: DenyReason::NoAllowRule });
        let mut deny_others = rule("others", Effect::Deny);
        deny_others.not_principals = patterns(&["*"]);
        let rules = Rules::new(Effect::Allow, vec![deny_others]);
        assert_eq!(
            rules.decide(&anonymous.borrow()),
            Decision::Deny { rule: Some("others"), reason: DenyReason::DenyRule }
        );
    }

    #[test]
    fn deny_wins_then_allow_rules_then_the_default() {
        let request = AttributesBuf::default();
        let allow = || rule("allow", Effect::Allow);
        let no_match = || Rule { methods: vec!["POST".into()], ..rule("post", Effect::Allow) };
        let elsewhere = || Rule { listeners: vec!["other".into()], ..no_match() };
        let deny = || rule("deny", Effect::Deny);
        let table = [
            (Effect::Deny, vec![], Decision::Deny { rule: None, reason: DenyReason::Default }),
            (Effect::Allow, vec![], Decision::Allow { rule: None }),
            (Effect::Deny, vec![allow()], Decision::Allow { rule: Some("allow") }),
            (Effect::Allow, vec![allow(), deny()], Decision::Deny { rule: Some("deny"), reason: DenyReason::DenyRule }),
            (Effect::Allow, vec![no_match()], Decision::Deny { rule: None, reason: DenyReason::NoAllowRule }),
            (Effect::Allow, vec![elsewhere()], Decision::Allow { rule: None }),
        ];
        for (index, (default, rules, expected)) in table.into_iter().enumerate() {
            let rules = Rules::new(default, rules);
            assert_eq!(rules.decide(&request.borrow()), expected, "row {index}");
        }
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        assert_eq!(host_name("[::1]:80"), "[::1]");
        assert_eq!(host_name("[::1]"), "[::1]");
        assert_eq!(host_name("A:80"), "a");
    }
}
