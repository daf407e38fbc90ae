//! Clusters: defaults are filled in, live state is carried over.

use std::path::Path;
use std::sync::Arc;

use super::effects::Effects;
use super::transport::{self, Transports, transports};
use super::{Context, affinity, balancing, health, standing};
use crate::cluster::group::{Cluster, Settings, Source};
use crate::config::check::tls_mode;
use crate::config::cluster as written;
use crate::config::document::Document;
use crate::config::policy::RetryBudget;
use crate::endpoint::connect::KeepAlive;
use crate::endpoint::pool::PoolLimits;
use crate::policy::budget::BudgetConfig;
use crate::telemetry::{DestinationService, Peer};

/// Compiles one cluster; the same text as before gives the same cluster.
pub(super) fn compile(
    cluster: &written::Cluster,
    (document, context): (&Document, &Context<'_>),
    effects: &mut Effects,
) -> Result<Arc<Cluster>, String> {
    let now = context.clock.now();
    let previous = context.previous.and_then(|previous| previous.clusters.get(cluster.name.as_str()));
    let settings = settings(cluster, document, (context, previous.map(|previous| &previous.settings)))?;
    let endpoints = match &settings.source {
        Source::Inline(endpoints) => endpoints.clone(),
        Source::File(path) => match previous {
            Some(previous) if context.is_followed && previous.settings.source == settings.source => previous.written(),
            _ => endpoints_of(path, previous.map(|cluster| cluster.written()))?,
        },
        // What another source said before stays until this one speaks: make before break.
        Source::Dns(_) | Source::Registered(_) => previous.map(|cluster| cluster.written()).unwrap_or_default(),
    };
    if let Some(previous) = previous
        && previous.settings == settings
    {
        if !previous.settings.source.speaks_later() {
            let previous = Arc::clone(previous);
            effects.later(move || previous.set_endpoints(endpoints, now));
        }
        return Ok(Arc::clone(previous));
    }
    let cluster = Cluster::new(settings, previous.map(|cluster| &**cluster), now).map_err(|error| error.to_string())?;
    let cluster = Arc::new(cluster);
    let made = Arc::clone(&cluster);
    effects.later(move || {
        made.take_over();
        if !endpoints.is_empty() || !made.settings.source.speaks_later() {
            made.set_endpoints(endpoints, now);
        }
    });
    Ok(cluster)
}

/// Endpoints that are handed around.
pub type Endpoints = Vec<Arc<written::Endpoint>>;

/// Makes them so.
pub fn shared(endpoints: Vec<written::Endpoint>) -> Endpoints {
    endpoints.into_iter().map(Arc::new).collect()
}

/// Reads an endpoints file. Once a cluster has endpoints, a file that cannot be used keeps them.
pub fn endpoints_of(path: &Path, last_good: Option<Endpoints>) -> Result<Endpoints, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let parsed = text.and_then(|text| {
        crate::config::parse_endpoints(&text, &path.display().to_string())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    });
    match (parsed, last_good) {
        (Err(reason), Some(endpoints)) => {
            tracing::warn!(file = %path.display(), reason, "endpoints file refused; the last good one stays");
            Ok(endpoints)
        }
        (parsed, _) => parsed.map(shared),
    }
}

fn settings(
    cluster: &written::Cluster,
    document: &Document,
    (context, previous): (&Context<'_>, Option<&Settings>),
) -> Result<Settings, String> {
    let defaults = &document.defaults;
    let breaker = cluster
        .circuit_breaker
        .as_ref()
        .map_or_else(|| defaults.circuit_breaker.clone(), |set| set.over(&defaults.circuit_breaker));
    let outlier = cluster.outlier.as_ref().map_or_else(|| defaults.outlier.clone(), |set| set.over(&defaults.outlier));
    let limit = cluster
        .concurrency_limit
        .as_ref()
        .map_or_else(|| defaults.concurrency_limit.clone(), |set| set.over(&defaults.concurrency_limit));
    let budget = cluster
        .retry_budget
        .as_ref()
        .map_or_else(|| defaults.retry_budget.clone(), |set| set.over(&defaults.retry_budget));
    let name: Arc<str> = cluster.name.as_str().into();
    let Transports { plain, plain_grpc, mutual, simple } = transports(cluster, document, context)?;
    let source = source(cluster, context)?;
    let service = Arc::new(service(cluster, document));
    let workload = Peer {
        canonical_service: Arc::clone(&service.name),
        namespace: Arc::clone(&service.namespace),
        ..Peer::default()
    };
    Ok(Settings {
        service,
        speaks_http: cluster.protocol != written::Protocol::Tcp,
        workload: Arc::new(workload),
        tls: tls_mode(cluster, document),
        mutual,
        simple,
        server_name: transport::server_name(cluster)?,
        plain_grpc,
        plain,
        pool: pool_limits(cluster),
        balancing: balancing::balancing(cluster, document)?,
        subsets: balancing::subsets(cluster, document),
        subsetting: balancing::subsetting(cluster, previous),
        hashes_by_host: cluster.consistent_hashing.as_ref().is_some_and(|hashing| hashing.use_hostname_for_hashing),
        affinity: affinity::affinity(&cluster.hash_policy, cluster.session.as_ref())?,
        breaker: standing::breaker(&breaker)?,
        cluster_breaker: cluster
            .cluster_circuit_breaker
            .as_ref()
            .map(|set| standing::breaker(&set.over(&defaults.circuit_breaker)))
            .transpose()?,
        outlier: standing::outlier(&outlier),
        health_check: cluster.health_check.as_ref().map(|check| health::check(check, cluster)).transpose()?,
        concurrency: super::admission::terms(&limit)?,
        budget: budget_config(&budget)?,
        locality: document.node.locality.clone(),
        source,
        name,
    })
}

fn pool_limits(cluster: &written::Cluster) -> PoolLimits {
    let (pool, http2) = (&cluster.connection_pool, &cluster.http2);
    PoolLimits {
        max_idle: cluster.max_idle_connections as usize,
        idle_timeout: cluster.idle_timeout.0,
        max_connections: pool.max_connections as usize,
        max_pending: pool.max_pending as usize,
        max_requests: pool.max_requests_per_connection,
        max_age: pool.max_connection_age.0,
        max_streams: http2.max_streams,
        keepalive: KeepAlive {
            interval: http2.keepalive.interval.0,
            timeout: http2.keepalive.timeout.0,
            while_idle: http2.keepalive.while_idle,
        },
    }
}

fn source(cluster: &written::Cluster, context: &Context<'_>) -> Result<Source, String> {
    match (&cluster.endpoints, &cluster.endpoints_file, &cluster.dns, &cluster.endpoint_source) {
        (Some(endpoints), ..) => Ok(Source::Inline(shared(endpoints.clone()))),
        (_, Some(file), ..) => Ok(Source::File(context.base.join(file))),
        (_, _, Some(dns), _) => Ok(Source::Dns(Arc::new(dns.clone()))),
        (.., Some(name)) if context.sources.is_none_or(|sources| sources.contains(name.as_str())) => {
            Ok(Source::Registered(name.as_str().into()))
        }
        (.., Some(name)) => Err(format!("no endpoint source is registered as `{name}`")),
        (None, None, None, None) => Err("the cluster has no source of endpoints".to_owned()),
    }
}

pub(super) fn budget_config(written: &RetryBudget) -> Result<BudgetConfig, String> {
    BudgetConfig::new(written.percent.fraction(), written.min_per_second, written.window.0)
        .map_err(|error| error.to_string())
}

fn service(cluster: &written::Cluster, document: &Document) -> DestinationService {
    let name = cluster.service.name.as_deref().unwrap_or(cluster.name.as_str());
    let namespace = cluster.service.namespace.as_deref().unwrap_or(document.node.namespace_name());
    let host = cluster.service.host.clone().unwrap_or_else(|| format!("{name}.{namespace}.svc.cluster.local"));
    DestinationService { host: host.into(), name: name.into(), namespace: namespace.into() }
}
