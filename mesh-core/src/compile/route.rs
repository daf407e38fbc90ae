//! Routes: rules refer to clusters, matchers are prepared.

use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use super::affinity;
use super::problems::Problems;
use super::retry::{self, Learned};
use crate::cluster::group::Cluster;
use crate::config::document::Document;
use crate::config::route::{self as written, Test};
use crate::config::rule::Mirror;
use crate::policy::mirror::Share;
use crate::route::host::HostPattern;
use crate::route::matcher::{HeaderMatcher, MethodMatcher, QueryMatcher, RequestMatch};
use crate::route::path::PathMatcher;
use crate::route::rewrite::Rewrite;
use crate::route::source::SourceMatcher;
use crate::route::split::Split;
use crate::route::table::{RouteTable, Rule, VirtualHost};
use crate::route::value::ValueMatcher;
use crate::snapshot::{self, Action, Snapshot, Target, To};

type Clusters = BTreeMap<Arc<str>, Arc<Cluster>>;

pub(super) fn compile(
    document: &Document,
    clusters: &Clusters,
    previous: Option<&Snapshot>,
    problems: &mut Problems,
) -> Option<RouteTable<Action>> {
    let learned = retry::learned(previous);
    let mut hosts = Vec::new();
    for (index, route) in document.routes.iter().enumerate() {
        let path = format!("routes[{index}]");
        let patterns = route.hosts.iter().enumerate();
        let patterns = patterns
            .filter_map(|(at, host)| problems.note(format!("{path}.hosts[{at}]"), HostPattern::parse(host.as_str())))
            .collect();
        let mut rules = Vec::new();
        for (at, rule) in route.rules.iter().enumerate() {
            let place = Place { path: format!("{path}.rules[{at}]"), name: rule_name(route, rule, at) };
            rules.extend(compile_rule(rule, (document, &learned), clusters, (&place, problems)));
        }
        hosts.push(VirtualHost { name: route.label().to_owned(), hosts: patterns, rules });
    }
    problems.note("routes", RouteTable::new(hosts))
}

struct Place {
    path: String,
    name: String,
}

/// A rule without a name is called by its route and position.
fn rule_name(route: &written::Route, rule: &written::Rule, at: usize) -> String {
    rule.name.as_ref().map_or_else(|| format!("{}/{at}", route.label()), |name| name.as_str().to_owned())
}

fn compile_rule(
    rule: &written::Rule,
    (document, learned): (&Document, &Learned),
    clusters: &Clusters,
    at: (&Place, &mut Problems),
) -> Option<Rule<Action>> {
    let (place, problems) = at;
    let matches = compile_matches(&rule.matches).map_err(|reason| format!("match: {reason}"));
    let matches = problems.note(&place.path, matches);
    let to = destination(rule, clusters, (place, problems));
    let rewrite = rewrite(rule, (place, problems));
    let request_headers = super::answer::header_changes(rule.request_headers.as_ref());
    let request_headers = problems.note(format!("{}.request_headers", place.path), request_headers);
    let response_headers = super::answer::header_changes(rule.response_headers.as_ref());
    let response_headers = problems.note(format!("{}.response_headers", place.path), response_headers);
    let defaults = &document.defaults;
    let retry = rule.retry.as_ref().map_or_else(|| defaults.retry.clone(), |written| written.over(&defaults.retry));
    let retry = problems.note(format!("{}.retry", place.path), retry::retry_policy(&retry));
    let hedge = retry::hedging(rule, document, learned.get(place.name.as_str()));
    let hedge = problems.note(format!("{}.hedge", place.path), hedge);
    let mirrors = mirrors(rule, clusters, (place, problems));
    let affinity = affinity::affinity(&rule.hash_policy, rule.session.as_ref());
    let affinity = problems.note(&place.path, affinity);
    let action = Action {
        name: place.name.as_str().into(),
        to: to?,
        rewrite: rewrite?,
        request_headers: request_headers?.unwrap_or_default(),
        response_headers: response_headers?.map(Arc::new),
        mirrors: mirrors?.into(),
        fault: rule.fault.as_ref().map(super::answer::fault),
        timeout: rule.timeout.unwrap_or(defaults.timeout).nonzero(),
        attempt_timeout: rule.attempt_timeout.unwrap_or(defaults.attempt_timeout).nonzero(),
        timeout_header_max: rule.timeout_header_max.unwrap_or(defaults.timeout_header_max).nonzero(),
        retry: Arc::new(retry?),
        hedge: hedge?,
        affinity: affinity?,
    };
    Some(Rule { name: place.name.clone(), matches: matches?, action })
}

fn mirrors(rule: &written::Rule, clusters: &Clusters, at: (&Place, &mut Problems)) -> Option<Vec<snapshot::Mirror>> {
    let (place, problems) = at;
    let mirrors = rule.mirror.iter().map(|written| compile_mirror(written, clusters));
    problems.note(format!("{}.mirror", place.path), mirrors.collect::<Result<_, _>>())
}

fn rewrite(rule: &written::Rule, at: (&Place, &mut Problems)) -> Option<Option<Rewrite>> {
    let (place, problems) = at;
    problems.note(format!("{}.rewrite", place.path), rule.rewrite.as_ref().map(compile_rewrite).transpose())
}

fn compile_mirror(written: &Mirror, clusters: &Clusters) -> Result<snapshot::Mirror, String> {
    let cluster = clusters.get(written.cluster.as_str());
    let cluster = cluster.ok_or_else(|| format!("unknown cluster {:?}", written.cluster.as_str()))?;
    Ok(snapshot::Mirror { cluster: Arc::clone(cluster), share: Share(written.percent.fraction()) })
}

fn compile_rewrite(written: &written::Rewrite) -> Result<Rewrite, String> {
    let rewrite = Rewrite::new(written.host.as_deref(), written.prefix.as_deref())?;
    match &written.template {
        Some(template) => rewrite.with_template(&template.to_string()),
        None => Ok(rewrite),
    }
}

/// The backends of a rule, or the answer it gives itself.
fn destination(rule: &written::Rule, clusters: &Clusters, at: (&Place, &mut Problems)) -> Option<To> {
    let (place, problems) = at;
    if let Some(answer) = super::answer::answer(rule) {
        return problems.note(&place.path, answer).map(To::Answer);
    }
    let backends = rule.backends.iter().map(|backend| {
        let cluster = clusters
            .get(backend.cluster.as_str())
            .ok_or_else(|| format!("unknown cluster {:?}", backend.cluster.as_str()))?;
        let subset = (!backend.subset.is_empty()).then(|| cluster.settings.subsets.number(&backend.subset));
        let subset = subset.map(|subset| subset.ok_or("the subset is not known to its cluster")).transpose()?;
        let seed = seed(backend);
        Ok::<_, String>((backend.weight.0, Target { cluster: Arc::clone(cluster), subset, seed }))
    });
    let backends = problems.note(format!("{}.backends", place.path), backends.collect::<Result<Vec<_>, _>>())?;
    let split = problems.note(format!("{}.backends", place.path), Split::new(backends))?;
    Some(To::Backends { split, is_sticky: rule.sticky })
}

/// Of its name and its labels, which no one of them can hold together with what separates them.
fn seed(backend: &written::Backend) -> u64 {
    let labels = backend.subset.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let parts = std::iter::once(backend.cluster.as_str()).chain(labels);
    xxh64(parts.collect::<Vec<_>>().join("\0").as_bytes(), 0)
}

/// Alternatives of one rule; none: everything matches.
pub(super) fn compile_matches(written: &written::Matches) -> Result<Vec<RequestMatch>, String> {
    written.0.iter().map(compile_match).collect()
}

fn compile_match(written: &written::RequestMatch) -> Result<RequestMatch, String> {
    let methods: Vec<&str> = written.methods.iter().map(|method| method.as_str()).collect();
    Ok(RequestMatch {
        path: written.path.as_ref().and_then(written::PathMatch::test).map(compile_path).transpose()?,
        methods: MethodMatcher::new(&methods)?,
        headers: written.headers.iter().map(compile_header).collect::<Result<_, _>>()?,
        query: written.query.iter().map(compile_query).collect::<Result<_, _>>()?,
        source: written.source.as_ref().map(compile_source).transpose()?,
    })
}

fn compile_path(test: Test<'_>) -> Result<PathMatcher, String> {
    match test {
        Test::Exact(path) => PathMatcher::exact(path),
        Test::SegmentPrefix(path) => PathMatcher::prefix(path),
        Test::Prefix(path) => PathMatcher::raw_prefix(path),
        Test::Regex(regex) => PathMatcher::regex(regex),
        Test::Template(template) => PathMatcher::template(template),
        other => Err(format!("{other:?} does not apply to a path")),
    }
}

fn compile_source(written: &written::SourceMatch) -> Result<SourceMatcher, String> {
    let principals = written.principals.iter().map(|pattern| ValueMatcher::pattern(pattern.as_str()));
    let namespaces = written.namespaces.iter().map(|namespace| namespace.as_str().into());
    Ok(SourceMatcher::new(principals.collect::<Result<_, _>>()?, namespaces.collect()))
}

pub(super) fn compile_header(written: &written::HeaderMatch) -> Result<HeaderMatcher, String> {
    let test =
        written.test().ok_or("a header condition needs one of exact, prefix, suffix, contains, regex, present")?;
    Ok(HeaderMatcher::new(written.name.as_str(), compile_value(test)?)?.inverted(written.invert))
}

pub(super) fn compile_query(written: &written::QueryMatch) -> Result<QueryMatcher, String> {
    let test = written.test().ok_or("a query condition needs one of exact, regex, present")?;
    QueryMatcher::new(&written.name, compile_value(test)?)
}

fn compile_value(test: Test<'_>) -> Result<ValueMatcher, String> {
    Ok(match test {
        Test::Exact(text) => ValueMatcher::exact(text),
        Test::SegmentPrefix(text) | Test::Prefix(text) => ValueMatcher::prefix(text),
        Test::Suffix(text) => ValueMatcher::suffix(text),
        Test::Contains(text) => ValueMatcher::contains(text),
        Test::Regex(text) => ValueMatcher::regex(text)?,
        Test::Present(is_present) => ValueMatcher::Present(is_present),
        Test::Template(_) => return Err("a template is for paths".to_owned()),
    })
}
