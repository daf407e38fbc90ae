//! Routes: hosts, ordered rules, what a rule matches and where it sends.
//!
//! Decides: what can be matched. Never: matches. Invariant: rules keep the order they were written in.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::hashing::{HashPolicy, Session};
use super::path_template::{RewriteText, TemplateText};
use super::policy::{HedgeOverride, RetryOverride};
use super::rule::{DirectResponse, Fault, HeaderChanges, Mirror, Redirect};
use super::value::{HeaderName, HostPattern, Method, Name, RegexText, TextPattern, Weight};

/// The rules of some hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The route's name in telemetry. Default: the first host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The hosts, without port: exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.
    #[schemars(length(min = 1))]
    pub hosts: Vec<HostPattern>,
    /// The rules; the first that matches wins. No match = no route (404).
    #[schemars(length(min = 1))]
    pub rules: Vec<Rule>,
}

impl Route {
    /// The name, or the first host.
    pub fn label(&self) -> &str {
        match (&self.name, self.hosts.first()) {
            (Some(name), _) => name.as_str(),
            (None, Some(host)) => host.as_str(),
            (None, None) => "",
        }
    }
}

/// What matches, and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The rule's name in telemetry. Default: its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The requests it takes: one match or a list of alternatives. Absent: all.
    #[serde(default, rename = "match", skip_serializing_if = "Matches::is_any")]
    pub matches: Matches,
    /// Where they go, split by weight. Instead a rule may answer itself: `redirect` or `direct_response`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub backends: Vec<Backend>,
    /// Sends the caller elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Answers as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
    /// What is changed on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Headers of the request that are changed on the way. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderChanges>,
    /// Headers of the response that are changed on the way, the rule's own answers included. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderChanges>,
    /// Clusters that get a copy of the requests and whose answers nobody sees. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<Mirror>,
    /// Faults on purpose. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Total time; 0s = none. Default: `defaults.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Time of one attempt; 0s = none. Default: `defaults.attempt_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<TimeSpan>,
    /// The most that is believed of a caller's deadline; 0s = all of it. Default: `defaults.timeout_header_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_header_max: Option<TimeSpan>,
    /// Sends a copy before the first was answered; what is absent is as in `defaults.hedge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<HedgeOverride>,
    /// Overrides `defaults.retry`, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOverride>,
    /// What requests hash to, for balancers by hash; combined in this order. Default: as the cluster says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash_policy: Vec<HashPolicy>,
    /// Requests that `hash_policy` gives the same hash go to the same backend; when weights change, they move only to a
    /// backend that has grown against the one they had. Needs a `hash_policy` of the rule; a request without a hash is drawn for by itself.
    /// Default: false (Envoy: `use_hash_policy` of weighted clusters).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// What keeps a client with its endpoint. Default: as the cluster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// A cluster and its share of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name of a cluster of this file.
    pub cluster: Name,
    /// Share relative to the other backends; 0 = none. Default: 1.
    #[serde(default)]
    pub weight: Weight,
    /// Only the cluster's endpoints with all of these labels. Default: all endpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
}

/// What is changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// The new authority, with a port if the backend wants one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
    /// Replaces the matched path prefix. Needs a prefix match in every alternative.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub prefix: Option<String>,
    /// The new path, put together of what the named operators of the matched template took: `/v2/{rest}` (Envoy's
    /// `path_template_rewrite`). Needs a template with these names in every alternative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<RewriteText>,
}

/// Alternatives: one of them has to match. No alternative at all = everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Matches(pub Vec<RequestMatch>);

impl Matches {
    /// Whether everything matches because nothing was said.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

/// One alternative: everything in it has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestMatch {
    /// The path, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method is one of these. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
    /// All of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// All of these hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
    /// Who asks. Default: anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceMatch>,
}

/// A condition on who asks, by proven identity: of a listener's requests the caller, also where they are routed
/// onward; of the application's own requests this process. Who proved none never matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceMatch {
    /// SPIFFE IDs: exact, `prefix*`, `*suffix`, or `*` for anybody with one. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<TextPattern>,
    /// The namespace in the SPIFFE ID (`/ns/<namespace>/sa/...`) is one of these (Istio's `sourceNamespace`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Name>,
}

/// A condition on the path: exactly one field.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PathMatch {
    /// The whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub exact: Option<String>,
    /// A prefix by segment: `/v2` takes `/v2` and `/v2/x`, not `/v2x` (Gateway API).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub prefix: Option<String>,
    /// A prefix by character: `/v2` takes `/v2x` too (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub raw_prefix: Option<String>,
    /// An expression for the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexText>,
    /// A template for the whole path: `{*}` is one segment, `{**}` any number; with names, `{id}` and `{rest=**}`
    /// (Envoy's `uri_template`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateText>,
}

impl PathMatch {
    /// The fields that are present, as tests: exactly one in a checked document.
    pub fn tests(&self) -> Vec<Test<'_>> {
        let exact = self.exact.as_deref().map(Test::Exact);
        let segment = self.prefix.as_deref().map(Test::SegmentPrefix);
        let raw = self.raw_prefix.as_deref().map(Test::Prefix);
        let regex = self.regex.as_ref().map(|regex| Test::Regex(regex.as_str()));
        let template = self.template.as_ref().map(|template| Test::Template(template.as_str()));
        [exact, segment, raw, regex, template].into_iter().flatten().collect()
    }

    /// The test.
    pub fn test(&self) -> Option<Test<'_>> {
        self.tests().into_iter().next()
    }
}

/// A condition on a header: its name and exactly one test. Several values are joined with `,`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name, in any case.
    pub name: HeaderName,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The value starts so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub prefix: Option<String>,
    /// The value ends so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub suffix: Option<String>,
    /// The value holds this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub contains: Option<String>,
    /// An expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexText>,
    /// Whether the header is there at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Whether the test must fail instead; an absent header never matches an inverted value. Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub invert: bool,
}

impl HeaderMatch {
    /// The tests that are present: exactly one in a checked document.
    pub fn tests(&self) -> Vec<Test<'_>> {
        let exact = self.exact.as_deref().map(Test::Exact);
        let prefix = self.prefix.as_deref().map(Test::Prefix);
        let suffix = self.suffix.as_deref().map(Test::Suffix);
        let contains = self.contains.as_deref().map(Test::Contains);
        let regex = self.regex.as_ref().map(|regex| Test::Regex(regex.as_str()));
        let present = self.present.map(Test::Present);
        [exact, prefix, suffix, contains, regex, present].into_iter().flatten().collect()
    }

    /// The test.
    pub fn test(&self) -> Option<Test<'_>> {
        self.tests().into_iter().next()
    }
}

/// A condition on a query parameter: its name and exactly one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// The parameter's name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// An expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexText>,
    /// Whether the parameter is there at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

impl QueryMatch {
    /// The tests that are present: exactly one in a checked document.
    pub fn tests(&self) -> Vec<Test<'_>> {
        let exact = self.exact.as_deref().map(Test::Exact);
        let regex = self.regex.as_ref().map(|regex| Test::Regex(regex.as_str()));
        let present = self.present.map(Test::Present);
        [exact, regex, present].into_iter().flatten().collect()
    }

    /// The test.
    pub fn test(&self) -> Option<Test<'_>> {
        self.tests().into_iter().next()
    }
}

/// What a matcher asks of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test<'a> {
    /// It is this.
    Exact(&'a str),
    /// It starts so, by path segment.
    SegmentPrefix(&'a str),
    /// It starts so.
    Prefix(&'a str),
    /// It ends so.
    Suffix(&'a str),
    /// It holds this.
    Contains(&'a str),
    /// The expression matches all of it.
    Regex(&'a str),
    /// The template fits all of it.
    Template(&'a str),
    /// It is there, or is not.
    Present(bool),
}

/// `match:` as it may be written.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<RequestMatch>),
    One(Box<RequestMatch>),
}

impl From<OneOrMany> for Matches {
    fn from(written: OneOrMany) -> Self {
        match written {
            OneOrMany::One(one) => Self(vec![*one]),
            OneOrMany::Many(many) => Self(many),
        }
    }
}

impl JsonSchema for Matches {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Matches".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<RequestMatch>();
        json_schema!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
