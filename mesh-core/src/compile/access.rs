//! Listeners and their policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Context;
use super::ext_authz;
use super::limit;
use super::problems::Problems;
use super::route::{compile_header, compile_matches};
use crate::access::authorization::{self, MeshNames, Policies, Workload};
use crate::access::cache::CacheConfig;
use crate::access::check::{CheckConfig, FailureMode, RemoteCheck};
use crate::access::fact::Fact;
use crate::access::rbac::{Effect, HeaderCondition, Pattern, Rule, Rules};
use crate::config::access::{AccessRule, Action};
use crate::config::document::Document;
use crate::config::listener::{
    Listener, ListenerProtocol as WrittenProtocol, ListenerTls, LoadReports as WrittenReports,
};
use crate::config::policy::{Check, FailureMode as WrittenFailure};
use crate::config::value::{Name, TextPattern};
use crate::identity::spiffe_id::{SpiffeId, TrustDomain};
use crate::snapshot::{CheckPolicy, ListenerPolicy, ListenerProtocol, LoadReports, TlsMode};

pub(super) fn compile(
    document: &Document,
    context: &Context<'_>,
    problems: &mut Problems,
) -> BTreeMap<Arc<str>, Arc<ListenerPolicy>> {
    let mut checks = Vec::new();
    for (index, written) in document.policy.checks.iter().enumerate() {
        checks.extend(problems.note(format!("policy.checks[{index}]"), compile_check(written, document, context)));
    }
    let limits = limit::compile(document, context, problems);
    let authorization = compile_authorization(document, problems);
    let mut listeners = BTreeMap::new();
    for (index, listener) in document.listeners.iter().enumerate() {
        let name: Arc<str> = listener.name.as_str().into();
        let mine = document
            .policy
            .checks
            .iter()
            .zip(&checks)
            .filter(|(written, _)| is_for(written.listeners.as_deref(), &name));
        let intake = listener.concurrency.as_ref().map(super::admission::intake).transpose();
        let intake = problems.note(format!("listeners[{index}].concurrency"), intake);
        let policy = ListenerPolicy {
            address: listener.address.as_ref().map(|address| address.as_str().to_owned()),
            protocol: match listener.protocol {
                WrittenProtocol::Http => ListenerProtocol::Http,
                WrittenProtocol::Tcp => ListenerProtocol::Tcp,
            },
            tls: tls_mode(listener, document),
            load_reports: load_reports(listener, tls_mode(listener, document)),
            is_forwarding: listener.forward,
            intake: intake.flatten(),
            max_criticality: super::admission::criticality(listener.max_criticality),
            health: listener.health.clone().unwrap_or_default(),
            rules: compile_rules(document, problems),
            authorization: Arc::clone(&authorization),
            limits: limits
                .iter()
                .filter(|(listeners, _)| is_for(listeners.as_deref(), &name))
                .map(|(_, limit)| Arc::clone(limit))
                .collect(),
            checks: mine.map(|(_, check)| check.clone()).collect(),
            name: Arc::clone(&name),
        };
        listeners.insert(name, Arc::new(policy));
    }
    listeners
}

fn is_for(listeners: Option<&[Name]>, name: &str) -> bool {
    listeners.is_none_or(|listeners| listeners.iter().any(|listener| listener.as_str() == name))
}

/// An ingress answers for others: their reports pass, its own would be taken for theirs.
fn load_reports(listener: &Listener, tls: TlsMode) -> LoadReports {
    match listener.load_reports {
        Some(WrittenReports::Always) => LoadReports::Always,
        Some(WrittenReports::OnRequest) => LoadReports::OnRequest,
        Some(WrittenReports::Off) => LoadReports::Off,
        None if listener.forward => LoadReports::Off,
        None if tls == TlsMode::Plaintext => LoadReports::OnRequest,
        None => LoadReports::ToPeers,
    }
}

fn tls_mode(listener: &Listener, document: &Document) -> TlsMode {
    match listener.tls {
        Some(ListenerTls::Strict) => TlsMode::Strict,
        Some(ListenerTls::Permissive) => TlsMode::Permissive,
        Some(ListenerTls::Plaintext) => TlsMode::Plaintext,
        None if document.identity.is_some() => TlsMode::Strict,
        None => TlsMode::Plaintext,
    }
}

fn compile_rules(document: &Document, problems: &mut Problems) -> Rules {
    let access = &document.policy.access;
    let mut rules = Vec::new();
    for (index, written) in access.rules.iter().enumerate() {
        rules.extend(problems.note(format!("policy.access.rules[{index}]"), compile_rule(written)));
    }
    Rules::new(effect(access.default), rules)
}

/// Istio's policies that are this workload's own. A provider has to be a check of this document.
fn compile_authorization(document: &Document, problems: &mut Problems) -> Arc<Policies> {
    let written = &document.policy.authorization;
    let node = &document.node;
    let workload = Workload { namespace: node.namespace_name().to_owned(), labels: node.labels.clone() };
    let identity = document.identity.as_ref().and_then(|identity| SpiffeId::parse(identity.spiffe_id.as_str()).ok());
    let names = MeshNames {
        trust_domain: identity
            .map_or_else(|| "cluster.local".to_owned(), |id| TrustDomain::of(&id).as_str().to_owned()),
        trust_domain_aliases: written.trust_domain_aliases.clone(),
        root_namespace: written.root_namespace.clone(),
    };
    let path = "policy.authorization.policies";
    for (index, policy) in written.policies.iter().enumerate() {
        let Some(provider) = &policy.spec.provider else { continue };
        problems.note(format!("{path}[{index}].spec.provider.name"), provider_is_everywhere(&provider.name, document));
    }
    match authorization::read(&written.policies, &workload, &names) {
        Ok(policies) => Arc::new(policies),
        Err(found) => {
            for problem in found {
                problems.note(format!("{path}{}", problem.at), Err::<(), _>(problem.what));
            }
            Arc::default()
        }
    }
}

/// A policy holds for the whole process, so the check it demands must be one of every listener.
fn provider_is_everywhere(name: &str, document: &Document) -> Result<(), String> {
    let check = document.policy.checks.iter().find(|check| check.name.as_str() == name);
    let check = check.ok_or_else(|| format!("no check is called {name:?}"))?;
    let mut listeners = document.listeners.iter().map(|listener| listener.name.as_str());
    match listeners.find(|listener| !is_for(check.listeners.as_deref(), listener)) {
        None => Ok(()),
        Some(listener) => Err(format!(
            "check {name:?} is not asked on listener {listener:?}: name it in the check's `listeners`, or leave that out"
        )),
    }
}

fn compile_rule(written: &AccessRule) -> Result<Rule, String> {
    let headers = written.headers.iter().map(|header| {
        let matcher = compile_header(header)?;
        Ok(Box::new(move |headers: &http::HeaderMap| matcher.matches(headers)) as Box<dyn HeaderCondition>)
    });
    let names =
        |listeners: &Option<Vec<Name>>| listeners.iter().flatten().map(|name| name.as_str().to_owned()).collect();
    Ok(Rule {
        name: written.name.as_str().to_owned(),
        action: effect(written.action),
        listeners: names(&written.listeners),
        principals: patterns(&written.principals),
        not_principals: patterns(&written.not_principals),
        methods: written.methods.iter().map(|method| method.as_str().to_owned()).collect(),
        paths: patterns(&written.paths),
        hosts: written.hosts.iter().map(|host| Pattern::host(host.as_str())).collect(),
        headers: headers.collect::<Result<_, String>>()?,
    })
}

fn effect(action: Action) -> Effect {
    match action {
        Action::Allow => Effect::Allow,
        Action::Deny => Effect::Deny,
    }
}

fn patterns(written: &[TextPattern]) -> Vec<Pattern> {
    written.iter().map(|pattern| Pattern::parse(pattern.as_str())).collect()
}

/// A check that did not change keeps its cache.
fn compile_check(written: &Check, document: &Document, context: &Context<'_>) -> Result<CheckPolicy, String> {
    let before = context.previous.and_then(|previous| {
        let at = previous.document.policy.checks.iter().position(|check| check == written)?;
        let name = previous.document.policy.checks[at].name.as_str();
        let mut policies = previous.listeners.values().flat_map(|listener| &listener.checks);
        policies.find(|policy| policy.check.config().name == name).map(|policy| Arc::clone(&policy.check))
    });
    let check = match before {
        Some(check) => check,
        None => Arc::new(RemoteCheck::new(check_config(written)?)),
    };
    let matches = compile_matches(&written.matches).map_err(|reason| format!("match: {reason}"))?;
    let cluster = written.cluster.as_ref().map_or("", |name| name.as_str());
    if !cluster.is_empty() && !document.clusters.iter().any(|known| known.name.as_str() == cluster) {
        return Err(format!("unknown cluster {cluster:?}"));
    }
    Ok(CheckPolicy {
        check,
        matches,
        is_provider_only: written.provider_only,
        sampling: ext_authz::sampling(written),
        cluster: cluster.into(),
        retry: ext_authz::retry(&document.defaults.retry)?,
    })
}

fn check_config(written: &Check) -> Result<CheckConfig, String> {
    let cache = match &written.cache {
        Some(cache) => {
            let key = cache.key.iter().map(|fact| Fact::parse(&fact.to_string()).map_err(|unknown| unknown.0));
            let keyed = CacheConfig::keyed(key.collect::<Result<_, _>>()?, cache.ttl.0, cache.negative_ttl.0);
            CacheConfig { max_entries: cache.max_entries as usize, ..keyed }
        }
        // Without a key of ours, only the server's own hints make an answer reusable.
        None => CacheConfig::default(),
    };
    let origin = format!("http://{}", written.cluster.as_ref().unwrap_or(&written.name).as_str())
        .parse()
        .map_err(|error| format!("the cluster's name is no host: {error}"))?;
    Ok(CheckConfig {
        name: written.name.as_str().to_owned(),
        origin,
        timeout: written.timeout.0,
        failure: match written.failure {
            WrittenFailure::Open => FailureMode::Open,
            WrittenFailure::Closed => FailureMode::Closed,
        },
        status_on_error: written.status_on_error,
        cache,
        ..ext_authz::terms(written)?
    })
}
