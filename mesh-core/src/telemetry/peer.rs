//! The two ends of a request, and how one end tells the other who it is.
//!
//! Decides: the wire form of `x-mesh-peer` and when what it says is believed. Never: decides access; a
//! `Peer` is a label, a principal from the handshake is an identity.
//! Invariant: the principal never travels in the header, and with mTLS the namespace is the
//! certificate's, whatever the header claims.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::names::value;

/// One end of a request. What is not known is `unknown`; a revision that is not known is `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Workload, in Kubernetes the Deployment.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// SPIFFE ID, from a handshake only.
    pub principal: Arc<str>,
    /// Application.
    pub app: Arc<str>,
    /// Version of the application.
    pub version: Arc<str>,
    /// Canonical service.
    pub canonical_service: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
    /// Mesh cluster.
    pub cluster: Arc<str>,
}

impl Default for Peer {
    fn default() -> Self {
        let unknown = || UNKNOWN.clone();
        Self {
            workload: unknown(),
            namespace: unknown(),
            principal: unknown(),
            app: unknown(),
            version: unknown(),
            canonical_service: unknown(),
            canonical_revision: LATEST.clone(),
            cluster: unknown(),
        }
    }
}

impl Peer {
    /// All that a certificate says: the principal, and the namespace in it.
    pub fn of_principal(principal: &str) -> Self {
        let namespace = namespace_of(principal).map_or_else(|| UNKNOWN.clone(), Arc::from);
        Self { principal: Arc::from(principal), namespace, ..Self::default() }
    }

    /// The header in which this end tells the other who it is. The principal stays out, and so does
    /// what no longer fits into 1 KiB.
    pub fn to_header(&self) -> HeaderValue {
        let mut text = String::with_capacity(128);
        for (key, field) in self.told() {
            if field.is_empty() || **field == *value::UNKNOWN || field.len() > MAX_VALUE_BYTES {
                continue;
            }
            let before = text.len();
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{key}={}", utf8_percent_encode(field, ESCAPED));
            if text.len() > MAX_HEADER_BYTES {
                text.truncate(before);
            }
        }
        // Percent-encoding leaves visible ASCII only, so this does not fail.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Reads what the other end says about itself. `None`: malformed, or larger than 1 KiB. Keys that
    /// are not known are skipped, so that a newer peer can say more.
    pub fn from_header(header: &HeaderValue) -> Option<Self> {
        if header.len() > MAX_HEADER_BYTES {
            return None;
        }
        let mut peer = Self::default();
        let mut seen = Vec::with_capacity(8);
        for member in header.to_str().ok()?.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let (key, raw) = member.split_once('=')?;
            let text = decoded(raw)?;
            if seen.contains(&key) {
                return None;
            }
            seen.push(key);
            if let Some(field) = peer.field(key) {
                *field = Arc::from(text.as_ref());
            }
        }
        Some(peer)
    }

    fn told(&self) -> [(&'static str, &Arc<str>); 7] {
        [
            ("w", &self.workload),
            ("ns", &self.namespace),
            ("app", &self.app),
            ("v", &self.version),
            ("svc", &self.canonical_service),
            ("rev", &self.canonical_revision),
            ("c", &self.cluster),
        ]
    }

    fn field(&mut self, key: &str) -> Option<&mut Arc<str>> {
        Some(match key {
            "w" => &mut self.workload,
            "ns" => &mut self.namespace,
            "app" => &mut self.app,
            "v" => &mut self.version,
            "svc" => &mut self.canonical_service,
            "rev" => &mut self.canonical_revision,
            "c" => &mut self.cluster,
            _ => return None,
        })
    }
}

/// The peer to put into labels: what it `claimed` in its header, held against the `principal` of the
/// handshake.
///
/// With a principal the claim counts only if its namespace is the principal's; else only the
/// certificate counts. Without one (plaintext) there is nothing to hold it against: the claim labels
/// metrics, and its principal is `unknown`.
pub fn trusted(claimed: Option<Peer>, principal: Option<&str>) -> Peer {
    let Some(principal) = principal.filter(|principal| !principal.is_empty()) else {
        return Peer { principal: UNKNOWN.clone(), ..claimed.unwrap_or_default() };
    };
    match claimed {
        Some(peer) if namespace_of(principal) == Some(&*peer.namespace) => {
            Peer { principal: Arc::from(principal), ..peer }
        }
        _ => Peer::of_principal(principal),
    }
}

/// The namespace in an Istio-shaped SPIFFE ID, `spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`.
pub fn namespace_of(principal: &str) -> Option<&str> {
    let mut parts = principal.strip_prefix("spiffe://")?.split('/').skip(1);
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        ("ns", namespace, "sa", account, None) if !namespace.is_empty() && !account.is_empty() => Some(namespace),
        _ => None,
    }
}

/// A value as it was before encoding. Control characters and bad UTF-8 make it malformed.
fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    let text = percent_decode_str(raw.trim()).decode_utf8().ok()?;
    let fits = !text.is_empty() && text.len() <= MAX_VALUE_BYTES && !text.chars().any(char::is_control);
    fits.then_some(text)
}

/// Seven values of a Kubernetes name each fit with room.
const MAX_HEADER_BYTES: usize = 1024;
/// The longest DNS name, and so the longest Kubernetes name.
const MAX_VALUE_BYTES: usize = 253;
/// What would break the list, the header or the encoding itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'=').add(b'%').add(b';').add(b'"').add(b'\\');

/// Shared, so that most peers of a plain deployment cost no allocation for what they do not know.
pub(super) static UNKNOWN: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(value::UNKNOWN));
static LATEST: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(value::LATEST));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reviews() -> Peer {
        Peer { workload: "reviews-v2".into(), namespace: "default".into(), app: "a,b = ü".into(), ..Peer::default() }
    }

    #[test]
    fn a_peer_survives_the_header_without_its_principal() {
        let sent = Peer { principal: "spiffe://d/ns/default/sa/x".into(), ..reviews() };
        let header = sent.to_header();
        assert_eq!(header.to_str().unwrap(), "w=reviews-v2,ns=default,app=a%2Cb%20%3D%20%C3%BC,rev=latest");
        assert_eq!(Peer::from_header(&header), Some(reviews()));
    }

    #[test]
    fn a_malformed_header_says_nothing() {
        let long = format!("w={}", "x".repeat(MAX_VALUE_BYTES + 1));
        let huge = "x=y,".repeat(MAX_HEADER_BYTES / 4 + 1);
        for text in ["w", "w=", "w=%FF", "w=a%0Ab", "w=a,w=b", &long, &huge] {
            assert_eq!(Peer::from_header(&HeaderValue::from_str(text).unwrap()), None, "{text}");
        }
        assert_eq!(Peer::from_header(&HeaderValue::from_bytes(b"w=\xff").unwrap()), None);
    }

    #[test]
    fn keys_of_a_newer_peer_are_skipped() {
        let peer = Peer::from_header(&HeaderValue::from_static("new=1, w=a")).unwrap();
        assert_eq!(&*peer.workload, "a");
    }

    #[test]
    fn a_claim_counts_only_if_the_certificate_agrees() {
        let principal = "spiffe://cluster.local/ns/default/sa/reviews";
        let agreed = trusted(Some(reviews()), Some(principal));
        assert_eq!((&*agreed.workload, &*agreed.principal), ("reviews-v2", principal));
        let liar = Peer { namespace: "kube-system".into(), ..reviews() };
        assert_eq!(trusted(Some(liar), Some(principal)), Peer::of_principal(principal));
        assert_eq!(trusted(Some(reviews()), Some("spiffe://x/other")), Peer::of_principal("spiffe://x/other"));
        assert_eq!(trusted(None, Some(principal)), Peer::of_principal(principal));
        assert_eq!(trusted(None, None), Peer::default());
        let forged = Peer { principal: "spiffe://x/ns/a/sa/b".into(), ..reviews() };
        assert_eq!(trusted(Some(forged), None), reviews());
    }

    #[test]
    fn the_namespace_is_read_only_from_the_whole_shape() {
        let table = [
            ("spiffe://d/ns/default/sa/x", Some("default")),
            ("spiffe://d/ns/default/sa/", None),
            ("spiffe://d/ns//sa/x", None),
            ("spiffe://d/ns/default", None),
            ("spiffe://d/ns/default/sa/x/y", None),
            ("spiffe://ns/default/sa/x", None),
            ("https://d/ns/default/sa/x", None),
        ];
        for (principal, namespace) in table {
            assert_eq!(namespace_of(principal), namespace, "{principal}");
        }
    }

    proptest! {
        #[test]
        fn any_name_survives_the_header(workload in "[^\\p{Cc}]{1,40}", cluster in "[^\\p{Cc}]{1,40}") {
            let peer = Peer { workload: workload.into(), cluster: cluster.into(), ..Peer::default() };
            prop_assert_eq!(Peer::from_header(&peer.to_header()), Some(peer));
        }
    }
}
