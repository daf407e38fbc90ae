//! The X.509-SVID rules for one certificate.
//!
//! Decides: whether a certificate has the shape that the X.509-SVID standard asks of a leaf or of a
//! signing certificate. Never: chains, signatures or time (that is `verifier`).
//! Invariant: exactly one URI SAN, and it is a valid SPIFFE ID; issuer-side rules of the standard
//! are enforced on receipt as well, because a lenient reader is how a wrong issuer goes unnoticed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::error::SvidError;
use super::spiffe_id::SpiffeId;

/// The facts of a certificate that passed the leaf rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it names.
    pub id: SpiffeId,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl Leaf {
    /// Reads a DER certificate and applies the leaf rules.
    pub fn from_der(der: &[u8]) -> Result<Self, SvidError> {
        let certificate = parse(der)?;
        let id = SpiffeId::parse(uri_san(&certificate)?.ok_or(SvidError::NoUriSan)?)?;
        if id.path().is_empty() {
            return Err(SvidError::RootPath);
        }
        check_usage(&certificate)?;
        Ok(Self {
            id,
            serial: serial(certificate.raw_serial()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        })
    }
}

/// Applies the leaf rules and says whom the certificate names.
pub fn verify_leaf(der: &[u8]) -> Result<SpiffeId, SvidError> {
    Leaf::from_der(der).map(|leaf| leaf.id)
}

/// Applies the rules for signing certificates: an ID is optional, but must have no path.
/// Returns the ID, if there is one.
pub fn verify_signing_certificate(der: &[u8]) -> Result<Option<SpiffeId>, SvidError> {
    let certificate = parse(der)?;
    let Some(uri) = uri_san(&certificate)? else { return Ok(None) };
    // A root of another kind (`https:`, `urn:`) is no SVID and therefore free of this rule.
    if !uri.starts_with("spiffe:") {
        return Ok(None);
    }
    let id = SpiffeId::parse(uri)?;
    if id.path().is_empty() { Ok(Some(id)) } else { Err(SvidError::SigningCertificateHasPath) }
}

/// Whether the key usage, if any, lets the certificate sign others. webpki does not look at it.
pub(super) fn may_sign_certificates(der: &[u8]) -> bool {
    let Ok(certificate) = parse(der) else { return false };
    match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    }
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(malformed)?;
    if rest.is_empty() { Ok(certificate) } else { Err(SvidError::Malformed("trailing bytes".into())) }
}

fn uri_san<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<&'a str>, SvidError> {
    let Some(san) = certificate.subject_alternative_name().map_err(malformed)? else { return Ok(None) };
    if certificate.subject().as_raw() == EMPTY_NAME && !san.critical {
        return Err(SvidError::SanNotCritical);
    }
    let mut found = None;
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(_) if found.is_some() => return Err(SvidError::SeveralUriSans),
            GeneralName::URI(uri) => found = Some(*uri),
            // Could be a second URI in disguise.
            GeneralName::Invalid(..) => return Err(SvidError::Malformed("subject alternative name".into())),
            _ => {}
        }
    }
    Ok(found)
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(SvidError::CertificateAuthority);
    }
    let usage = certificate.key_usage().map_err(malformed)?.ok_or(SvidError::KeyUsageMissing)?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(SvidError::CanSign);
    }
    if !usage.value.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    if !usage.critical {
        return Err(SvidError::KeyUsageNotCritical);
    }
    match certificate.extended_key_usage().map_err(malformed)? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => {
            Err(SvidError::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

fn malformed(error: impl std::fmt::Display) -> SvidError {
    SvidError::Malformed(error.to_string())
}

/// Before 1970 counts as 1970: no certificate of a mesh is that old.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// Without the zero byte that only keeps the number positive, as `openssl x509 -serial` prints it.
fn serial(bytes: &[u8]) -> String {
    let number = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    number.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// DER of a `Name` without any attribute.
const EMPTY_NAME: &[u8] = &[0x30, 0x00];

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::mint::{self, Spec, day};
    use super::*;

    static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let spec = Spec::leaf("spiffe://td/ns/a/sa/b", day(), day() + Duration::from_secs(60));
        mint::authority("td").sign(&spec).certificate.to_vec()
    });

    #[test]
    fn trailing_bytes_and_truncation_are_refused() {
        assert!(Leaf::from_der(&GOOD).is_ok());
        assert!(Leaf::from_der(&[&GOOD[..], &[0]].concat()).is_err());
        for length in 0..GOOD.len() {
            assert!(Leaf::from_der(&GOOD[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_serial_number_reads_as_openssl_prints_it() {
        assert_eq!(serial(&[0, 0xab, 1]), "ab01");
        assert_eq!(serial(&[0x0a]), "0a");
        assert_eq!(serial(&[0]), "00");
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_is_judged_without_panic(at in 0..300usize, value: u8, cut in 0..400usize) {
            let mut der = GOOD.clone();
            let at = at % der.len();
            der[at] = value;
            der.truncate(cut.max(1));
            let _ = verify_signing_certificate(&der);
            let _ = may_sign_certificates(&der);
            if let Ok(leaf) = Leaf::from_der(&der) {
                prop_assert!(SpiffeId::parse(leaf.id.as_str()).is_ok());
                prop_assert!(!leaf.id.path().is_empty());
            }
        }
    }
}
