//! Identity, TLS and what is open to whom: nothing is asked for that cannot be kept.

use std::collections::HashMap;

use super::access::has_allow_policy;
use super::{Report, speaks, tls_mode};
use crate::config::access::Action;
use crate::config::cluster::{Cluster, Protocol, TlsMode};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::identity::Identity;
use crate::config::listener::ListenerTls;
use crate::config::value::{ServerNameText, SpiffeIdText, TextValue};

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    if let Some(identity) = &document.identity {
        check_identity(identity, report);
    }
    let clusters = Path::ROOT.field("clusters");
    for (index, cluster) in document.clusters.iter().enumerate() {
        check_cluster(cluster, document, &clusters.index(index), report);
    }
    check_listeners(document, report);
    check_admin(document, report);
    check_access(document, report);
    check_checks(document, report);
}

fn check_identity(identity: &Identity, report: &mut Report<'_>) {
    let path = Path::ROOT.field("identity");
    match (&identity.dev_ca, &identity.files) {
        (None, None) => report.error(&path, "the identity has no source: write `dev_ca` or `files`"),
        (Some(_), Some(_)) => report.error(&path.field("files"), "the identity has two sources, `dev_ca` and `files`"),
        _ => {}
    }
    if identity.dev_ca.as_ref().is_some_and(|ca| ca.ttl.is_zero()) {
        report.error(&path.field("dev_ca").field("ttl"), "a certificate is valid for longer than no time");
    }
    let own = identity.spiffe_id.trust_domain();
    if identity.spiffe_id.as_str().len() == "spiffe://".len() + own.len() {
        report.error(&path.field("spiffe_id"), "the SPIFFE ID of a workload has a path after the trust domain");
    }
    let bundles = path.field("trust_bundles");
    let mut seen = vec![own];
    for (index, bundle) in identity.trust_bundles.iter().enumerate() {
        let name = bundle.trust_domain.as_str();
        if seen.contains(&name) {
            let reason = if name == own { "is our own" } else { "is written twice" };
            report.error(&bundles.index(index).field("trust_domain"), format!("the trust domain `{name}` {reason}"));
        }
        seen.push(name);
    }
}

fn check_cluster(cluster: &Cluster, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    let tls = path.field("tls");
    let endpoints = path.field("endpoints");
    let own = cluster.endpoints.as_deref().unwrap_or_default();
    for (index, _) in
        own.iter().enumerate().filter(|(_, e)| e.tls == Some(TlsMode::Mutual) && document.identity.is_none())
    {
        report.error(&endpoints.index(index).field("tls"), NO_IDENTITY);
    }
    if cluster.tls.mode == Some(TlsMode::Mutual) && document.identity.is_none() {
        report.error(&tls.field("mode"), NO_IDENTITY);
    }
    let any_mutual = speaks(cluster, document, TlsMode::Mutual);
    if any_mutual && cluster.tls.server_ids.is_empty() && document.identity.is_some() {
        let hint = "name the SPIFFE IDs of the servers, or write `mode: plaintext`";
        report.error_with(&tls, "mutual TLS without `server_ids`: any workload could pose as this cluster", hint);
    }
    let any_simple = speaks(cluster, document, TlsMode::Simple);
    if !any_mutual && !cluster.tls.server_ids.is_empty() {
        let message = match any_simple {
            true => {
                "`server_ids` are not verified in `simple` TLS: such a server proves its host name, and no SPIFFE ID"
            }
            false => "`server_ids` are not verified in plaintext: mutual TLS needs an identity and the mode",
        };
        report.error(&tls.field("server_ids"), message);
    }
    if any_simple {
        check_server_names(cluster, document, path, report);
    } else {
        let of_simple = [("ca_file", cluster.tls.ca_file.is_some()), ("sni", cluster.tls.sni.is_some())];
        for (field, _) in of_simple.iter().filter(|(_, is_written)| *is_written) {
            report.error_with(
                &tls.field(field),
                format!("`{field}` is about servers of the web"),
                "write `mode: simple`",
            );
        }
    }
    check_server_ids(&cluster.tls.server_ids, document.identity.as_ref(), &tls.field("server_ids"), report);
}

/// A server of the web is verified by a name, which has to come from somewhere.
fn check_server_names(cluster: &Cluster, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    if cluster.server_name().is_some() {
        return;
    }
    if cluster.dns.is_some() {
        let message = "which host its certificate names, no SRV record can be trusted to say";
        report.error_with(&path.field("tls"), message, "write `sni`");
    }
    let (mode, endpoints) = (tls_mode(cluster, document), path.field("endpoints"));
    for (index, endpoint) in cluster.endpoints.iter().flatten().enumerate() {
        let host = endpoint.address.host();
        let is_named = endpoint.address.unix_path().is_none() && ServerNameText::parse(host).is_ok();
        if endpoint.tls.unwrap_or(mode) == TlsMode::Simple && !is_named {
            let message = format!("`{}` is no name that a certificate can carry", endpoint.address);
            report.error_with(&endpoints.index(index).field("address"), message, "write `tls.sni` in the cluster");
        }
    }
}

/// A server in a trust domain without roots can never be verified.
fn check_server_ids(ids: &[SpiffeIdText], identity: Option<&Identity>, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(identity) = identity else { return };
    for (index, id) in ids.iter().enumerate() {
        let domain = id.trust_domain();
        let is_known = domain == identity.spiffe_id.trust_domain()
            || identity.trust_bundles.iter().any(|bundle| bundle.trust_domain.as_str() == domain);
        if !is_known {
            let message = format!("the trust domain `{domain}` has no roots");
            report.error_with(&path.index(index), message, "add it to `identity.trust_bundles`");
        }
    }
}

fn check_listeners(document: &Document, report: &mut Report<'_>) {
    let listeners = Path::ROOT.field("listeners");
    let mut addresses: HashMap<&str, &str> = HashMap::new();
    for (index, listener) in document.listeners.iter().enumerate() {
        let path = listeners.index(index);
        if document.identity.is_none() && matches!(listener.tls, Some(ListenerTls::Strict | ListenerTls::Permissive)) {
            report.error(&path.field("tls"), NO_IDENTITY);
        }
        if listener.forward && document.routes.is_empty() {
            report.error(&path.field("forward"), "the listener forwards, but there is no route");
        }
        let Some(address) = listener.address.as_ref().filter(|address| !address.is_any_port()) else { continue };
        if let Some(other) = addresses.insert(address.as_str(), listener.name.as_str()) {
            report.error(&path.field("address"), format!("the listener `{other}` has this address already"));
        }
    }
}

fn check_admin(document: &Document, report: &mut Report<'_>) {
    let Some(admin) = &document.telemetry.admin else { return };
    let telemetry = Path::ROOT.field("telemetry");
    let path = telemetry.field("admin");
    if admin.address.unix_path().is_some() {
        report.error(&path.field("address"), "the admin page is served over TCP only");
    }
    if !admin.allow_remote && !admin.address.is_loopback() {
        let message = format!("the admin page would be open to other machines on `{}`", admin.address);
        report.error_with(&path.field("address"), message, "use 127.0.0.1 or write `allow_remote: true`");
    }
    let taken = document.listeners.iter().any(|l| l.address.as_ref() == Some(&admin.address));
    if taken && !admin.address.is_any_port() {
        report.error(&path.field("address"), "a listener has this address already");
    }
}

/// Rules that ask for a principal where nobody can prove one.
fn check_access(document: &Document, report: &mut Report<'_>) {
    let access = &document.policy.access;
    let policy = Path::ROOT.field("policy");
    let path = policy.field("access");
    let rules = path.field("rules");
    let names_anybody = access.rules.iter().any(|rule| rule.action == Action::Allow) || has_allow_policy(document);
    if access.default == Action::Deny && !names_anybody {
        report.warn(&path.field("default"), "nobody is let in: the default is deny and there is no allow rule");
    }
    for (index, rule) in access.rules.iter().enumerate().filter(|(_, rule)| !rule.principals.is_empty()) {
        let named = |name: &str| rule.listeners.as_ref().is_none_or(|names| names.iter().any(|n| n.as_str() == name));
        let mut concerned = document.listeners.iter().filter(|listener| named(listener.name.as_str())).peekable();
        let default = if document.identity.is_some() { ListenerTls::Strict } else { ListenerTls::Plaintext };
        if concerned.peek().is_some() && concerned.all(|l| l.tls.unwrap_or(default) == ListenerTls::Plaintext) {
            report.warn(&rules.index(index).field("principals"), "no caller has a principal on a plaintext listener");
        }
    }
}

/// ext_authz is a gRPC service, and gRPC needs HTTP/2; its plain form needs any HTTP.
fn check_checks(document: &Document, report: &mut Report<'_>) {
    let policy = Path::ROOT.field("policy");
    let checks = policy.field("checks");
    for (index, check) in document.policy.checks.iter().enumerate() {
        let Some(name) = &check.cluster else { continue };
        let cluster = document.clusters.iter().find(|cluster| cluster.name == *name);
        let is_plain = check.http.is_some();
        let (spoken, wanted) = match cluster.map(|cluster| cluster.protocol) {
            Some(Protocol::Http1) if !is_plain => ("HTTP/1.1", "gRPC"),
            Some(Protocol::Tcp) => ("TCP", if is_plain { "HTTP" } else { "gRPC" }),
            _ => continue,
        };
        let message = format!("the cluster `{name}` speaks {spoken} and a check needs {wanted}");
        report.error_with(&checks.index(index).field("cluster"), message, "write `protocol: http2` in the cluster");
    }
}

const NO_IDENTITY: &str = "mutual TLS needs an `identity`";
