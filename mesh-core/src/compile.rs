//! From what was written to what is in force.
//!
//! Decides: how sections refer to each other. Never: starts, connects or resolves anything.
//! Invariant: an error anywhere means no snapshot at all, and no live state touched; what did not change is
//! reused, live state and all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use self::effects::Effects;
use self::problems::Problems;
use crate::config::Parsed;
use crate::config::diagnostic::Diagnostic;
use crate::config::document::Document;
use crate::identity::source::IdentitySource;
use crate::snapshot::{Defaults, Explain, Snapshot};
use crate::time::Clock;

mod access;
mod admission;
mod affinity;
mod answer;
mod balancing;
mod cluster;
mod effects;
mod end_user;
mod ext_authz;
mod global_limit;
mod guard;
mod health;
mod limit;
mod path;
pub(crate) mod problems;
mod quota_limit;
mod retry;
mod route;
mod standing;
mod transport;

pub use cluster::{Endpoints, endpoints_of, shared};

/// What a compilation draws on besides the document.
pub struct Context<'a> {
    /// Names the document in diagnostics.
    pub origin: &'a str,
    /// What relative paths are relative to.
    pub base: &'a Path,
    /// Time, for certificates.
    pub clock: &'a Arc<dyn Clock>,
    /// The process's identity, issued or not.
    pub identity: Option<&'a IdentitySource>,
    /// In force so far; its live state is carried over.
    pub previous: Option<&'a Snapshot>,
    /// Names of the endpoint sources that the application registered; `None`: not known here, any will do.
    pub sources: Option<&'a BTreeSet<Arc<str>>>,
    /// Whether sources of endpoints are followed: then an endpoints file in use is read by its source alone,
    /// which does not take one that is being written.
    pub is_followed: bool,
    /// Of the new snapshot.
    pub revision: u64,
}

/// Compiles a document that was checked.
pub fn compile(parsed: Parsed, context: &Context<'_>) -> Result<Snapshot, Vec<Diagnostic>> {
    let Parsed { document, positions, .. } = parsed;
    let mut problems = Problems::default();
    let mut effects = Effects::default();
    let mut clusters = BTreeMap::new();
    for (index, written) in document.clusters.iter().enumerate() {
        let cluster =
            problems.note(format!("clusters[{index}]"), cluster::compile(written, (&document, context), &mut effects));
        clusters.extend(cluster.map(|cluster| (Arc::clone(&cluster.name), cluster)));
    }
    let mut guards = BTreeMap::new();
    for (index, written) in document.guards.iter().enumerate() {
        let guard =
            problems.note(format!("guards[{index}]"), guard::compile(written, (&document, context), &mut effects));
        guards.extend(guard.map(|guard| (Arc::clone(&guard.terms.name), guard)));
    }
    let routes = route::compile(&document, &clusters, context.previous, &mut problems);
    let listeners = access::compile(&document, context, &mut problems);
    let policy = problems.note("defaults.retry", retry::retry_policy(&document.defaults.retry));
    let (Some(routes), Some(policy), true) = (routes, policy, problems.is_empty()) else {
        return Err(problems.diagnostics(&positions));
    };
    effects.happen();
    let defaults = Defaults {
        timeout: document.defaults.timeout.nonzero(),
        attempt_timeout: document.defaults.attempt_timeout.nonzero(),
        timeout_header_max: document.defaults.timeout_header_max.nonzero(),
        deadline_margin: document.defaults.deadline_margin.0,
        retry: Arc::new(policy),
    };
    Ok(Snapshot {
        revision: context.revision,
        revision_text: context.revision.to_string().into(),
        routes,
        clusters,
        listeners,
        guards,
        defaults,
        explain: explain(&document),
        sample_percent: document.telemetry.tracing.sample_percent.0,
        document: Arc::new(document),
    })
}

/// Which finished calls are kept: by default as soon as somebody can ask for them.
fn explain(document: &Document) -> Explain {
    let telemetry = &document.telemetry;
    let written = telemetry.explain.clone().or_else(|| telemetry.admin.as_ref().map(|_| Default::default()));
    let Some(written) = written else { return Explain::default() };
    Explain { keep: written.keep as usize, sample_percent: written.sample_percent.0, is_by_header: written.by_header }
}

/// Who we are, as the other end and the metrics see it.
pub fn node(document: &Document, principal: Option<&str>) -> crate::telemetry::Peer {
    let node = &document.node;
    crate::telemetry::Peer {
        workload: node.workload_name().into(),
        namespace: node.namespace_name().into(),
        principal: principal.unwrap_or("unknown").into(),
        app: node.app_name().into(),
        version: node.version.as_deref().unwrap_or("unknown").into(),
        canonical_service: node.service_name().into(),
        canonical_revision: node.revision().into(),
        cluster: node.cluster_name().into(),
    }
}
