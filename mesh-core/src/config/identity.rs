//! Where this process's identity comes from, as it is written.
//!
//! Decides: the sources that exist. Never: reads a key. Invariant: holds paths, no secret.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{SpiffeIdText, TrustDomainText};

/// Who this process proves to be. Exactly one source: `dev_ca` or `files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The SPIFFE ID of this process.
    pub spiffe_id: SpiffeIdText,
    /// A certificate authority in a directory, for development.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev_ca: Option<DevCa>,
    /// PEM files written by somebody else, read again on change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<IdentityFiles>,
    /// The roots of further trust domains, side by side with our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_bundles: Vec<TrustBundle>,
}

/// A certificate authority in a directory, created when absent. For development only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevCa {
    /// The directory; relative to this file.
    #[schemars(length(min = 1))]
    pub directory: PathBuf,
    /// How long a certificate is valid; renewed half-way. Default: 24h (Istio).
    #[serde(default = "default_ttl")]
    pub ttl: TimeSpan,
}

/// PEM files, read again on change; relative to this file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The certificate chain, leaf first.
    #[schemars(length(min = 1))]
    pub certificate: PathBuf,
    /// The private key.
    #[schemars(length(min = 1))]
    pub key: PathBuf,
    /// The roots of our own trust domain.
    #[schemars(length(min = 1))]
    pub bundle: PathBuf,
}

/// The roots of one further trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustBundle {
    /// The trust domain. Not our own.
    pub trust_domain: TrustDomainText,
    /// The PEM file with its roots; relative to this file.
    #[schemars(length(min = 1))]
    pub bundle: PathBuf,
}

fn default_ttl() -> TimeSpan {
    TimeSpan::secs(24 * 3600)
}
