//! What a document means as a whole: references, contradictions, rules that never apply.
//!
//! Decides: which well-formed documents are mistakes. Never: reads text or looks outside the document.
//! Invariant: every finding of a document is reported, not only the first.

mod access;
mod admission;
mod balancing;
mod dns;
mod end_users;
mod ext_authz;
mod global_limits;
mod hashing;
mod health;
mod limits;
mod names;
mod paths;
mod quotas;
mod retries;
mod routes;
mod shadow;
mod tcp;
mod trust;

use super::cluster::{Cluster, Endpoint, TlsMode};
use super::diagnostic::{Diagnostic, Path, Severity, did_you_mean};
use super::document::Document;
use super::parse::Positions;

/// Every mistake in a well-formed document.
pub fn document(document: &Document, positions: &Positions) -> Vec<Diagnostic> {
    let mut report = Report { positions, found: Vec::new() };
    names::check(document, &mut report);
    routes::check(document, &mut report);
    trust::check(document, &mut report);
    limits::check(document, &mut report);
    balancing::check(document, &mut report);
    hashing::check(document, &mut report);
    tcp::check(document, &mut report);
    end_users::check(document, &mut report);
    access::check(document, &mut report);
    paths::check(document, &mut report);
    global_limits::check(document, &mut report);
    quotas::check(document, &mut report);
    for (index, cluster) in document.clusters.iter().enumerate() {
        check_cluster(cluster, &Path::ROOT.field("clusters").index(index), &mut report);
        health::check(cluster, &Path::ROOT.field("clusters").index(index), &mut report);
    }
    report.found
}

/// Every mistake in a well-formed list of endpoints.
pub fn endpoints(endpoints: &[Endpoint], positions: &Positions) -> Vec<Diagnostic> {
    let mut report = Report { positions, found: Vec::new() };
    check_endpoints(endpoints, &Path::ROOT, &mut report);
    report.found
}

/// How the cluster's endpoints are reached unless one of them says otherwise.
pub fn tls_mode(cluster: &Cluster, document: &Document) -> TlsMode {
    let default = if document.identity.is_some() { TlsMode::Mutual } else { TlsMode::Plaintext };
    cluster.tls.mode.unwrap_or(default)
}

/// Whether some of the cluster's endpoints that the document names are reached so, or would be.
pub fn speaks(cluster: &Cluster, document: &Document, mode: TlsMode) -> bool {
    let own = cluster.endpoints.iter().flatten();
    tls_mode(cluster, document) == mode || own.into_iter().any(|endpoint| endpoint.tls == Some(mode))
}

/// The findings so far.
struct Report<'a> {
    positions: &'a Positions,
    found: Vec<Diagnostic>,
}

impl Report<'_> {
    fn error(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.found.push(self.positions.error(path, message));
    }

    fn error_with(&mut self, path: &Path<'_>, message: impl Into<String>, hint: &str) {
        self.found.push(self.positions.error(path, message).hinting(Some(hint.to_owned())));
    }

    fn warn(&mut self, path: &Path<'_>, message: impl Into<String>) {
        let found = self.positions.error(path, message);
        self.found.push(Diagnostic { severity: Severity::Warning, ..found });
    }

    fn warn_with(&mut self, path: &Path<'_>, message: impl Into<String>, hint: &str) {
        let found = self.positions.error(path, message).hinting(Some(hint.to_owned()));
        self.found.push(Diagnostic { severity: Severity::Warning, ..found });
    }

    /// A name that has to be one of `known`.
    fn refer(&mut self, path: &Path<'_>, (kind, name): (&str, &str), known: &[&str]) {
        if known.contains(&name) {
            return;
        }
        let expected =
            if known.is_empty() { format!("a {kind} of this file") } else { format!("one of {}", known.join(", ")) };
        let found = self.positions.error(path, format!("unknown {kind} `{name}`"));
        self.found.push(found.expecting(expected).hinting(did_you_mean(name, known.iter().copied())));
    }

    /// Where an alternative of a `match` stands, which may be written as a list or as one object.
    fn alternative<'p>(&self, matches: &'p Path<'p>, index: usize) -> Path<'p> {
        let entry = matches.index(index);
        if self.positions.has(&entry) { entry } else { *matches }
    }
}

fn check_cluster(cluster: &Cluster, path: &Path<'_>, report: &mut Report<'_>) {
    let sources = [
        ("endpoints", cluster.endpoints.is_some()),
        ("endpoints_file", cluster.endpoints_file.is_some()),
        ("dns", cluster.dns.is_some()),
        ("endpoint_source", cluster.endpoint_source.is_some()),
    ];
    let mut written = sources.iter().filter(|(_, is_written)| *is_written).map(|(name, _)| *name);
    let Some(first) = written.next() else {
        let message =
            "the cluster has no endpoints: neither `endpoints`, `endpoints_file`, `dns` nor `endpoint_source`";
        return report.error(path, message);
    };
    for further in written {
        report.error(&path.field(further), format!("the cluster has both `{first}` and `{further}`"));
    }
    match &cluster.endpoints {
        Some(endpoints) if endpoints.is_empty() => {
            report.warn(&path.field("endpoints"), "the cluster has no endpoint: every request to it fails");
        }
        Some(endpoints) => check_endpoints(endpoints, &path.field("endpoints"), report),
        None => {}
    }
    if let Some(dns) = &cluster.dns {
        dns::check(dns, &path.field("dns"), report);
    }
}

/// Several addresses of one endpoint are a race between sockets; names and files have none to offer.
fn check_additional(endpoint: &Endpoint, path: &Path<'_>, report: &mut Report<'_>) {
    if !endpoint.additional_addresses.is_empty() && endpoint.address.socket_addr().is_none() {
        report.error(path, "only an endpoint whose address is an IP address has further ones");
    }
    for (index, other) in endpoint.additional_addresses.iter().enumerate() {
        if other.socket_addr().is_none_or(|socket| socket.port() == 0) {
            report.error(&path.index(index), "a further address is an IP address with a port other than 0");
        }
    }
}

fn check_endpoints(endpoints: &[Endpoint], path: &Path<'_>, report: &mut Report<'_>) {
    let mut seen = std::collections::HashSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let entry = path.index(index);
        let address = entry.field("address");
        if endpoint.address.is_any_port() {
            report.error(&address, "an endpoint has a port other than 0");
        }
        if !seen.insert(&endpoint.address) {
            report.error(&address, format!("the endpoint `{}` is listed twice", endpoint.address));
        }
        check_additional(endpoint, &entry.field("additional_addresses"), report);
    }
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight.0 == 0) {
        report.error_with(path, "all endpoints have the weight 0", "give one of them a weight");
    }
}
