//! Who the clients of an application's own server are.
//!
//! Decides: whether a chain that was handed over names somebody, by the same rules as our own handshakes. Never: takes
//! another's word for it. Invariant: what was found holds for a minute at most, and never beyond the certificate or
//! the bundles it was found with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::Inbound;
use crate::identity::tls::{PeerIdentity, peer_identity};
use crate::identity::verifier::{PeerRole, VerifyError, verify_chain};

/// Chains that were judged lately: a server hands the same one over with each request of a connection.
#[derive(Default)]
pub(super) struct KnownPeers(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Identities published when these were judged: with another one came other bundles.
    rotations: u64,
    judged: HashMap<Box<[u8]>, Judged>,
}

#[derive(Clone)]
struct Judged {
    at: SystemTime,
    peer: Option<Arc<PeerIdentity>>,
}

impl KnownPeers {
    /// Whom the chain names. `None`: nobody the mesh knows.
    pub(super) fn find(
        &self,
        inbound: &Inbound,
        chain: &[&[u8]],
        server_name: Option<&str>,
    ) -> Option<Arc<PeerIdentity>> {
        if chain.is_empty() {
            return None;
        }
        let rotations = inbound.core.identity.as_ref().map_or(0, |identity| identity.rotations());
        let (key, wall) = (key(chain, server_name), inbound.core.clock.wall());
        if let Some(known) = self.recall(&key, rotations, wall) {
            return known.peer;
        }
        let peer = match judge(inbound, chain, wall) {
            Ok(peer) => peer.map(|peer| Arc::new(PeerIdentity { server_name: server_name.map(Into::into), ..peer })),
            Err(error) => {
                let reason = error.as_str();
                tracing::warn!(listener = %inbound.name, reason, %error, "a client's certificate proves nothing");
                None
            }
        };
        self.note(key, rotations, Judged { at: wall, peer: peer.clone() });
        peer
    }

    fn recall(&self, key: &[u8], rotations: u64, wall: SystemTime) -> Option<Judged> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = known.judged.get(key).filter(|_| known.rotations == rotations)?;
        let is_fresh = wall.duration_since(judged.at).is_ok_and(|age| age < FRESH);
        let is_valid = judged.peer.as_ref().is_none_or(|peer| wall < peer.not_after);
        (is_fresh && is_valid).then(|| judged.clone())
    }

    fn note(&self, key: Box<[u8]>, rotations: u64, judged: Judged) {
        if key.len() > MOST_BYTES {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.rotations != rotations || known.judged.len() >= MOST {
            known.judged.clear();
            known.rotations = rotations;
        }
        known.judged.insert(key, judged);
    }
}

/// Without an identity the mesh has no roots, and knows nobody.
fn judge(inbound: &Inbound, chain: &[&[u8]], wall: SystemTime) -> Result<Option<PeerIdentity>, VerifyError> {
    let Some(identity) = inbound.core.identity.as_ref().and_then(|source| source.current()) else { return Ok(None) };
    let chain: Vec<_> = chain.iter().map(|certificate| CertificateDer::from(*certificate)).collect();
    verify_chain(&identity.bundles, &chain, PeerRole::Client, wall)?;
    Ok(peer_identity(&chain))
}

/// Lengths stand before what they count: two chains never have one key.
fn key(chain: &[&[u8]], server_name: Option<&str>) -> Box<[u8]> {
    let mut key = Vec::with_capacity(chain.iter().map(|certificate| certificate.len() + 8).sum());
    for certificate in chain {
        key.extend_from_slice(&(certificate.len() as u64).to_ne_bytes());
        key.extend_from_slice(certificate);
    }
    key.extend_from_slice(server_name.unwrap_or_default().as_bytes());
    key.into_boxed_slice()
}

/// As often as a connection would be opened anew at worst; a verification takes some 100 us.
const FRESH: Duration = Duration::from_secs(60);
/// Chains kept; at some 2 KB each, 2 MB.
const MOST: usize = 1024;
/// A longer one is judged each time: whoever sends it must not decide how much is kept. SVIDs and what signs them are
/// below 4 KiB.
const MOST_BYTES: usize = 16 * 1024;
