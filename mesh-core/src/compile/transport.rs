//! How the endpoints of a cluster are reached: in plaintext, by mutual TLS, as servers of the web.
//!
//! A single endpoint may differ from its cluster, so each way that the document names is made.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::Context;
use crate::config::check::speaks;
use crate::config::cluster::{self as written, TlsMode};
use crate::config::document::Document;
use crate::endpoint::connect::{Protocol, Transport};
use crate::endpoint::tls::Tls;
use crate::identity::source::IdentitySource;
use crate::identity::spiffe_id::SpiffeId;
use crate::identity::web_pki::{self, WebRoots};

/// The ways to a cluster's endpoints.
pub(super) struct Transports {
    pub(super) plain: Transport,
    pub(super) plain_grpc: Transport,
    pub(super) mutual: Option<Transport>,
    pub(super) simple: Option<Transport>,
}

pub(super) fn transports(
    cluster: &written::Cluster,
    document: &Document,
    context: &Context<'_>,
) -> Result<Transports, String> {
    let plain = Transport {
        protocol: match cluster.protocol {
            // Nobody speaks HTTP there.
            written::Protocol::Auto | written::Protocol::Tcp => Protocol::Auto,
            written::Protocol::Http1 => Protocol::Http1,
            written::Protocol::Http2 => Protocol::Http2,
        },
        tls: None,
        key: format!("{:?} plaintext", cluster.protocol).into(),
        connect_timeout: cluster.connect_timeout.unwrap_or(document.defaults.connect_timeout).0,
    };
    let plain_grpc = Transport {
        protocol: if plain.protocol == Protocol::Auto { Protocol::Http2 } else { plain.protocol },
        ..plain.clone()
    };
    let mutual = context.identity.map(|identity| mutual(cluster, (&plain, identity), context)).transpose()?;
    let is_simple = speaks(cluster, document, TlsMode::Simple);
    let simple = is_simple.then(|| simple(cluster, &plain, context)).transpose()?;
    Ok(Transports { plain, plain_grpc, mutual, simple })
}

/// What all servers of the web in the cluster have to prove to be, if it is not each its own host.
pub(super) fn server_name(cluster: &written::Cluster) -> Result<Option<Arc<ServerName<'static>>>, String> {
    if cluster.tls.sni.is_none() && cluster.tls.mode != Some(TlsMode::Simple) {
        return Ok(None);
    }
    let named =
        |name: &str| ServerName::try_from(name.to_owned()).map_err(|_| format!("no certificate can name {name}"));
    cluster.server_name().map(|name| named(name).map(Arc::new)).transpose()
}

fn mutual(
    cluster: &written::Cluster,
    (plain, identity): (&Transport, &IdentitySource),
    context: &Context<'_>,
) -> Result<Transport, String> {
    let ids = cluster.tls.server_ids.iter().map(|id| SpiffeId::parse(id.as_str()).map_err(|error| error.to_string()));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let key = format!("{:?} mutual {ids:?}", cluster.protocol).into();
    let config = crate::identity::tls::client_config(identity, ids, alpn(cluster), Arc::clone(context.clock))
        .map_err(|error| error.to_string())?;
    Ok(Transport { tls: Some(Tls::Mutual(config)), key, ..plain.clone() })
}

/// The roots are part of the key: who is trusted no longer keeps no connection.
fn simple(cluster: &written::Cluster, plain: &Transport, context: &Context<'_>) -> Result<Transport, String> {
    let roots = match &cluster.tls.ca_file {
        Some(file) => WebRoots::from_file(&context.base.join(file)).map_err(|why| format!("tls.ca_file: {why}"))?,
        None => WebRoots::of_system().map_err(|why| format!("tls: {why}"))?,
    };
    let key = format!("{:?} simple {:?} {roots:?}", cluster.protocol, cluster.server_name()).into();
    let config =
        web_pki::client_config(&roots, alpn(cluster), Arc::clone(context.clock)).map_err(|error| error.to_string())?;
    Ok(Transport { tls: Some(Tls::Simple(config, None)), key, ..plain.clone() })
}

fn alpn(cluster: &written::Cluster) -> Vec<Vec<u8>> {
    let names: &[&[u8]] = match cluster.protocol {
        written::Protocol::Tcp => &[],
        written::Protocol::Auto => &[b"h2", b"http/1.1"],
        written::Protocol::Http1 => &[b"http/1.1"],
        written::Protocol::Http2 => &[b"h2"],
    };
    names.iter().map(|name| name.to_vec()).collect()
}
