//! What a remote check is told, and how over plain HTTP, as it is written. The names are Envoy's.
//!
//! Decides: each setting's default and its origin. Never: asks.
//! Invariant: what is absent is as in Envoy's `ext_authz` filter, except that a bad answer is always refused
//! (`validate_mutations`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{HeaderName, Percent, TextPattern};

/// Asks over plain HTTP instead of gRPC: the request's own method and path, 200 allows, 5xx is a failure, any other
/// status refuses and is passed on with its body.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpCheck {
    /// Put in front of the request's path. Default: none (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub path_prefix: Option<String>,
    /// Asked for instead of the request's path and query. Default: none (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub path_override: Option<String>,
    /// Headers of the question, in place of the caller's. Default: none (Envoy).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers_to_add: BTreeMap<HeaderName, String>,
    /// Headers of an approval that take the place of the request's. Default: none (Envoy).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_upstream_headers: Vec<TextPattern>,
    /// Headers of an approval that are put beside the request's, where it has them. Default: none (Envoy).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_upstream_headers_to_append: Vec<TextPattern>,
    /// Headers of a refusal that the caller gets, besides content-length, location and www-authenticate. Default: all
    /// but host (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub allowed_client_headers: Option<Vec<TextPattern>>,
    /// Headers of an approval that the caller gets with the response. Default: none (Envoy).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_client_headers_on_success: Vec<TextPattern>,
}

/// A policy in Rego that is evaluated in this process, with the input and the decision of OPA's Envoy plugin: a boolean,
/// or an object with `allowed`. It may hint at how long its decision is kept, as a policy server may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rego {
    /// The policy itself (Rego v1).
    #[schemars(length(min = 1))]
    pub policy: String,
    /// The rule that decides. Default: data.envoy.authz.allow (OPA's Envoy plugin).
    #[serde(default = "default_decision")]
    #[schemars(length(min = 1))]
    pub decision: String,
}

fn default_decision() -> String {
    "data.envoy.authz.allow".to_owned()
}

/// How much of a request's body is part of the question. It is held in memory until the answer is there, and the
/// application reads all of it. An answer that a body was part of is never kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestBody {
    /// Bytes at most. A longer body is refused with 413 and nobody is asked, whatever `failure` says.
    #[schemars(range(min = 1, max = 67108864))]
    pub max_request_bytes: u32,
    /// Whether of a longer body the first `max_request_bytes` are sent instead. Default: false (Envoy).
    #[serde(default)]
    pub allow_partial_message: bool,
    /// Whether the body is sent as bytes (`raw_body`) instead of text, where what is not UTF-8 reads as `!`. Of gRPC.
    /// Default: false (Envoy).
    #[serde(default)]
    pub pack_as_bytes: bool,
    /// How long the caller may take to send as much of it as is asked about; then the request is refused with 408. It
    /// holds one of the listener's places meanwhile. Default: 5s (ours).
    #[serde(default = "default_body_timeout", skip_serializing_if = "is_default_body_timeout")]
    pub timeout: TimeSpan,
}

fn default_body_timeout() -> TimeSpan {
    TimeSpan::secs(5)
}

fn is_default_body_timeout(timeout: &TimeSpan) -> bool {
    *timeout == default_body_timeout()
}

/// What filters of a proxy tell each other, by the name of the one that tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MetadataNamespace {
    /// The claims of the end user's verified token, under `payload` (Istio).
    #[serde(rename = "envoy.filters.http.jwt_authn")]
    JwtAuthn,
}

pub(super) fn everything() -> Percent {
    Percent(100.0)
}

pub(super) fn is_everything(share: &Percent) -> bool {
    *share == everything()
}

pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
}
