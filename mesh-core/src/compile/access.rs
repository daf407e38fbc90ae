//! Listeners and their policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::problems::Problems;
use super::route::{compile_header, compile_matches};
use super::{Context, end_user, ext_authz, global_limit, limit, quota_limit};
use crate::access::authorization::{self, MeshNames, Policies, Workload};
use crate::access::cache::CacheConfig;
use crate::access::check::{CheckConfig, FailureMode, RemoteCheck};
use crate::access::expression::Expression;
use crate::access::fact::Fact;
use crate::access::jwt::EndUsers;
use crate::access::rbac::{Effect, HeaderCondition, Pattern, Rule, Rules};
use crate::access::rollout::Rollout;
use crate::config::access::{AccessRule, Action};
use crate::config::check_cache::CheckCache;
use crate::config::document::Document;
use crate::config::listener::{
    Listener, ListenerProtocol as WrittenProtocol, ListenerTls, LoadReports as WrittenReports,
};
use crate::config::policy::{CacheAttribute, Check, FailureMode as WrittenFailure};
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
    let issuers = end_user::compile(document, context, problems);
    let quota_limits = quota_limit::compile(document, context, problems);
    let global_limits = global_limit::compile(document, context, problems);
    let authorization = compile_authorization(document, problems);
    let conditions = compile_conditions(document, problems);
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
        let paths = problems.note(format!("listeners[{index}]"), super::path::terms(listener));
        let policy = ListenerPolicy {
            paths: paths.unwrap_or_default(),
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
            end_users: EndUsers::new(chosen(&issuers, &name)),
            rules: compile_rules((document, listener), &conditions, problems),
            authorization: Arc::clone(&authorization),
            limits: chosen(&limits, &name),
            quota_limits: chosen(&quota_limits, &name),
            global_limits: global_limits
                .iter()
                .filter(|(listeners, _)| is_for(listeners.as_deref(), &name))
                .map(|(_, limit)| limit.clone())
                .collect(),
            checks: mine.map(|(_, check)| check.clone()).collect(),
            name: Arc::clone(&name),
        };
        listeners.insert(name, Arc::new(policy));
    }
    listeners
}

/// Those that name the listener, or all.
fn chosen<T>(all: &[(Option<Vec<Name>>, Arc<T>)], name: &str) -> Vec<Arc<T>> {
    let mine = all.iter().filter(|(listeners, _)| is_for(listeners.as_deref(), name));
    mine.map(|(_, one)| Arc::clone(one)).collect()
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

/// The conditions of the rules, in their order; every listener has the same.
fn compile_conditions(document: &Document, problems: &mut Problems) -> Vec<Option<Arc<Expression>>> {
    let rules = document.policy.access.rules.iter().enumerate();
    let compiled = rules.map(|(index, rule)| {
        let condition = rule.condition.as_deref().map(Expression::read).transpose();
        problems.note(format!("policy.access.rules[{index}].condition"), condition).flatten().map(Arc::new)
    });
    compiled.collect()
}

fn compile_rules(
    (document, listener): (&Document, &Listener),
    conditions: &[Option<Arc<Expression>>],
    problems: &mut Problems,
) -> Rules {
    let access = &document.policy.access;
    let mut rules = Vec::new();
    for (index, written) in access.rules.iter().enumerate() {
        let rule = problems.note(format!("policy.access.rules[{index}]"), compile_rule(written));
        rules.extend(rule.map(|rule| Rule { condition: conditions[index].clone(), ..rule }));
    }
    let is_closed = access.default == Action::Deny || listener.access_default == Some(Action::Deny);
    Rules::new(if is_closed { Effect::Deny } else { Effect::Allow }, rules)
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
    let is_deny = written.action == Action::Deny;
    let headers = written.headers.iter().map(|header| {
        let matcher = compile_header(header)?;
        let name = HeaderName::from_bytes(header.name.as_str().as_bytes()).map_err(|error| error.to_string())?;
        let meets = move |headers: &HeaderMap| {
            matcher.matches(headers) || (is_deny && any_line(&name, headers, |one| matcher.matches(one)))
        };
        Ok(Box::new(meets) as Box<dyn HeaderCondition>)
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
        condition: None,
        rollout: if written.dry_run { Rollout::DRY_RUN } else { Rollout::share(written.enforce_percent.fraction()) },
    })
}

/// Whether one of several values of a header, alone, does: a deny is not dodged by a value beside the one it names.
fn any_line(name: &HeaderName, headers: &HeaderMap, does: impl Fn(&HeaderMap) -> bool) -> bool {
    let lines = headers.get_all(name);
    let alone = |line: &HeaderValue| HeaderMap::from_iter([(name.clone(), line.clone())]);
    lines.iter().nth(1).is_some() && lines.iter().any(|line| does(&alone(line)))
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

/// A check that did not change, asked of a cluster that did not, keeps its cache.
fn compile_check(written: &Check, document: &Document, context: &Context<'_>) -> Result<CheckPolicy, String> {
    let before = context.previous.and_then(|previous| {
        let at = previous.document.policy.checks.iter().position(|check| check == written)?;
        let asked = |document: &Document| {
            let mut clusters = document.clusters.iter();
            clusters.find(|cluster| Some(&cluster.name) == written.cluster.as_ref()).cloned()
        };
        if asked(&previous.document) != asked(document) {
            return None;
        }
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
    // Without a key of ours, only the server's own hints make an answer reusable.
    let cache = written.cache.as_ref().map_or_else(|| Ok(CacheConfig::default()), cache_config)?;
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

/// What the operator wrote is not capped by a default.
fn cache_config(written: &CheckCache) -> Result<CacheConfig, String> {
    let fact = |attribute: &CacheAttribute| Fact::parse(&attribute.to_string()).map_err(|unknown| unknown.to_string());
    let key = written.key.as_ref().map(|key| key.iter().map(fact).collect::<Result<_, _>>()).transpose()?;
    let (ttl, negative_ttl, defaults) = (written.ttl.0, written.negative_ttl.0, CacheConfig::default());
    Ok(CacheConfig {
        key,
        ttl,
        negative_ttl,
        max_ttl: written.max_ttl.map_or(defaults.max_ttl.max(ttl), |cap| cap.0),
        max_negative_ttl: written.max_negative_ttl.map_or(defaults.max_negative_ttl.max(negative_ttl), |cap| cap.0),
        max_entries: written.max_entries as usize,
        max_bytes: written.max_bytes as usize,
        refresh_ahead: written.refresh_ahead.map(|share| share.fraction()),
        stale_if_error: !written.grace.0.is_zero(),
        grace: written.grace.0,
        cache_header_changes: written.header_changes,
        ..defaults
    })
}
