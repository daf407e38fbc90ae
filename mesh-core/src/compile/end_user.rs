//! Issuers of end users' tokens: keys whose origin did not change stay, with what they have verified.

use std::sync::Arc;

use http::HeaderName;

use super::Context;
use super::problems::Problems;
use crate::access::jwt::{ClaimHeader, Issuer, KeySet, KeySource, Location, Origin, Terms};
use crate::config::check::tls_mode;
use crate::config::cluster::TlsMode;
use crate::config::document::Document;
use crate::config::end_user::{ClaimToHeader, EndUserIssuer as Written, Jwks, TokenHeader};
use crate::config::value::{AddressText, Name};

/// Each issuer with the listeners it is for; `None`: all.
pub(super) fn compile(
    document: &Document,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Vec<(Option<Vec<Name>>, Arc<Issuer>)> {
    let mut issuers = Vec::new();
    for (index, written) in document.policy.end_users.iter().enumerate() {
        let path = format!("policy.end_users[{index}]");
        let keys = problems.note(format!("{path}.jwks"), keys(written, document, context));
        let Some(keys) = keys else { continue };
        let issuer = problems.note(path, issuer(written, keys));
        issuers.extend(issuer.map(|issuer| (written.listeners.clone(), Arc::new(issuer))));
    }
    issuers
}

fn issuer(written: &Written, keys: Arc<KeySource>) -> Result<Issuer, String> {
    Ok(Issuer {
        name: written.name.as_str().into(),
        terms: Terms {
            issuer: written.issuer.clone(),
            audiences: written.audiences.clone().unwrap_or_default(),
            clock_skew: written.clock_skew.0,
            requires_expiry: written.require_expiration,
        },
        locations: locations(written)?,
        is_required: written.required,
        forwards_token: written.forward_original_token,
        claim_headers: written.claim_to_headers.iter().map(claim_header).collect::<Result<_, _>>()?,
        keys,
    })
}

fn locations(written: &Written) -> Result<Vec<Location>, String> {
    let in_header = |header: &TokenHeader| {
        // In one case: it is met in any, and one place written in two ways must not hold two tokens.
        let prefix = header.prefix.to_ascii_lowercase();
        Ok(Location::Header { name: header_name(header.name.as_str())?, prefix })
    };
    let headers = written.from_headers.iter().flatten().map(in_header);
    let mut locations = headers.collect::<Result<Vec<_>, String>>()?;
    locations.extend(written.from_params.iter().cloned().map(Location::Query));
    locations.extend(written.from_cookies.iter().cloned().map(Location::Cookie));
    if locations.is_empty() {
        locations.push(Location::bearer());
    }
    Ok(locations)
}

fn claim_header(written: &ClaimToHeader) -> Result<ClaimHeader, String> {
    Ok(ClaimHeader { claim: written.claim.0.clone(), header: header_name(written.header.as_str())? })
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name} is no header name"))
}

fn keys(written: &Written, document: &Document, context: &Context<'_>) -> Result<Arc<KeySource>, String> {
    let origin = origin(&written.jwks, document, context)?;
    if let Some(before) = kept(written, &origin, context) {
        return Ok(before);
    }
    let source = KeySource::new(origin);
    match source.origin() {
        Origin::Inline(text) => source.publish(KeySet::read(text.as_bytes()).map_err(|why| format!("inline: {why}"))?),
        Origin::File(path) => {
            let cannot = |why: String| format!("file: {}: {why}", path.display());
            let text = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
            source.publish(KeySet::read(&text).map_err(cannot)?);
        }
        // Background work asks for them.
        Origin::Remote { .. } => {}
    }
    Ok(Arc::new(source))
}

fn origin(written: &Jwks, document: &Document, context: &Context<'_>) -> Result<Origin, String> {
    match (&written.file, &written.inline, &written.cluster) {
        (Some(file), ..) => Ok(Origin::File(context.base.join(file))),
        (_, Some(text), _) => Ok(Origin::Inline(text.clone())),
        (.., Some(cluster)) => {
            let uri = format!("http://{}{}", authority(cluster, document), written.path());
            Ok(Origin::Remote {
                cluster: cluster.as_str().into(),
                uri: uri.parse().map_err(|error| format!("{uri} cannot be asked for: {error}"))?,
                interval: written.interval().0,
                timeout: written.timeout().0,
            })
        }
        (None, None, None) => Err("neither file, inline nor cluster".to_owned()),
    }
}

/// Whom the issuer takes itself for: a server of the web has its own name, others the cluster's.
fn authority(name: &Name, document: &Document) -> String {
    let cluster = document.clusters.iter().find(|cluster| cluster.name == *name);
    let of_the_web = cluster.filter(|cluster| tls_mode(cluster, document) == TlsMode::Simple);
    let named = of_the_web.and_then(|cluster| {
        let first = cluster.endpoints.iter().flatten().next().map(|endpoint| &endpoint.address);
        let first = first.filter(|address| address.unix_path().is_none());
        let host = cluster.server_name().or_else(|| first.map(AddressText::host))?.trim_end_matches('.');
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = cluster.dns.as_ref().and_then(|dns| dns.port).or_else(|| first.map(AddressText::port));
        Some(port.filter(|port| *port != HTTPS).map_or(host.clone(), |port| format!("{host}:{port}")))
    });
    named.unwrap_or_else(|| name.to_string())
}

fn kept(written: &Written, origin: &Origin, context: &Context<'_>) -> Option<Arc<KeySource>> {
    let listeners = context.previous?.listeners.values();
    let mut issuers = listeners.flat_map(|listener| listener.end_users.issuers());
    let same = |issuer: &&Arc<Issuer>| *issuer.name == *written.name.as_str() && issuer.keys.origin() == origin;
    issuers.find(same).map(|issuer| Arc::clone(&issuer.keys))
}

/// What a `Host` need not say (RFC 9110 4.2.2).
const HTTPS: u16 = 443;
