//! Test material: authorities, certificates of any shape, and clocks that obey.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use crate::time::Clock;

use super::bundle::{TrustBundle, TrustBundles};
use super::source::Identity;
use super::spiffe_id::TrustDomain;
use super::svid::Svid;

/// A certificate to be minted. The default is a good leaf.
#[derive(Clone)]
pub(super) struct Spec {
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub subject: Option<String>,
    pub san_critical: bool,
    pub ca: bool,
    pub key_usage: Option<Vec<KeyUsagePurpose>>,
    pub key_usage_critical: bool,
    pub extended: Option<Vec<ExtendedKeyUsagePurpose>>,
    pub from: SystemTime,
    pub until: SystemTime,
}

impl Spec {
    pub(super) fn leaf(id: &str, from: SystemTime, until: SystemTime) -> Self {
        Self {
            uri_sans: vec![id.to_owned()],
            dns_sans: Vec::new(),
            subject: Some("a workload".into()),
            san_critical: false,
            ca: false,
            key_usage: Some(vec![KeyUsagePurpose::DigitalSignature]),
            key_usage_critical: true,
            extended: Some(vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]),
            from,
            until,
        }
    }

    pub(super) fn intermediate(from: SystemTime, until: SystemTime) -> Self {
        let usage = Some(vec![KeyUsagePurpose::KeyCertSign]);
        Self { uri_sans: Vec::new(), ca: true, key_usage: usage, extended: None, ..Self::leaf("", from, until) }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.not_before = calendar(self.from);
        parameters.not_after = calendar(self.until);
        parameters.distinguished_name = DistinguishedName::new();
        if let Some(subject) = &self.subject {
            parameters.distinguished_name.push(DnType::CommonName, subject.as_str());
        }
        let forced = self.subject.is_none() && !self.san_critical;
        if forced {
            parameters.custom_extensions.push(uncritical_san(&self.uri_sans[0]));
        } else {
            let uris = self.uri_sans.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
            let names = self.dns_sans.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
            parameters.subject_alt_names = uris.chain(names).collect();
        }
        parameters.is_ca = if self.ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        match &self.key_usage {
            Some(usage) if self.key_usage_critical => parameters.key_usages = usage.clone(),
            Some(_) => parameters.custom_extensions.push(uncritical_digital_signature()),
            None => {}
        }
        parameters.extended_key_usages = self.extended.clone().unwrap_or_default();
        parameters
    }
}

/// KeyUsage: a bit string with seven unused bits and the first one set.
fn uncritical_digital_signature() -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80])
}

/// SubjectAltName: a sequence with one `[6]` URI.
fn uncritical_san(uri: &str) -> CustomExtension {
    let length = u8::try_from(uri.len()).unwrap();
    let mut der = vec![0x30, length + 2, 0x86, length];
    der.extend(uri.as_bytes());
    CustomExtension::from_oid_content(&[2, 5, 29, 17], der)
}

/// A key with its certificate, able to sign others whatever the certificate says.
pub(super) struct Authority {
    parameters: CertificateParams,
    pub key: KeyPair,
    pub certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn root(trust_domain: &str) -> Self {
        let mut spec = Spec::intermediate(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(4_000_000_000));
        spec.uri_sans = vec![format!("spiffe://{trust_domain}")];
        spec.subject = Some(format!("root of {trust_domain}"));
        let (parameters, key) = (spec.parameters(), KeyPair::generate().unwrap());
        let certificate = parameters.self_signed(&key).unwrap().der().clone();
        Self { parameters, key, certificate }
    }

    pub(super) fn sign(&self, spec: &Spec) -> Self {
        let (parameters, key) = (spec.parameters(), KeyPair::generate().unwrap());
        let issuer = Issuer::from_params(&self.parameters, &self.key);
        let certificate = parameters.signed_by(&key, &issuer).unwrap().der().clone();
        Self { parameters, key, certificate }
    }

    /// A second certificate for the key and name of `other`.
    pub(super) fn cross_sign(&self, spec: &Spec, other: &Self) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.parameters, &self.key);
        spec.parameters().signed_by(&other.key, &issuer).unwrap().der().clone()
    }

    pub(super) fn secret(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }

    pub(super) fn bundle(&self, trust_domain: &str) -> TrustBundle {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        TrustBundle::from_roots(trust_domain, vec![self.certificate.clone()]).unwrap()
    }

    pub(super) fn root_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub(super) fn svid(&self, id: &str, wall: SystemTime, ttl: Duration) -> Svid {
        let leaf = self.sign(&Spec::leaf(id, wall, wall + ttl));
        Svid::from_der(vec![leaf.certificate.clone()], leaf.secret()).unwrap().with_issued_at(wall)
    }

    /// An identity that trusts this authority for the trust domain of `id`.
    pub(super) fn identity(&self, id: &str, wall: SystemTime, ttl: Duration) -> Identity {
        let svid = self.svid(id, wall, ttl);
        let bundles = TrustBundles::from_iter([self.bundle(svid.id().trust_domain())]);
        Identity { svid, bundles }
    }

    /// Certificate and key, PEM, valid from now.
    pub(super) fn pem_pair(&self, id: &str, ttl: Duration) -> (String, String) {
        let now = SystemTime::now();
        let leaf = self.sign(&Spec::leaf(id, now, now + ttl));
        (pem("CERTIFICATE", &leaf.certificate), leaf.key.serialize_pem())
    }
}

/// The one authority of this name in this test process.
pub(super) fn authority(trust_domain: &str) -> Arc<Authority> {
    static ALL: LazyLock<Mutex<HashMap<String, Arc<Authority>>>> = LazyLock::new(Mutex::default);
    let mut all = ALL.lock().unwrap();
    all.entry(trust_domain.to_owned()).or_insert_with(|| Arc::new(Authority::root(trust_domain))).clone()
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, chunk) in der.chunks(3).enumerate() {
        let bits = chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    format!("{}\n-----END {label}-----\n", text.trim_end())
}

fn calendar(time: SystemTime) -> OffsetDateTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    OffsetDateTime::from_unix_timestamp(seconds.try_into().unwrap()).unwrap()
}

/// Some day in 2027.
pub(super) fn day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A wall clock that stands still until it is set.
pub(super) struct StillClock(Mutex<SystemTime>);

impl StillClock {
    pub(super) fn at(wall: SystemTime) -> Arc<Self> {
        Arc::new(Self(Mutex::new(wall)))
    }

    pub(super) fn set(&self, wall: SystemTime) {
        *self.0.lock().unwrap() = wall;
    }
}

impl Clock for StillClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// A clock whose sleeps are over at once: time passes by exactly what is slept.
pub(super) struct JumpClock {
    start: Instant,
    elapsed: Mutex<Duration>,
    end: Duration,
    leap: Option<(Duration, i64)>,
    finished: tokio::sync::Notify,
}

impl JumpClock {
    pub(super) fn until(end: Duration) -> Self {
        let finished = tokio::sync::Notify::new();
        Self { start: Instant::now(), elapsed: Mutex::default(), end, leap: None, finished }
    }

    /// The calendar jumps by so many seconds once `at` has passed.
    pub(super) fn with_leap(mut self, at: Duration, seconds: i64) -> Self {
        self.leap = Some((at, seconds));
        self
    }

    pub(super) fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap()
    }

    /// Completes when the span is over.
    pub(super) async fn finished(&self) {
        self.finished.notified().await;
    }
}

impl Clock for JumpClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        let elapsed = self.elapsed();
        let wall = day() + Duration::from_millis(250) + elapsed;
        match self.leap {
            Some((at, leap)) if elapsed >= at && leap < 0 => wall - Duration::from_secs(leap.unsigned_abs()),
            Some((at, leap)) if elapsed >= at => wall + Duration::from_secs(leap.unsigned_abs()),
            _ => wall,
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut elapsed = self.elapsed.lock().unwrap();
        *elapsed = (*elapsed).max(deadline.saturating_duration_since(self.start));
        if *elapsed < self.end {
            return Box::pin(std::future::ready(()));
        }
        self.finished.notify_one();
        Box::pin(std::future::pending())
    }
}
