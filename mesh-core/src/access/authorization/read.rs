//! From Istio's documents to policies that can be asked.
//!
//! Decides: which policies are a workload's own, and whether every value has a meaning. Never: guesses; a
//! value that would silently mean something else is refused with its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use super::cidr::Cidr;
use super::condition::{Condition, Test};
use super::field::Field;
use super::{Action, MeshNames, Policies, Policy, Rule, Workload};
use crate::access::rbac::Pattern;
use crate::access::rollout::Rollout;
use crate::config::authorization as written;
use crate::route::template::PathTemplate;

/// Something wrong with a document: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Problem {
    /// The field, from the document's root.
    pub at: String,
    /// What is wrong.
    pub what: String,
}

/// The policies that hold for `workload`. All problems of all documents, if there are any.
pub fn read(
    documents: &[written::AuthorizationPolicy],
    workload: &Workload,
    mesh: &MeshNames,
) -> Result<Policies, Vec<Problem>> {
    let (mut policies, mut problems) = (Vec::new(), Vec::new());
    for (index, document) in documents.iter().enumerate() {
        let namespace = document.metadata.namespace.as_deref().unwrap_or(&workload.namespace);
        let mut reader = Reader { mesh, namespace, at: format!("[{index}]"), problems: Vec::new() };
        let policy = reader.policy(document);
        problems.append(&mut reader.problems);
        let is_ours = namespace == workload.namespace || namespace == mesh.root_namespace;
        if is_ours && selects(document, workload) {
            policies.push(policy);
        }
    }
    if problems.is_empty() { Ok(Policies::new(policies)) } else { Err(problems) }
}

fn selects(document: &written::AuthorizationPolicy, workload: &Workload) -> bool {
    let wanted = document.spec.selector.iter().flat_map(|selector| &selector.match_labels);
    wanted.into_iter().all(|(name, value)| workload.labels.get(name) == Some(value))
}

struct Reader<'a> {
    mesh: &'a MeshNames,
    /// Of the policy; a service account without one is in it.
    namespace: &'a str,
    at: String,
    problems: Vec<Problem>,
}

/// A field as it is written: its name, what it looks at, values and excluded values, how they are read.
type Written<'a> = (&'static str, Field, (&'a [String], &'a [String]), Reading);

/// How the values of a field are read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Text,
    Host,
    Path,
    Block,
    Port,
    Account,
    Principal,
}

impl Reader<'_> {
    fn policy(&mut self, document: &written::AuthorizationPolicy) -> Policy {
        let spec = &document.spec;
        let root = self.at.clone();
        self.at = format!("{root}.kind");
        if document.kind.as_deref().is_some_and(|kind| kind != "AuthorizationPolicy") {
            self.problem("only AuthorizationPolicy documents are read here");
        }
        self.at = format!("{root}.spec");
        let action = self.action(spec);
        let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
            self.at = format!("{root}.spec.rules[{index}]");
            self.rule(rule)
        });
        let rules = rules.collect();
        self.at = format!("{root}.metadata.annotations");
        let rollout = self.rollout(&document.metadata.annotations);
        Policy { name: format!("{}/{}", self.namespace, document.metadata.name).into(), action, rollout, rules }
    }

    /// Istio's annotation for dry run, and ours for a share.
    fn rollout(&mut self, annotations: &BTreeMap<String, String>) -> Rollout {
        let is_dry_run = match annotations.get(DRY_RUN).map(String::as_str) {
            None => false,
            Some(written) => match read_bool(written) {
                Some(is_dry_run) => is_dry_run,
                None => {
                    self.problem(&format!("{DRY_RUN}: {written:?} is neither \"true\" nor \"false\""));
                    false
                }
            },
        };
        let Some(written) = annotations.get(ENFORCE_PERCENT) else {
            return if is_dry_run { Rollout::DRY_RUN } else { Rollout::FULL };
        };
        match written.parse::<f64>() {
            Ok(_) if is_dry_run => {
                self.problem(&format!("{ENFORCE_PERCENT}: in dry run nothing is enforced: leave out one"))
            }
            Ok(percent) if (0.0..=100.0).contains(&percent) => return Rollout::share(percent / 100.0),
            _ => self.problem(&format!("{ENFORCE_PERCENT}: {written:?} is no number from 0 to 100")),
        }
        Rollout::FULL
    }

    fn action(&mut self, spec: &written::Spec) -> Action {
        match (spec.action, &spec.provider) {
            (written::Action::Custom, Some(provider)) => return Action::Custom(provider.name.as_str().into()),
            (written::Action::Custom, None) => self.problem("action CUSTOM needs `provider`"),
            (_, Some(_)) => self.problem("`provider` is only for action CUSTOM"),
            _ => {}
        }
        match spec.action {
            written::Action::Allow => Action::Allow,
            written::Action::Deny => Action::Deny,
            written::Action::Audit => Action::Audit,
            written::Action::Custom => Action::Custom(Arc::default()),
        }
    }

    fn rule(&mut self, rule: &written::Rule) -> Rule {
        let root = self.at.clone();
        let mut read = Rule::default();
        for (index, from) in rule.from.iter().enumerate() {
            self.at = format!("{root}.from[{index}].source");
            read.from.push(self.source(&from.source));
        }
        for (index, to) in rule.to.iter().enumerate() {
            self.at = format!("{root}.to[{index}].operation");
            read.to.push(self.operation(&to.operation));
        }
        for (index, when) in rule.when.iter().enumerate() {
            self.at = format!("{root}.when[{index}]");
            read.when.extend(self.when(when));
        }
        read
    }

    fn source(&mut self, source: &written::Source) -> Vec<Condition> {
        let accounts = (&source.service_accounts, &source.not_service_accounts);
        let names_accounts = !accounts.0.is_empty() || !accounts.1.is_empty();
        let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
        if names_accounts && others.iter().any(|list| !list.is_empty()) {
            self.problem("serviceAccounts cannot be combined with principals or namespaces");
        }
        let fields: [Written<'_>; 7] = [
            ("principals", Field::Principal, (&source.principals, &source.not_principals), Reading::Principal),
            (
                "requestPrincipals",
                Field::RequestPrincipal,
                (&source.request_principals, &source.not_request_principals),
                Reading::Text,
            ),
            ("namespaces", Field::Namespace, (&source.namespaces, &source.not_namespaces), Reading::Text),
            ("serviceAccounts", Field::ServiceAccount, (accounts.0, accounts.1), Reading::Account),
            ("trustDomains", Field::TrustDomain, (&source.trust_domains, &source.not_trust_domains), Reading::Text),
            ("ipBlocks", Field::SourceIp, (&source.ip_blocks, &source.not_ip_blocks), Reading::Block),
            (
                "remoteIpBlocks",
                Field::RemoteIp,
                (&source.remote_ip_blocks, &source.not_remote_ip_blocks),
                Reading::Block,
            ),
        ];
        self.conditions(fields)
    }

    fn operation(&mut self, operation: &written::Operation) -> Vec<Condition> {
        let fields: [Written<'_>; 4] = [
            ("hosts", Field::Host, (&operation.hosts, &operation.not_hosts), Reading::Host),
            ("ports", Field::DestinationPort, (&operation.ports, &operation.not_ports), Reading::Port),
            ("methods", Field::Method, (&operation.methods, &operation.not_methods), Reading::Text),
            ("paths", Field::Path, (&operation.paths, &operation.not_paths), Reading::Path),
        ];
        self.conditions(fields)
    }

    /// A condition for each field that is there; at least one has to be.
    fn conditions<const N: usize>(&mut self, fields: [Written<'_>; N]) -> Vec<Condition> {
        let root = self.at.clone();
        let mut conditions = Vec::new();
        for (name, field, (values, not_values), reading) in fields {
            if values.is_empty() && not_values.is_empty() {
                continue;
            }
            self.at = format!("{root}.{name}");
            let values = self.tests(values, reading);
            let not_values = self.tests(not_values, reading);
            conditions.push(Condition { field, values, not_values });
        }
        self.at = root;
        if conditions.is_empty() {
            self.problem("it says nothing: name at least one field, or leave it out to mean anything");
        }
        conditions
    }

    fn tests(&mut self, values: &[String], reading: Reading) -> Vec<Test> {
        let mut tests = Vec::new();
        for value in values {
            match self.read_value(reading, value) {
                _ if value.is_empty() => self.problem("an empty value matches nothing"),
                Ok(read) => tests.extend(read),
                Err(what) => self.problem(&format!("{value:?}: {what}")),
            }
        }
        tests
    }

    fn when(&mut self, when: &written::When) -> Option<Condition> {
        let (field, reading) = match condition_key(&when.key) {
            Ok(known) => known,
            Err(why) => {
                self.problem(&why);
                return None;
            }
        };
        if when.values.is_empty() && when.not_values.is_empty() {
            self.problem("`values` or `notValues` is needed");
        }
        let values = self.tests(&when.values, reading);
        let not_values = self.tests(&when.not_values, reading);
        Some(Condition { field, values, not_values })
    }

    fn problem(&mut self, what: &str) {
        self.problems.push(Problem { at: self.at.clone(), what: what.to_owned() });
    }

    fn read_value(&self, reading: Reading, value: &str) -> Result<Vec<Test>, String> {
        let one = match reading {
            Reading::Principal => return self.principal(value),
            Reading::Path if PathTemplate::is_template(value) => Test::Template(PathTemplate::without_names(value)?),
            Reading::Text | Reading::Path => Test::Text(pattern(value)?),
            Reading::Host => Test::AnyCase(pattern(&value.to_ascii_lowercase())?),
            Reading::Block => Test::Block(Cidr::parse(value).ok_or("not an IP address or CIDR block")?),
            Reading::Port => {
                let port = value.parse::<u16>().ok().filter(|port| *port > 0);
                Test::Port(port.ok_or("not a port number (1 to 65535)")?)
            }
            Reading::Account if value.contains('*') => return Err("service accounts have no wildcards".to_owned()),
            Reading::Account if value.contains('/') => Test::Text(Pattern::Exact(value.to_owned())),
            Reading::Account => Test::Text(Pattern::Exact(format!("{}/{value}", self.namespace))),
        };
        Ok(vec![one])
    }

    /// An identity of five parts in one of our trust domains holds in all of them, with a wildcard at either end, too;
    /// `cluster.local` is Istio's word for ours.
    fn principal(&self, value: &str) -> Result<Vec<Test>, String> {
        let mut tests = vec![Test::Text(pattern(value)?)];
        let parts: Vec<&str> = value.split('/').collect();
        let [domain, _, _, _, _] = parts.as_slice() else { return Ok(tests) };
        let ours = || std::iter::once(&self.mesh.trust_domain).chain(&self.mesh.trust_domain_aliases);
        let named = |ours: &String| match domain.strip_prefix('*') {
            Some(end) => ours.ends_with(end),
            None => ours == domain,
        };
        if *domain == "*" || (*domain != LOCAL && !ours().any(named)) {
            return Ok(tests);
        }
        // Where ours is not called so, the word for it is not a name that a peer could have.
        if *domain == LOCAL && !ours().any(named) {
            tests.clear();
        }
        let rest = &value[domain.len()..];
        for domain in ours().filter(|ours| !named(ours)) {
            tests.push(Test::Text(pattern(&format!("{domain}{rest}"))?));
        }
        Ok(tests)
    }
}

/// `text`, `prefix*`, `*suffix`, or `*` for anything that is there.
fn pattern(value: &str) -> Result<Pattern, String> {
    let inner = match (value.strip_suffix('*'), value.strip_prefix('*')) {
        (Some(inner), _) | (None, Some(inner)) => inner,
        (None, None) => value,
    };
    if inner.contains('*') {
        return Err("`*` stands only at the beginning or at the end".to_owned());
    }
    Ok(Pattern::parse(value))
}

/// As Go's `strconv.ParseBool`, which reads the annotation in Istio.
fn read_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Istio's annotation: only report.
const DRY_RUN: &str = "istio.io/dry-run";
/// Ours: enforce on this share of the requests, in percent.
const ENFORCE_PERCENT: &str = "libmesh/enforce-percent";
/// Istio's pointer to the local trust domain.
const LOCAL: &str = "cluster.local";

fn condition_key(key: &str) -> Result<(Field, Reading), String> {
    if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
        return header_field(name);
    }
    let unknown = || format!("unknown key {key:?}");
    if let Some(path) = key.strip_prefix("request.auth.claims[").and_then(|rest| rest.strip_suffix(']')) {
        let path: Vec<String> = path.split("][").map(str::to_owned).collect();
        let is_whole = path.iter().all(|name| !name.is_empty());
        return if is_whole { Ok((Field::Claim(path), Reading::Text)) } else { Err(unknown()) };
    }
    Ok(match key {
        "source.ip" => (Field::SourceIp, Reading::Block),
        "remote.ip" => (Field::RemoteIp, Reading::Block),
        "source.namespace" => (Field::Namespace, Reading::Text),
        "source.principal" => (Field::Principal, Reading::Principal),
        "source.serviceAccount" => (Field::ServiceAccount, Reading::Account),
        "source.trustDomain" => (Field::TrustDomain, Reading::Text),
        "request.auth.principal" => (Field::RequestPrincipal, Reading::Text),
        "request.auth.audiences" => (Field::Audiences, Reading::Text),
        "request.auth.presenter" => (Field::Presenter, Reading::Text),
        "destination.ip" => (Field::DestinationIp, Reading::Block),
        "destination.port" => (Field::DestinationPort, Reading::Port),
        "connection.sni" => (Field::Sni, Reading::Text),
        _ => return Err(unknown()),
    })
}

/// A header, or what Envoy keeps among the headers; it has the host as `:authority` and finds it as `host`, too.
fn header_field(name: &str) -> Result<(Field, Reading), String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":authority" | "host" => (Field::Host, Reading::Host),
        ":method" => (Field::Method, Reading::Text),
        ":path" => (Field::Target, Reading::Text),
        ":scheme" => (Field::Scheme, Reading::Text),
        name => match HeaderName::try_from(name) {
            Ok(name) => (Field::Header(name), Reading::Text),
            Err(_) => return Err(format!("{name:?} is no name of a header")),
        },
    })
}
