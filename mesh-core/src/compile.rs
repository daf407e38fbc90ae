//! From what was written to what is in force.
//!
//! Decides: how sections refer to each other. Never: starts, connects or resolves anything.
//! Invariant: an error anywhere means no snapshot at all; what did not change is reused, live state and
//! all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::Parsed;
use crate::config::diagnostic::Diagnostic;
use crate::config::document::Document;
use crate::identity::source::IdentitySource;
use crate::snapshot::Snapshot;
use crate::time::Clock;

mod access;
mod cluster;
mod route;

pub use cluster::endpoints_of;

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
    /// Of the new snapshot.
    pub revision: u64,
}

/// Compiles a document that was checked.
pub fn compile(parsed: Parsed, context: &Context<'_>) -> Result<Snapshot, Vec<Diagnostic>> {
    let Parsed { document, positions, .. } = parsed;
    let mut problems = Problems { found: Vec::new() };
    let mut clusters = BTreeMap::new();
    for (index, written) in document.clusters.iter().enumerate() {
        match cluster::compile(written, &document, context) {
            Ok(cluster) => drop(clusters.insert(Arc::clone(&cluster.name), cluster)),
            Err(message) => problems.found.push((format!("clusters[{index}]"), message)),
        }
    }
    let routes = route::compile(&document, &clusters, &mut problems);
    let listeners = access::compile(&document, context, &mut problems);
    if !problems.found.is_empty() {
        return Err(problems.found.iter().map(|(path, message)| positions.diagnostic(path, message.as_str())).collect());
    }
    let Some(routes) = routes else { return Err(Vec::new()) };
    Ok(Snapshot {
        revision: context.revision,
        revision_text: context.revision.to_string().into(),
        routes,
        clusters,
        listeners,
        sample_percent: document.telemetry.tracing.sample_percent.0,
        document: Arc::new(document),
    })
}

/// What could not be compiled: field path and reason.
struct Problems {
    found: Vec<(String, String)>,
}

impl Problems {
    fn note<T>(&mut self, path: impl Into<String>, result: Result<T, impl ToString>) -> Option<T> {
        result.map_err(|reason| self.found.push((path.into(), reason.to_string()))).ok()
    }
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
