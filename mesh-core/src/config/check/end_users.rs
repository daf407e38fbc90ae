//! End users: every issuer has keys in one place, and its tokens are never taken for another's.

use super::Report;
use super::limits::not_zero;
use super::tls_mode;
use crate::config::cluster::{Protocol, TlsMode};
use crate::config::diagnostic::Path;
use crate::config::document::Document;
use crate::config::end_user::{ClaimToHeader, EndUserIssuer, Jwks};
use crate::config::listener::ListenerProtocol;
use crate::config::rule::unchangeable;
use crate::config::value::Name;

pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let policy = Path::ROOT.field("policy");
    let entries = policy.field("end_users");
    let written = &document.policy.end_users;
    for (index, issuer) in written.iter().enumerate() {
        let entry = entries.index(index);
        check_jwks(&issuer.jwks, document, &entry.field("jwks"), report);
        check_places(issuer, &entry, report);
        check_headers(&issuer.claim_to_headers, &entry.field("claim_to_headers"), report);
        check_listeners(issuer, document, &entry, report);
        for (audience_index, audience) in issuer.audiences.iter().flatten().enumerate() {
            if audience.is_empty() {
                report.error(&entry.field("audiences").index(audience_index), "the audience is empty");
            }
        }
        if let Some(other) = written[..index].iter().find(|other| other.issuer == issuer.issuer && meet(other, issuer))
        {
            let message = format!("`{}` speaks for this issuer already, on the same listener", other.name);
            report.error_with(&entry.field("issuer"), message, "put the keys of both into one set");
        }
    }
}

fn check_jwks(jwks: &Jwks, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    let places =
        [("file", jwks.file.is_some()), ("inline", jwks.inline.is_some()), ("cluster", jwks.cluster.is_some())];
    let mut written = places.iter().filter(|(_, is_written)| *is_written).map(|(name, _)| *name);
    let Some(first) = written.next() else {
        return report.error(path, "the issuer has no keys: neither `file`, `inline` nor `cluster`");
    };
    for further in written {
        report.error(&path.field(further), format!("the keys are in both `{first}` and `{further}`"));
    }
    let of_clusters =
        [("path", jwks.path.is_some()), ("interval", jwks.interval.is_some()), ("timeout", jwks.timeout.is_some())];
    for (field, _) in of_clusters.iter().filter(|(_, is_written)| *is_written && jwks.cluster.is_none()) {
        report.error(&path.field(field), format!("`{field}` is about keys that a cluster is asked for"));
    }
    not_zero(jwks.interval(), &path.field("interval"), report);
    not_zero(jwks.timeout(), &path.field("timeout"), report);
    if jwks.path.as_ref().is_some_and(|path| !path.starts_with('/') || path.parse::<http::Uri>().is_err()) {
        report.error(&path.field("path"), "a path begins with `/` and holds no space");
    }
    if let Some(name) = &jwks.cluster {
        check_cluster(name, document, &path.field("cluster"), report);
    }
}

fn check_cluster(name: &Name, document: &Document, path: &Path<'_>, report: &mut Report<'_>) {
    let known: Vec<&str> = document.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    report.refer(path, ("cluster", name.as_str()), &known);
    let Some(cluster) = document.clusters.iter().find(|cluster| cluster.name == *name) else { return };
    if cluster.protocol == Protocol::Tcp {
        report.error(path, format!("the cluster `{name}` speaks TCP, and keys are asked for by HTTP"));
    }
    let mut addresses = cluster.endpoints.iter().flatten().map(|endpoint| &endpoint.address);
    let is_local = cluster.endpoints.is_some() && addresses.all(|address| address.is_loopback());
    if tls_mode(cluster, document) == TlsMode::Plaintext && !is_local {
        report.warn(path, "keys come in plaintext: whoever is on the way can replace them by his own");
    }
}

fn check_places(issuer: &EndUserIssuer, entry: &Path<'_>, report: &mut Report<'_>) {
    let headers = entry.field("from_headers");
    for (index, header) in issuer.from_headers.iter().flatten().enumerate() {
        if header.name.as_str() == "authorization" && header.prefix.is_empty() {
            let message = "the scheme would be taken for a part of the token: none is ever good";
            report.error_with(&headers.index(index), message, "write `prefix: \"Bearer \"`");
        }
        if header.name.as_str() == "cookie" {
            let message = "all cookies would be taken for the token";
            report.error_with(&headers.index(index), message, "name the cookie in `from_cookies`");
        }
    }
    let cookies = entry.field("from_cookies");
    for (index, name) in issuer.from_cookies.iter().enumerate() {
        // RFC 6265 4.1.1: a cookie is named as a header is.
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            report.error(&cookies.index(index), format!("`{name}` is no name of a cookie"));
        }
    }
}

fn check_headers(headers: &[ClaimToHeader], path: &Path<'_>, report: &mut Report<'_>) {
    for (index, output) in headers.iter().enumerate() {
        let entry = path.index(index);
        let header = entry.field("header");
        if let Some(reason) = unchangeable(output.header.as_str()) {
            report.error(&header, format!("no claim is written to `{}`: {reason}", output.header));
        }
        if headers[..index].iter().any(|other| other.header == output.header) {
            report.error(&header, format!("the header `{}` is written twice", output.header));
        }
    }
}

fn check_listeners(issuer: &EndUserIssuer, document: &Document, entry: &Path<'_>, report: &mut Report<'_>) {
    let names: Vec<&str> = document.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let list = entry.field("listeners");
    for (index, name) in issuer.listeners.iter().flatten().enumerate() {
        report.refer(&list.index(index), ("listener", name.as_str()), &names);
        let listener = document.listeners.iter().find(|listener| listener.name == *name);
        if listener.is_some_and(|listener| listener.protocol == ListenerProtocol::Tcp) {
            report.error(&list.index(index), "a connection carries no token");
        }
    }
}

fn meet(one: &EndUserIssuer, other: &EndUserIssuer) -> bool {
    match (&one.listeners, &other.listeners) {
        (Some(one), Some(other)) => one.iter().any(|name| other.contains(name)),
        _ => true,
    }
}
