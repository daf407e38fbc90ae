//! AuthorizationPolicy as Istio's users write it (`security.istio.io`, v1 and v1beta1).
//!
//! Decides: nothing. Never: ignores a field it does not know inside `spec`: what it would have demanded
//! must not be lost silently. `metadata` may hold what Kubernetes puts there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Istio's authorization policies, besides the local access rules: a request has to pass both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Authorization {
    /// The documents, as `kubectl` would take them. Those of other namespaces and workloads are read and left alone.
    pub policies: Vec<AuthorizationPolicy>,
    /// Policies of this namespace hold for every namespace. Default: istio-system (Istio).
    pub root_namespace: String,
    /// Further trust domains that count as ours in a policy's principals. Ours is the identity's.
    pub trust_domain_aliases: Vec<String>,
}

impl Default for Authorization {
    fn default() -> Self {
        Self { policies: Vec::new(), root_namespace: "istio-system".to_owned(), trust_domain_aliases: Vec::new() }
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// `security.istio.io/v1` or `security.istio.io/v1beta1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `AuthorizationPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, annotations.
    pub metadata: Metadata,
    /// What it demands.
    #[serde(default)]
    pub spec: Spec,
    /// What `kubectl get` prints besides; nothing here reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The part of the metadata that counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// The policy's name.
    pub name: String,
    /// Its namespace. Default: ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `istio.io/dry-run: "true"` only tries the policy out: what it would change is counted and logged.
    /// `libmesh/enforce-percent: "5"` has it in force for that share of the requests, and in dry run for the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a policy demands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// The workloads it holds for. Default: all of its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// What a match does. Default: ALLOW (Istio).
    pub action: Action,
    /// Who decides, for CUSTOM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// One of them has to match. None: the policy never matches.
    pub rules: Vec<Rule>,
}

/// Labels a workload must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// All of them.
    pub match_labels: BTreeMap<String, String>,
}

/// What a match does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Lets in.
    #[default]
    Allow,
    /// Refuses.
    Deny,
    /// Marks.
    Audit,
    /// Asks the provider.
    Custom,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The name of a check of this configuration.
    pub name: String,
}

/// One rule: one `from`, one `to` and all `when`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Who; one of them. None: anybody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<From>,
    /// What; one of them. None: anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<To>,
    /// Further conditions; all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<When>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// Who.
    pub source: Source,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// What.
    pub operation: Operation,
}

/// Who sends: all fields that are there, one value of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// Identities without `spiffe://`: exact, `prefix*`, `*suffix`, or `*` for any proven one.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// `issuer/subject` of a validated token.
    pub request_principals: Vec<String>,
    /// None of these.
    pub not_request_principals: Vec<String>,
    /// Namespaces of proven identities.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
    /// `namespace/name`, or a name in the policy's namespace; no wildcards.
    pub service_accounts: Vec<String>,
    /// None of these.
    pub not_service_accounts: Vec<String>,
    /// Trust domains of proven identities.
    pub trust_domains: Vec<String>,
    /// None of these.
    pub not_trust_domains: Vec<String>,
    /// Addresses of the peer: CIDR or one address.
    pub ip_blocks: Vec<String>,
    /// None of these.
    pub not_ip_blocks: Vec<String>,
    /// Addresses of the original client: CIDR or one address.
    pub remote_ip_blocks: Vec<String>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is asked for: all fields that are there, one value of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Operation {
    /// Authorities as written, port included; case does not matter.
    pub hosts: Vec<String>,
    /// None of these.
    pub not_hosts: Vec<String>,
    /// Local ports.
    pub ports: Vec<String>,
    /// None of these.
    pub not_ports: Vec<String>,
    /// Methods; gRPC is POST.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// Normalised paths: exact, `prefix*`, `*suffix`, or a template with `{*}` and `{**}`.
    pub paths: Vec<String>,
    /// None of these.
    pub not_paths: Vec<String>,
}

/// A further condition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct When {
    /// What it looks at, as `request.headers[x-token]`.
    pub key: String,
    /// One of them fits.
    pub values: Vec<String>,
    /// None of them fits.
    pub not_values: Vec<String>,
}
