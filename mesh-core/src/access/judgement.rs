//! What local rules and Istio's policies say of a request, together.
//!
//! Decides: both have to let it pass. With deny by default one of them has to let it in by name: an allow rule or an
//! ALLOW policy. Never: asks a remote check; what one allows is not let in by name.
//! Invariant: every verdict names the rule, the policy or the default that made it.

use std::fmt;

use super::attributes::Attributes;
use super::authorization::{Policies, Ruling};
use super::rbac::{Decision, DenyReason, Rules};
use super::rollout::{Draw, Stage};
use crate::route::readings::Readings;

/// A verdict, and what it would be if all rules were rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement<'a, 'r> {
    /// What holds.
    pub verdict: Verdict<'a>,
    /// The reading of its path that is refused, where the path as it stands is not.
    pub read_as: Option<&'r str>,
    /// What would hold, where it differs in whether the request passes.
    pub planned: Option<Verdict<'a>>,
}

/// Whether a request passes, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes.
    Allow(Granted<'a>),
    /// It does not.
    Deny(Cause<'a>),
}

/// Who let a request in by name; nobody: it passes by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted<'a> {
    /// An allow rule.
    pub rule: Option<&'a str>,
    /// An ALLOW policy.
    pub policy: Option<&'a str>,
}

/// Why a request does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<'a> {
    /// This deny rule matched.
    Rule(&'a str),
    /// There are allow rules and none matched.
    NoAllowRule,
    /// This DENY policy matched.
    Policy(&'a str),
    /// There are ALLOW policies and none matched.
    NoAllowPolicy,
    /// Nobody let it in by name.
    Default,
}

/// What is judged. Policies see what their providers changed; local rules speak of the request as it came.
#[derive(Clone, Copy)]
pub struct Views<'a> {
    /// What local rules see.
    pub rules: Attributes<'a>,
    /// What policies see.
    pub policies: Attributes<'a>,
}

impl<'a> From<&Attributes<'a>> for Views<'a> {
    fn from(of: &Attributes<'a>) -> Self {
        Self { rules: *of, policies: *of }
    }
}

impl<'a> Views<'a> {
    fn read_as(self, path: &'a str) -> Self {
        Self { rules: Attributes { path, ..self.rules }, policies: Attributes { path, ..self.policies } }
    }
}

/// Judges one request, by its path and by every other way in which that may be read. `draw` says which of the rules that
/// are rolled out in part it meets.
pub fn judge<'a, 'r>(
    (rules, policies): (&'a Rules, &'a Policies),
    of: impl Into<Views<'r>>,
    readings: &'r Readings,
    draw: Draw,
) -> Judgement<'a, 'r> {
    let views = of.into();
    let (verdict, read_as) = by_all_readings((rules, policies), views, readings, Stage::Now(draw));
    if !rules.is_partial() && !policies.is_partial() {
        return Judgement { verdict, read_as, planned: None };
    }
    let (planned, _) = by_all_readings((rules, policies), views, readings, Stage::Planned);
    Judgement { verdict, read_as, planned: Some(planned).filter(|planned| planned.passes() != verdict.passes()) }
}

/// The verdict, and the reading that it is about if that is not the path itself. Each reading with other segments has to
/// pass; one that is only decoded must not be denied by name.
pub fn by_all_readings<'a, 'r>(
    by: (&'a Rules, &'a Policies),
    of: Views<'r>,
    readings: &'r Readings,
    stage: Stage,
) -> (Verdict<'a>, Option<&'r str>) {
    let as_it_stands = verdict(by, of, stage);
    if !as_it_stands.passes() {
        return (as_it_stands, None);
    }
    let refused = |path: &'r str| match verdict(by, of.read_as(path), stage) {
        Verdict::Deny(cause) => Some((cause, path)),
        Verdict::Allow(_) => None,
    };
    let denied = |path: &'r str| Some((denied_by_name(by, of.read_as(path), stage)?, path));
    let found = readings.structural().find_map(refused).or_else(|| readings.decoded().find_map(denied));
    found.map_or((as_it_stands, None), |(cause, path)| (Verdict::Deny(cause), Some(path)))
}

fn denied_by_name<'a>((rules, policies): (&'a Rules, &'a Policies), of: Views<'_>, stage: Stage) -> Option<Cause<'a>> {
    if let Decision::Deny { rule: Some(name), .. } = rules.decide_at(&of.rules, stage) {
        return Some(Cause::Rule(name));
    }
    match policies.rule_at(&of.policies, stage) {
        Ruling::Deny(Some(name)) => Some(Cause::Policy(name)),
        _ => None,
    }
}

/// The verdict of those that are in force at `stage`, on the path as it stands.
fn verdict<'a>((rules, policies): (&'a Rules, &'a Policies), of: Views<'_>, stage: Stage) -> Verdict<'a> {
    let (rule, is_closed) = match rules.decide_at(&of.rules, stage) {
        Decision::Deny { rule: Some(name), .. } => return Verdict::Deny(Cause::Rule(name)),
        Decision::Deny { reason: DenyReason::Default, .. } => (None, true),
        Decision::Deny { .. } => return Verdict::Deny(Cause::NoAllowRule),
        Decision::Allow { rule } => (rule, false),
    };
    match policies.rule_at(&of.policies, stage) {
        Ruling::Deny(Some(name)) => Verdict::Deny(Cause::Policy(name)),
        Ruling::Deny(None) => Verdict::Deny(Cause::NoAllowPolicy),
        Ruling::Allow(None) if is_closed => Verdict::Deny(Cause::Default),
        Ruling::Allow(policy) => Verdict::Allow(Granted { rule, policy }),
    }
}

impl Verdict<'_> {
    /// Whether the request passes.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The one name under which it is counted.
    pub fn name(&self) -> &str {
        match self {
            Self::Allow(granted) => granted.rule.or(granted.policy).unwrap_or("default"),
            Self::Deny(cause) => cause.name(),
        }
    }
}

impl<'a> Cause<'a> {
    /// Whether a rule made it, and no policy may change that.
    pub fn is_by_rules(&self) -> bool {
        matches!(self, Self::Rule(_) | Self::NoAllowRule)
    }

    /// The rule's or the policy's name, or why there is none.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Rule(name) | Self::Policy(name) => name,
            Self::NoAllowRule => "no_allow_rule",
            Self::NoAllowPolicy => "no_allow_policy",
            Self::Default => "default",
        }
    }
}

/// Who made it.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(granted) => granted.fmt(f),
            Self::Deny(cause) => f.write_str(cause.name()),
        }
    }
}

impl fmt::Display for Granted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rule, self.policy) {
            (Some(rule), Some(policy)) => write!(f, "{rule}, {policy}"),
            (Some(one), None) | (None, Some(one)) => f.write_str(one),
            (None, None) => f.write_str("default"),
        }
    }
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(name) => write!(f, "access rule {name}: {}", DenyReason::DenyRule.as_str()),
            Self::NoAllowRule => write!(f, "access rule default: {}", DenyReason::NoAllowRule.as_str()),
            Self::Policy(name) => write!(f, "authorization: DENY policy {name}"),
            Self::NoAllowPolicy => f.write_str("authorization: no ALLOW policy matches"),
            Self::Default => write!(f, "access rule default: {}", DenyReason::Default.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AttributesBuf;
    use crate::access::authorization::{MeshNames, Workload, read};
    use crate::access::rbac::{Effect, Rule};
    use crate::access::rollout::Rollout;
    use crate::config::authorization::AuthorizationPolicy;

    const CALLER: &str = "cluster.local/ns/default/sa/caller";

    /// Policies by name and action, for the caller or for nobody; a `?` after the name is dry run.
    fn policies(written: &[(&str, &str, bool)]) -> Policies {
        let documents = written.iter().map(|(name, action, matches)| {
            let (name, is_dry) = match name.strip_suffix('?') {
                Some(name) => (name, "true"),
                None => (*name, "false"),
            };
            let principal = if *matches { CALLER } else { "cluster.local/ns/default/sa/nobody" };
            serde_json::json!({
                "metadata": { "name": name, "annotations": { "istio.io/dry-run": is_dry } },
                "spec": { "action": action, "rules": [{ "from": [{ "source": { "principals": [principal] } }] }] },
            })
        });
        let documents: Vec<AuthorizationPolicy> = serde_json::from_value(documents.collect()).unwrap();
        let workload = Workload { namespace: "a".to_owned(), ..Workload::default() };
        read(&documents, &workload, &MeshNames::default()).unwrap()
    }

    /// Rules likewise.
    fn rules(default: Effect, written: &[(&str, Effect, bool)]) -> Rules {
        let rules = written.iter().map(|(name, action, matches)| {
            let rollout = if name.ends_with('?') { Rollout::DRY_RUN } else { Rollout::FULL };
            let name = name.trim_end_matches('?').to_owned();
            let method = if *matches { "GET" } else { "NONE" };
            Rule { name, action: *action, methods: vec![method.to_owned()], rollout, ..Rule::default() }
        });
        Rules::new(default, rules.collect())
    }

    #[test]
    fn both_have_to_let_a_request_pass_and_with_deny_by_default_one_by_name() {
        use Effect::{Allow, Deny};
        let granted = |rule, policy| Verdict::Allow(Granted { rule, policy });
        let (allow, other) = (("r", Allow, true), ("o", Allow, false));
        let (deny, let_in, other_in) = (("d", Deny, true), ("p", "ALLOW", true), ("q", "ALLOW", false));
        let refuse = ("x", "DENY", true);
        for (index, (default, written, documents, expected)) in [
            (Allow, vec![], vec![], granted(None, None)),
            (Deny, vec![], vec![], Verdict::Deny(Cause::Default)),
            (Deny, vec![allow], vec![], granted(Some("r"), None)),
            (Deny, vec![], vec![let_in], granted(None, Some("a/p"))),
            (Deny, vec![], vec![other_in], Verdict::Deny(Cause::NoAllowPolicy)),
            (Deny, vec![], vec![let_in, refuse], Verdict::Deny(Cause::Policy("a/x"))),
            (Deny, vec![deny], vec![let_in], Verdict::Deny(Cause::Rule("d"))),
            (Deny, vec![other], vec![let_in], Verdict::Deny(Cause::NoAllowRule)),
            (Deny, vec![allow], vec![other_in], Verdict::Deny(Cause::NoAllowPolicy)),
            (Allow, vec![allow], vec![let_in], granted(Some("r"), Some("a/p"))),
            (Allow, vec![], vec![other_in], Verdict::Deny(Cause::NoAllowPolicy)),
            (Deny, vec![], vec![("m", "AUDIT", true)], Verdict::Deny(Cause::Default)),
            (Deny, vec![], vec![("c", "AUDIT", true), let_in], granted(None, Some("a/p"))),
        ]
        .into_iter()
        .enumerate()
        {
            let (rules, policies) = (rules(default, &written), policies(&documents));
            let (of, readings) = (AttributesBuf::default(), Readings::default());
            let judgement = judge((&rules, &policies), &of.borrow(), &readings, Draw::STRICT);
            assert_eq!(judgement, Judgement { verdict: expected, read_as: None, planned: None }, "row {index}");
        }
    }

    #[test]
    fn a_bare_connection_that_nobody_lets_in_by_name_is_refused_by_default() {
        let of = AttributesBuf { is_tcp: true, ..AttributesBuf::default() };
        let none = rules(Effect::Deny, &[]);
        let verdict = |documents: &[_]| match judge(
            (&none, &policies(documents)),
            &of.borrow(),
            &Readings::default(),
            Draw::STRICT,
        )
        .verdict
        {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(Cause::Default) => "default",
            Verdict::Deny(_) => "other",
        };
        assert_eq!(verdict(&[]), "default");
        assert_eq!(verdict(&[("p", "ALLOW", true)]), "allow");
        // Of a connection there is no method: the rule lets nobody in.
        let by_method = rules(Effect::Deny, &[("r", Effect::Allow, true)]);
        assert!(
            !judge((&by_method, &Policies::default()), &of.borrow(), &Readings::default(), Draw::STRICT)
                .verdict
                .passes()
        );
    }

    #[test]
    fn what_is_in_dry_run_changes_no_verdict_and_says_what_it_would_change() {
        use Effect::{Allow, Deny};
        for (index, (written, documents, passes, planned)) in [
            (vec![("d?", Deny, true)], vec![], true, Some("d")),
            (vec![("d?", Deny, false)], vec![], true, None),
            (vec![("d?", Deny, true), ("e", Deny, true)], vec![], false, None),
            // An allow rule that is tried out would refuse all the others.
            (vec![("a?", Allow, false)], vec![], true, Some("no_allow_rule")),
            (vec![("a?", Allow, true)], vec![], true, None),
            (vec![("a?", Allow, true), ("b", Allow, false)], vec![], false, Some("a")),
            (vec![], vec![("p?", "DENY", true)], true, Some("a/p")),
            (vec![], vec![("p?", "ALLOW", false)], true, Some("no_allow_policy")),
            (vec![], vec![("p?", "ALLOW", true), ("q", "ALLOW", false)], false, Some("a/p")),
            (vec![("d?", Deny, true)], vec![("q", "DENY", true)], false, None),
        ]
        .into_iter()
        .enumerate()
        {
            let (rules, policies) = (rules(Allow, &written), policies(&documents));
            let (of, readings) = (AttributesBuf::default(), Readings::default());
            let judgement = judge((&rules, &policies), &of.borrow(), &readings, Draw::STRICT);
            assert_eq!(judgement.verdict.passes(), passes, "row {index}");
            let named = judgement.planned.as_ref().map(Verdict::name);
            assert_eq!(named, planned, "row {index}");
        }
    }

    #[test]
    fn dry_run_says_what_would_be_refused_however_the_path_is_written() {
        let admin = |rollout| {
            let paths = vec![crate::access::rbac::Pattern::parse("/admin*")];
            let rule = Rule { name: "admin".to_owned(), action: Effect::Deny, paths, rollout, ..Rule::default() };
            Rules::new(Effect::Allow, vec![rule])
        };
        let none = Policies::default();
        for path in ["/admin", "//admin", "/x/%2e%2e/admin", "/%61dmin", "/books", "//books"] {
            let of = AttributesBuf { path: path.to_owned(), ..AttributesBuf::default() };
            let (of, readings) = (of.borrow(), Readings::of(path));
            let in_force = judge((&admin(Rollout::FULL), &none), &of, &readings, Draw::STRICT).verdict.passes();
            let rules = admin(Rollout::DRY_RUN);
            let tried = judge((&rules, &none), &of, &readings, Draw::STRICT);
            assert!(tried.verdict.passes(), "{path}");
            assert_eq!(tried.planned.as_ref().map(Verdict::name), (!in_force).then_some("admin"), "{path}");
            assert_eq!(in_force, path.ends_with("books"), "{path}");
        }
    }
}
