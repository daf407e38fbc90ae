//! SPIFFE IDs and trust domains.
//!
//! Decides: whether a text is a SPIFFE ID, by the letter of the SPIFFE-ID standard. Never:
//! normalises, decodes percent-encoding or repairs; what is not exactly valid is refused.
//! Invariant: a `SpiffeId` in hand is valid, so comparing two of them is comparing bytes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The name of one workload: `spiffe://` trust domain, path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    domain_end: usize,
}

impl SpiffeId {
    /// Parses the URI form.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if uri.len() > MAX_URI_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::BadScheme)?;
        let domain_length = rest.find('/').unwrap_or(rest.len());
        let (domain, path) = rest.split_at(domain_length);
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self { uri: uri.into(), domain_end: SCHEME.len() + domain_length })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The name of the trust domain, without the scheme.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.domain_end]
    }

    /// The path with its leading slash, or the empty string for the ID of a trust domain itself.
    pub fn path(&self) -> &str {
        &self.uri[self.domain_end..]
    }

    /// The URI without `spiffe://`: the form of principals in Istio policies.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }
}

/// A set of workloads that share roots. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name such as `cluster.local`.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The trust domain that an ID belongs to.
    pub fn of(id: &SpiffeId) -> Self {
        Self(id.trust_domain().into())
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { uri: format!("{SCHEME}{}", self.0).into(), domain_end: SCHEME.len() + self.0.len() }
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.uri, f)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum SpiffeIdError {
    /// Nothing was given.
    #[error("a SPIFFE ID must not be empty")]
    Empty,
    /// It does not start with `spiffe://`, in lower case.
    #[error("a SPIFFE ID starts with spiffe://")]
    BadScheme,
    /// Nothing stands between the scheme and the path.
    #[error("the trust domain is missing")]
    TrustDomainMissing,
    /// Longer than 255 bytes.
    #[error("the trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")]
    TrustDomainTooLong,
    /// Upper case, port, user, percent-encoding and all else outside `a-z 0-9 . - _`.
    #[error("a trust domain holds only a-z, 0-9, '.', '-' and '_'")]
    BadTrustDomainCharacter,
    /// Query, fragment, percent-encoding and all else outside `A-Z a-z 0-9 . - _`.
    #[error("a path segment holds only A-Z, a-z, 0-9, '.', '-' and '_'")]
    BadPathCharacter,
    /// Two slashes in a row.
    #[error("a path must not have an empty segment")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("a path must not have a segment '.' or '..'")]
    DotSegment,
    /// The last character is a slash.
    #[error("a SPIFFE ID must not end with '/'")]
    TrailingSlash,
    /// Longer than 2048 bytes.
    #[error("a SPIFFE ID is at most {MAX_URI_BYTES} bytes long")]
    TooLong,
}

impl SpiffeIdError {
    /// The stable name of the reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::BadScheme => "bad_scheme",
            Self::TrustDomainMissing => "trust_domain_missing",
            Self::TrustDomainTooLong => "trust_domain_too_long",
            Self::BadTrustDomainCharacter => "bad_trust_domain_character",
            Self::BadPathCharacter => "bad_path_character",
            Self::EmptySegment => "empty_segment",
            Self::DotSegment => "dot_segment",
            Self::TrailingSlash => "trailing_slash",
            Self::TooLong => "too_long",
        }
    }
}

fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::TrustDomainMissing);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if name.bytes().all(allowed) { Ok(()) } else { Err(SpiffeIdError::BadTrustDomainCharacter) }
}

/// `path` is empty or starts with a slash.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    let Some(segments) = path.strip_prefix('/') else { return Ok(()) };
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ if segment.bytes().all(allowed) => Ok(()),
        _ => Err(SpiffeIdError::BadPathCharacter),
    }
}

const SCHEME: &str = "spiffe://";
/// Bytes. SPIFFE-ID standard, section 2.3: 2048 must be supported, more must not be minted.
const MAX_URI_BYTES: usize = 2048;
/// Bytes. SPIFFE-ID standard, section 2.3: the host part of a URI (RFC 3986).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_apart_into_trust_domain_and_path() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/a").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("cluster.local", "/ns/default/sa/a"));
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/a");
        assert_eq!(TrustDomain::of(&id).id(), SpiffeId::parse("spiffe://cluster.local").unwrap());
    }

    #[test]
    fn a_trust_domain_is_a_bare_name() {
        for bad in ["", "spiffe://td", "td/a", "TD", "td:1"] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad}");
        }
    }
}
