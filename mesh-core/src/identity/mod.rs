//! Who we are and whom we trust.

pub mod spiffe_id;
pub mod svid;
pub mod bundle;
pub mod source;
pub mod file;
pub mod dev_ca;
pub mod verifier;
pub mod tls;
