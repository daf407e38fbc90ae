//! Istio's policies as istiod hands them to Envoy: two RBAC filters, DENY before ALLOW.
//!
//! Decides: which Envoy matchers stand for a field of a policy. Never: asks the engine under test, nor shares a line with
//! it: it reads the documents as JSON and follows istiod's rules (`pilot/pkg/security/authz/model`).
//! Invariant: a field it does not know ends the test.

use serde_json::{Value, json};

/// The rules of the two filters; `None`: istiod would leave the filter out.
pub struct Filters {
    pub deny: Option<Value>,
    pub allow: Option<Value>,
}

/// What is translated for whom: a case of the vectors, and whether its request is a bare connection.
pub struct Translator<'a> {
    case: &'a Value,
    is_tcp: bool,
}

impl<'a> Translator<'a> {
    pub fn new(case: &'a Value) -> Self {
        Self { case, is_tcp: case["request"]["protocol"] == "tcp" }
    }

    pub fn filters(&self) -> Filters {
        Filters { deny: self.rbac("DENY"), allow: self.rbac("ALLOW") }
    }

    fn rbac(&self, action: &str) -> Option<Value> {
        let mut policies = serde_json::Map::new();
        for policy in list(&self.case["policies"]) {
            let spec = &policy["spec"];
            if spec["action"].as_str().unwrap_or("ALLOW") != action || !self.is_enforced_here(policy) {
                continue;
            }
            let (namespace, name) = (self.namespace(policy), text(&policy["metadata"]["name"]));
            let rules = list(&spec["rules"]);
            if rules.is_empty() {
                let never = json!({
                    "permissions": [{ "not_rule": { "any": true } }], "principals": [{ "not_id": { "any": true } }],
                });
                policies.insert(format!("{namespace}/{name}#empty"), never);
            }
            for (index, rule) in rules.iter().enumerate() {
                if let Some(translated) = self.rule(rule, (action, namespace)) {
                    policies.insert(format!("{namespace}/{name}#{index}"), translated);
                } else {
                    // A rule that connections cannot meet; the policy is there all the same.
                    policies.insert(format!("{namespace}/{name}#{index}"), json!({
                        "permissions": [{ "not_rule": { "any": true } }], "principals": [{ "not_id": { "any": true } }],
                    }));
                }
            }
        }
        (!policies.is_empty()).then(|| json!({ "action": action, "policies": policies }))
    }

    /// Of this namespace or the root's, selected by labels, and not in dry run.
    fn is_enforced_here(&self, policy: &Value) -> bool {
        let workload = &self.case["workload"];
        let namespace = self.namespace(policy);
        let is_near =
            namespace == text(&workload["namespace"]) || namespace == text(&self.case["mesh"]["root_namespace"]);
        let wanted = policy["spec"]["selector"]["matchLabels"].as_object();
        let is_selected = wanted.into_iter().flatten().all(|(label, value)| workload["labels"][label] == *value);
        is_near && is_selected && policy["metadata"]["annotations"]["istio.io/dry-run"] != "true"
    }

    fn namespace(&self, policy: &'a Value) -> &'a str {
        policy["metadata"]["namespace"].as_str().unwrap_or_else(|| text(&self.case["workload"]["namespace"]))
    }

    /// `None`: an ALLOW rule asks a connection for what only requests have.
    fn rule(&self, rule: &Value, (action, namespace): (&str, &str)) -> Option<Value> {
        let mut when = (Vec::new(), Vec::new());
        for condition in list(&rule["when"]) {
            let key = text(&condition["key"]);
            let field = Field { key, values: list(&condition["values"]), not_values: list(&condition["notValues"]) };
            self.add(&field, (action, namespace), &mut when)?;
        }
        let sources = self.alternatives(&rule["from"], "source", (action, namespace))?;
        let operations = self.alternatives(&rule["to"], "operation", (action, namespace))?;
        let (permissions, principals): (Vec<_>, Vec<_>) = (
            operations
                .into_iter()
                .map(|(mut all, _)| {
                    all.extend(when.0.clone());
                    and("rules", all)
                })
                .collect(),
            sources
                .into_iter()
                .map(|(_, mut all)| {
                    all.extend(when.1.clone());
                    and("ids", all)
                })
                .collect(),
        );
        Some(json!({ "permissions": permissions, "principals": principals }))
    }

    fn alternatives(
        &self,
        alternatives: &Value,
        inner: &str,
        of: (&str, &str),
    ) -> Option<Vec<(Vec<Value>, Vec<Value>)>> {
        let mut translated = Vec::new();
        for alternative in list(alternatives) {
            let mut matchers = (Vec::new(), Vec::new());
            let fields = alternative[inner].as_object().unwrap();
            for (name, values) in fields {
                let (key, is_not) = plain(name);
                let (values, not_values) = if is_not { (&[][..], list(values)) } else { (list(values), &[][..]) };
                self.add(&Field { key: &key, values, not_values }, of, &mut matchers)?;
            }
            translated.push(matchers);
        }
        if translated.is_empty() {
            translated.push((Vec::new(), Vec::new()));
        }
        Some(translated)
    }

    /// Adds the field's matchers to the permissions or the principals. `None`: see [`Self::rule`].
    fn add(
        &self,
        field: &Field<'_>,
        (action, namespace): (&str, &str),
        to: &mut (Vec<Value>, Vec<Value>),
    ) -> Option<()> {
        if self.is_tcp && field.is_http_only() {
            // DENY leaves out what it cannot ask; ALLOW must not.
            return (action == "DENY").then_some(());
        }
        let side = field.side();
        let matchers = |values: &[Value]| -> Vec<Value> {
            values.iter().flat_map(|value| self.matchers(field.key, text(value), namespace)).collect()
        };
        let (any, not) = if side == Side::Permission { ("or_rules", "not_rule") } else { ("or_ids", "not_id") };
        let inner = if side == Side::Permission { "rules" } else { "ids" };
        let or = |all: Vec<Value>| json!({ any: { inner: all } });
        let list = if side == Side::Permission { &mut to.0 } else { &mut to.1 };
        if !field.values.is_empty() {
            list.push(or(matchers(field.values)));
        }
        if !field.not_values.is_empty() {
            list.push(json!({ not: or(matchers(field.not_values)) }));
        }
        Some(())
    }

    fn matchers(&self, key: &str, value: &str, namespace: &str) -> Vec<Value> {
        if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            return vec![json!({ "header": header(name, value, false) })];
        }
        if let Some(path) = key.strip_prefix("request.auth.") {
            return vec![token(path, value)];
        }
        let named = |matcher: Value| json!({ "authenticated": { "principal_name": matcher } });
        vec![match key {
            "hosts" => json!({ "header": header(":authority", value, true) }),
            "methods" => json!({ "header": header(":method", value, false) }),
            "paths" if value.contains('{') => json!({ "uri_template": {
                "name": "uri-template",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": value.replace("{**}", "**").replace("{*}", "*"),
                },
            } }),
            "paths" => json!({ "url_path": { "path": string(value, "") } }),
            "destination.port" => json!({ "destination_port": value.parse::<u16>().unwrap() }),
            "destination.ip" => json!({ "destination_ip": block(value) }),
            "connection.sni" => json!({ "requested_server_name": string(value, "") }),
            "source.ip" => json!({ "direct_remote_ip": block(value) }),
            "remote.ip" => json!({ "remote_ip": block(value) }),
            "source.namespace" => named(regex(&format!(".*/ns/{}/.*", globbed(value, ".*")))),
            "source.serviceAccount" => {
                let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
                named(regex(&format!("spiffe://[^/]+/ns/{}/sa/{}", quoted(namespace), quoted(name))))
            }
            "source.trustDomain" => named(regex(&format!("spiffe://{}/.*", globbed(value, "[^/]*")))),
            "requestPrincipals" => token("principal", value),
            "source.principal" => {
                return self.principals(value).iter().map(|one| named(string(one, "spiffe://"))).collect();
            }
            other => panic!("{}: no matcher for {other}", self.case["id"]),
        }]
    }

    /// A principal of five parts in our trust domain, one of its aliases or `cluster.local` is one in all of ours.
    fn principals(&self, value: &str) -> Vec<String> {
        let mesh = &self.case["mesh"];
        let ours: Vec<&str> =
            std::iter::once(&mesh["trust_domain"]).chain(list(&mesh["trust_domain_aliases"])).map(text).collect();
        let parts: Vec<&str> = value.split('/').collect();
        let [domain, rest @ ..] = parts.as_slice() else { return vec![value.to_owned()] };
        let is_named = |ours: &str| match domain.strip_prefix('*') {
            Some(end) => ours.ends_with(end),
            None => ours == *domain,
        };
        let is_ours = *domain == "cluster.local" || ours.iter().any(|ours| is_named(ours));
        if rest.len() != 4 || *domain == "*" || !is_ours {
            return vec![value.to_owned()];
        }
        let mut all = Vec::new();
        for ours in ours {
            let one = if is_named(ours) { value.to_owned() } else { format!("{ours}/{}", rest.join("/")) };
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}

/// A field of a source, an operation or a condition.
struct Field<'a> {
    key: &'a str,
    values: &'a [Value],
    not_values: &'a [Value],
}

#[derive(PartialEq, Clone, Copy)]
enum Side {
    Permission,
    Principal,
}

impl Field<'_> {
    /// Which half of an Envoy policy asks for it.
    fn side(&self) -> Side {
        match self.key {
            "hosts" | "methods" | "paths" | "destination.port" | "destination.ip" | "connection.sni" => {
                Side::Permission
            }
            _ => Side::Principal,
        }
    }

    fn is_http_only(&self) -> bool {
        matches!(self.key, "hosts" | "methods" | "paths" | "requestPrincipals") || self.key.starts_with("request.")
    }
}

/// `notPaths` is `paths`, inverted; fields of a source have the names that conditions give them.
fn plain(name: &str) -> (String, bool) {
    let (name, is_not) = match name.strip_prefix("not") {
        Some(rest) => (format!("{}{}", rest[..1].to_lowercase(), &rest[1..]), true),
        None => (name.to_owned(), false),
    };
    let key = match name.as_str() {
        "ports" => "destination.port",
        "principals" => "source.principal",
        "namespaces" => "source.namespace",
        "serviceAccounts" => "source.serviceAccount",
        "trustDomains" => "source.trustDomain",
        "ipBlocks" => "source.ip",
        "remoteIpBlocks" => "remote.ip",
        other => other,
    };
    (key.to_owned(), is_not)
}

fn and(inner: &str, all: Vec<Value>) -> Value {
    if all.is_empty() {
        return json!({ "any": true });
    }
    let outer = if inner == "rules" { "and_rules" } else { "and_ids" };
    json!({ outer: { inner: all } })
}

fn header(name: &str, value: &str, ignore_case: bool) -> Value {
    if value == "*" {
        return json!({ "name": name, "present_match": true });
    }
    let mut matcher = string(value, "");
    if ignore_case {
        matcher["ignore_case"] = json!(true);
    }
    json!({ "name": name, "string_match": matcher })
}

/// `*`, `*suffix`, `prefix*` or exact, in this order; `scheme` stands before what has a beginning.
fn string(value: &str, scheme: &str) -> Value {
    if value == "*" {
        return regex(".+");
    }
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(suffix), _) => json!({ "suffix": suffix }),
        (None, Some(prefix)) => json!({ "prefix": format!("{scheme}{prefix}") }),
        (None, None) => json!({ "exact": format!("{scheme}{value}") }),
    }
}

/// What a filter before these learned of a token. No request of this story has one, so it is never there.
fn token(path: &str, value: &str) -> Value {
    let mut keys = vec![json!({ "key": "request.auth.".to_owned() + path.split('[').next().unwrap() })];
    keys.extend(path.split('[').skip(1).map(|name| json!({ "key": name.trim_end_matches(']') })));
    let one = json!({ "string_match": string(value, "") });
    let value = if path.starts_with("claims") { json!({ "list_match": { "one_of": one } }) } else { one };
    json!({ "metadata": { "filter": "istio_authn", "path": keys, "value": value } })
}

fn regex(pattern: &str) -> Value {
    json!({ "safe_regex": { "regex": pattern } })
}

fn globbed(value: &str, star: &str) -> String {
    value.split('*').map(quoted).collect::<Vec<_>>().join(star)
}

fn quoted(value: &str) -> String {
    value.replace('.', "\\.")
}

fn block(value: &str) -> Value {
    let (address, bits) = value.split_once('/').unwrap_or((value, if value.contains(':') { "128" } else { "32" }));
    json!({ "address_prefix": address, "prefix_len": bits.parse::<u8>().unwrap() })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
