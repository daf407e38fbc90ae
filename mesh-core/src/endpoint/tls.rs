//! TLS towards an endpoint.
//!
//! Decides: whom the other end has to prove to be before anything is said to it. Never: lets a connection pass whose
//! other end proved nothing; what there is no proof for is not reached.
//! Invariant: a server of the web has no SPIFFE ID, whatever its certificate says.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Address;
use super::connect::{Io, Transport};
use crate::config::cluster::TlsMode;
use crate::error::{Error, ErrorKind};
use crate::identity::tls::{PeerIdentity, peer_identity, server_name};
use crate::identity::verifier::VerifyError;
use crate::identity::web_pki;

/// What the other end has to prove.
#[derive(Clone)]
pub enum Tls {
    /// One of the SPIFFE IDs that the settings demand; we prove ours.
    Mutual(Arc<ClientConfig>),
    /// This host name, by a certificate of the web; we prove nothing. `None`: there is no name to prove.
    Simple(Arc<ClientConfig>, Option<Arc<ServerName<'static>>>),
    /// Something that its cluster cannot verify.
    Unprovable(TlsMode),
}

impl Tls {
    /// The same, with these protocols offered by ALPN.
    pub fn offering(&self, alpn: Vec<Vec<u8>>) -> Self {
        let offer = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = alpn;
            Arc::new(config)
        };
        match self {
            Self::Mutual(config) => Self::Mutual(offer(config)),
            Self::Simple(config, name) => Self::Simple(offer(config), name.clone()),
            Self::Unprovable(mode) => Self::Unprovable(*mode),
        }
    }
}

impl Transport {
    /// The same way, to a server of the web that has to prove this name.
    pub fn towards(&self, name: Option<Arc<ServerName<'static>>>) -> Self {
        let tls = match &self.tls {
            Some(Tls::Simple(config, _)) => Some(Tls::Simple(Arc::clone(config), name)),
            other => other.clone(),
        };
        Self { tls, ..self.clone() }
    }

    /// The way to an endpoint that asks for what its cluster has no means to verify.
    pub fn without_proof(&self, mode: TlsMode) -> Self {
        Self { tls: Some(Tls::Unprovable(mode)), ..self.clone() }
    }
}

/// A stream whose other end has proven what was asked of it.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Box<dyn Io>>,
    /// Who that is; a server of the web is nobody.
    pub(super) peer: Option<PeerIdentity>,
    /// When its certificate ends.
    pub(super) not_after: Option<SystemTime>,
}

/// TLS over `stream`.
pub(super) async fn secure(address: &Address, tls: &Tls, stream: Box<dyn Io>) -> Result<Secured, Error> {
    match tls {
        Tls::Mutual(config) => {
            let connecting = TlsConnector::from(Arc::clone(config)).connect(server_name(), stream);
            let stream = connecting.await.map_err(|error| mutual_error(address, error))?;
            let peer = stream.get_ref().1.peer_certificates().and_then(peer_identity);
            let not_after = peer.as_ref().map(|peer| peer.not_after);
            Ok(Secured { stream, peer, not_after })
        }
        Tls::Simple(config, Some(name)) => {
            let connecting = TlsConnector::from(Arc::clone(config)).connect(ServerName::clone(name), stream);
            let stream = connecting.await.map_err(|error| simple_error(address, name, error))?;
            let not_after = stream.get_ref().1.peer_certificates().and_then(web_pki::not_after);
            Ok(Secured { stream, peer: None, not_after })
        }
        Tls::Simple(_, None) => {
            let message =
                format!("{address} has no host name that its certificate could carry: the cluster needs `tls.sni`");
            Err(Error::new(ErrorKind::Tls, message))
        }
        Tls::Unprovable(mode) => {
            let message = format!(
                "{address} is to be reached by `{}` TLS, for which its cluster, or the mesh, has no settings",
                mode.as_str()
            );
            Err(Error::new(ErrorKind::Tls, message))
        }
    }
}

/// A TLS failure, told apart by whether the peer's identity was the reason.
fn mutual_error(address: &Address, error: io::Error) -> Error {
    match VerifyError::find_in(&error) {
        Some(reason) => Error::new(ErrorKind::PeerIdentity, format!("{address}: {reason}")).with_source(error),
        None if has_hung_up(&error) => {
            let message = format!("{address} ended the TLS handshake; it may have refused our identity");
            Error::new(ErrorKind::Tls, message).with_source(error)
        }
        None => failed(address, error),
    }
}

/// The same, of a server of the web.
fn simple_error(address: &Address, name: &ServerName<'_>, error: io::Error) -> Error {
    match web_pki::refusal(&error, name) {
        Some(reason) => Error::new(ErrorKind::PeerIdentity, format!("{address}: {reason}")).with_source(error),
        None if has_hung_up(&error) => {
            let message = format!("{address} ended the TLS handshake; it may have nothing for {}", name.to_str());
            Error::new(ErrorKind::Tls, message).with_source(error)
        }
        None => failed(address, error),
    }
}

fn has_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn failed(address: &Address, error: io::Error) -> Error {
    Error::new(ErrorKind::Tls, format!("TLS handshake with {address} failed: {error}")).with_source(error)
}
