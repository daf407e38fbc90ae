//! Local access rules, as they are written.
//!
//! Decides: what a rule can ask about a request. Never: allows or denies.
//! Invariant: a condition that is absent is no condition; a rule without any matches everything.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::route::HeaderMatch;
use super::value::{Method, Name, Percent, TextPattern};

/// Local access rules. 1. A matching deny rule refuses. 2. Where allow rules exist, one must match.
/// 3. Where none exists, `default` decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// What happens to what is not refused, on a listener that no allow rule speaks about. With `deny`, an ALLOW policy of
    /// `authorization` lets in, too; a listener may tighten it by `access_default`. Default: allow (Istio).
    pub default: Action,
    /// The rules; their order does not matter.
    pub rules: Vec<AccessRule>,
}

/// What a rule does with the requests it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets them in.
    #[default]
    Allow,
    /// Refuses them (403).
    Deny,
}

/// One rule: every condition that is present has to hold; inside a condition one entry is enough. A bare connection
/// has a caller and nothing else: there a rule with methods, paths, hosts or headers never allows, and denies as if
/// they matched (Istio).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// The rule's name in logs and telemetry. Unique.
    pub name: Name,
    /// What it does.
    pub action: Action,
    /// The listeners it holds for. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// The caller's SPIFFE ID: exact, `prefix*`, `*suffix`, or `*` for any authenticated caller.
    /// An unauthenticated caller never matches. An empty list is refused: it would mean everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub principals: Vec<TextPattern>,
    /// The caller's SPIFFE ID is none of these. An unauthenticated caller always matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<TextPattern>,
    /// The method is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// The normalised path: exact, `prefix*`, `*suffix` or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<TextPattern>,
    /// The authority: exact, `prefix*`, `*suffix` or `*`; case does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<TextPattern>,
    /// All of these hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// A condition in CEL, for what the others cannot say: true or false of `request.` (`method`, `path` without query,
    /// `query`, `host`, `scheme`, `protocol`, `id`, `headers`, `auth.principal`, `auth.audiences`, `auth.presenter`,
    /// `auth.claims`), `source.` and `destination.` (`principal`, `address`, `ip`, `port`), `destination.service`,
    /// `destination.listener`, `connection.mtls`, `connection.sni`. One that asks for what a request does not have, and
    /// does not guard that by `has()` or `in`, refuses: a deny rule counts it as met, an allow rule does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub condition: Option<String>,
    /// Whether the rule is only tried out: the verdict is made without it, and what it would change is counted and
    /// logged under its name. An allow rule in dry run does not make others be refused either. Default: false.
    #[serde(default)]
    pub dry_run: bool,
    /// Share of the requests that meet the rule; for the others it is in dry run. A request draws once for all rules, so
    /// that rules with the same share come into force for the same requests. Default: 100.
    #[serde(default = "default_enforced")]
    pub enforce_percent: Percent,
}

fn default_enforced() -> Percent {
    Percent(100.0)
}
