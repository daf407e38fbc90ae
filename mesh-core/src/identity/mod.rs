//! Who we are and whom we trust.
//!
//! Decides: whether a name is a SPIFFE ID, whether a certificate is an X.509-SVID, which roots may
//! vouch for it, and when our own certificate is due for renewal. Never: what a principal may do
//! (that is `access`), and never a decision by DNS name: a server outside of the mesh that proves one (`web_pki`)
//! has no identity here.
//! Invariant: a peer is judged only by the roots of its own trust domain, at every handshake, and
//! an expired certificate of ours is never presented.
//!
//! ```text
//! dev_ca, file (Issuer) -> rotation::rotate -> IdentitySource -> tls (configs) -> verifier
//! ```

pub mod bundle;
pub mod dev_ca;
pub mod error;
pub mod file;
pub mod leaf;
pub mod rotation;
pub mod source;
pub mod spiffe_id;
pub mod svid;
pub mod tls;
pub mod verifier;
pub mod web_pki;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod mint;
#[cfg(test)]
mod vector_tests;

pub use bundle::{TrustBundle, TrustBundles};
pub use dev_ca::{DevCa, DevCaIssuer};
pub use error::{BundleError, IdentityError, SvidError};
pub use file::{BundleFile, FileIssuer};
pub use leaf::verify_leaf;
pub use rotation::{Issuer, rotate, rotation_due};
pub use source::{Identity, IdentitySource};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::Svid;
pub use tls::{PeerIdentity, client_config, peer_identity, server_config, server_name};
pub use verifier::VerifyError;
pub use web_pki::WebRoots;
