//! Istio's AuthorizationPolicy, decided in the process that serves.
//!
//! Decides: CUSTOM policies first (their provider is asked), then DENY, then ALLOW; no ALLOW policy for
//! this workload means allow. Every ruling names the policies that made it.
//! Never: asks a provider itself, decodes or normalizes a path (the listener did), authenticates.
//! Invariant: a policy in dry run, and one of action AUDIT, changes no verdict, not even by being there.
//!
//! A rule needs one of its sources, one of its operations and all of its conditions; an empty list asks
//! for nothing; a policy without rules matches nothing. On a TCP connection a rule with fields that only
//! HTTP has never allows, and denies or asks as if those fields matched: a deny may grow there, never shrink. For the
//! same reason a host that DENY or CUSTOM names without a port is met with any port, which in Istio takes a second value; and
//! a header that came several times is met there by each value alone as well as by all joined, while ALLOW reads them
//! joined (Envoy 1.40 reads each alone in both).

mod cidr;
mod condition;
mod field;
mod read;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::condition::Condition;
pub use self::read::{Problem, read};
use super::attributes::Attributes;
use super::rollout::{Draw, Rollout, Stage};

/// Where a process stands: which policies are its own.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels, which selectors ask for.
    pub labels: BTreeMap<String, String>,
}

/// What is the same for all policies of a mesh.
#[derive(Debug, Clone)]
pub struct MeshNames {
    /// Our trust domain.
    pub trust_domain: String,
    /// Former names of it, and others that count as ours.
    pub trust_domain_aliases: Vec<String>,
    /// Policies of this namespace hold for every namespace. Default: istio-system (Istio).
    pub root_namespace: String,
}

impl Default for MeshNames {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".to_owned(),
        }
    }
}

/// What a policy does with requests it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Lets them in; with one such policy in force, others are refused.
    Allow,
    /// Refuses them.
    Deny,
    /// Marks them.
    Audit,
    /// Asks this provider.
    Custom(Arc<str>),
}

/// A policy, ready to be asked.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// What a match does.
    pub action: Action,
    /// The share of requests it is in force for; in dry run it is only reported.
    pub rollout: Rollout,
    rules: Vec<Rule>,
}

/// Alternatives of conditions; an empty list asks for nothing.
#[derive(Debug, Clone, Default)]
struct Rule {
    from: Vec<Vec<Condition>>,
    to: Vec<Vec<Condition>>,
    when: Vec<Condition>,
}

/// All policies of a workload.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    policies: Vec<Policy>,
    /// Whether one that allows or denies reads what a provider may change: headers, or the query.
    reads_changes: bool,
}

/// A verdict, and who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling<'a> {
    /// Let in by an ALLOW policy, or (`None`) because none applies to this workload.
    Allow(Option<&'a str>),
    /// Refused by a DENY policy, or (`None`) because there are ALLOW policies and none matched.
    Deny(Option<&'a str>),
}

impl Policies {
    /// Those of `policies` that are in force for a workload were chosen by [`read`].
    pub fn new(policies: Vec<Policy>) -> Self {
        let is_verdict = |policy: &Policy| matches!(policy.action, Action::Allow | Action::Deny);
        let reads_changes = policies.iter().any(|policy| is_verdict(policy) && policy.reads_changes());
        Self { policies, reads_changes }
    }

    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether what a provider changes in a request may change the verdict: then that is of the changed request, as in
    /// Istio.
    pub fn reads_changes(&self) -> bool {
        self.reads_changes
    }

    /// Whether a policy refuses a request whatever a provider may change in it.
    pub fn denies_for_good(&self, attributes: &Attributes<'_>, stage: Stage) -> bool {
        self.matching(attributes, stage).any(|policy| policy.action == Action::Deny && !policy.reads_changes())
    }

    /// Whether a policy is not in force for every request.
    pub fn is_partial(&self) -> bool {
        self.policies.iter().any(|policy| policy.rollout.is_partial())
    }

    /// The providers to ask about a request, with the policy that demands it, in the order written. One
    /// refusal is a refusal; only then [`Policies::rule`] is asked.
    pub fn providers<'a>(
        &'a self,
        attributes: &Attributes<'_>,
        draw: Draw,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.matching(attributes, Stage::Now(draw)).filter_map(|policy| match &policy.action {
            Action::Custom(provider) => Some((&**provider, &*policy.name)),
            _ => None,
        })
    }

    /// The verdict of DENY and ALLOW policies; one that is in force for a share of the requests counts as in force.
    pub fn rule(&self, attributes: &Attributes<'_>) -> Ruling<'_> {
        self.rule_at(attributes, Stage::Now(Draw::STRICT))
    }

    /// The verdict of those of `stage`.
    pub fn rule_at(&self, attributes: &Attributes<'_>, stage: Stage) -> Ruling<'_> {
        let first = |action: &Action| self.matching(attributes, stage).find(|policy| policy.action == *action);
        if let Some(policy) = first(&Action::Deny) {
            return Ruling::Deny(Some(&policy.name));
        }
        if let Some(policy) = first(&Action::Allow) {
            return Ruling::Allow(Some(&policy.name));
        }
        let demands_allow = self.in_force(stage).any(|policy| policy.action == Action::Allow);
        if demands_allow { Ruling::Deny(None) } else { Ruling::Allow(None) }
    }

    /// Policies that match and are only reported: in dry run, or of action AUDIT.
    pub fn reported<'a>(&'a self, attributes: &Attributes<'_>) -> impl Iterator<Item = &'a Policy> {
        let reported = self.policies.iter().filter(|policy| policy.is_dry_run() || policy.action == Action::Audit);
        reported.filter(|policy| policy.matches(attributes))
    }

    fn in_force(&self, stage: Stage) -> impl Iterator<Item = &Policy> {
        self.policies.iter().filter(move |policy| policy.rollout.is_in_force(stage))
    }

    fn matching<'a>(&'a self, attributes: &Attributes<'_>, stage: Stage) -> impl Iterator<Item = &'a Policy> {
        self.in_force(stage).filter(|policy| policy.matches(attributes))
    }
}

impl Policy {
    /// Whether it is in force for no request.
    pub fn is_dry_run(&self) -> bool {
        self.rollout == Rollout::DRY_RUN
    }

    fn reads_changes(&self) -> bool {
        self.rules.iter().flat_map(Rule::conditions).any(Condition::reads_changes)
    }

    /// Whether one of its rules matches.
    pub fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let widens = match self.action {
            // Asked about more, a provider can only refuse more.
            Action::Deny | Action::Custom(_) => true,
            Action::Allow | Action::Audit => false,
        };
        self.rules.iter().any(|rule| rule.matches(attributes, widens))
    }
}

impl Rule {
    /// `widens`, because more is the safe side: on a TCP connection what only HTTP has counts as met, a host without a
    /// port stands for all its ports, and each line of a header for itself.
    fn matches(&self, attributes: &Attributes<'_>, widens: bool) -> bool {
        if attributes.is_tcp && !widens && self.conditions().any(Condition::is_http_only) {
            return false;
        }
        let holds = |condition: &Condition| {
            (attributes.is_tcp && condition.is_http_only()) || condition.holds(attributes, widens)
        };
        let one_of = |alternatives: &[Vec<Condition>]| {
            alternatives.is_empty() || alternatives.iter().any(|all| all.iter().all(holds))
        };
        one_of(&self.from) && one_of(&self.to) && self.when.iter().all(holds)
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }
}
