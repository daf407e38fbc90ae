//! An issuer's keys, and what each of them may verify.
//!
//! Decides: the algorithms that exist here, and which of them a key is for: by its own type, curve, `alg` and `use`.
//! Never: lets a token's header choose how a key is used, holds a symmetric key, or follows a link.
//! Invariant: a signature is verified only by an algorithm of the key's own type: a public key is never taken for a
//! secret. RFC 7517 (keys), RFC 7518 and RFC 8037 (algorithms), RFC 8725 (what goes wrong without this).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::SignatureVerificationAlgorithm;
use serde_json::{Map, Value};
use webpki::ring;

use super::Refusal;
use super::source::Digest;
use super::{der, strict};

/// A way to sign, by its name in a token's header.
pub(super) struct Algorithm {
    name: &'static str,
    kind: Kind,
    verifier: &'static dyn SignatureVerificationAlgorithm,
}

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// The algorithm of exactly this name: no other case, no `none`, nothing symmetric.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALGORITHMS.iter().find(|algorithm| algorithm.name == name)
    }
}

/// One public key.
pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
    /// Its own word on what it is for; `None`: whatever its kind is for.
    algorithm: Option<&'static str>,
    /// As verifiers take it.
    public: Vec<u8>,
}

/// All keys of an issuer.
pub struct KeySet {
    keys: Vec<Key>,
    /// Why entries are of no use here.
    ignored: Vec<String>,
    /// Of the text.
    pub(super) digest: Digest,
}

impl KeySet {
    /// Reads a JWK Set. Entries of no use here are passed over (RFC 7517 5); a set of nothing else is an error.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_SET_BYTES {
            return Err(format!("longer than {MAX_SET_BYTES} bytes"));
        }
        let set = strict::object(text).ok_or("not a JSON object with each name once")?;
        let Some(Value::Array(entries)) = set.get("keys") else { return Err("no list `keys`".to_owned()) };
        if entries.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        let (mut keys, mut ignored) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match entry.as_object().ok_or("not an object").and_then(Key::read) {
                Ok(key) => keys.push(key),
                Err(reason) => ignored.push(format!("keys[{index}]: {reason}")),
            }
        }
        if keys.is_empty() {
            let reasons = if ignored.is_empty() { "the list is empty".to_owned() } else { ignored.join("; ") };
            return Err(format!("no key to verify with: {reasons}"));
        }
        Ok(Self { keys, ignored, digest: Digest::of(text) })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none, which [`read`](Self::read) refuses.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Why entries were passed over.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Whether a key that fits made this signature. A key with another name is never tried; one without a name may be
    /// (Envoy), and so is every key when the token names none.
    pub(super) fn verify(
        &self,
        (algorithm, id): (&'static Algorithm, Option<&str>),
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let fits = |key: &&Key| key.fits(algorithm, id);
        let mut candidates = self.keys.iter().filter(fits).take(MAX_TRIES).peekable();
        if candidates.peek().is_none() {
            return Err(Refusal::UnknownKey);
        }
        let is_signed = candidates.any(|key| key.verify(algorithm, message, signature));
        if is_signed { Ok(()) } else { Err(Refusal::Signature) }
    }
}

impl Key {
    fn read(entry: &Map<String, Value>) -> Result<Self, &'static str> {
        let text = |name: &str| match entry.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a member that has to be text is not"),
        };
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("not for signatures");
        }
        let verifies = |operations: &Value| {
            operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
        };
        if entry.get("key_ops").is_some_and(|operations| !verifies(operations)) {
            return Err("not to verify with");
        }
        let (kind, public) = match (text("kty")?, text("crv")?) {
            (Some("RSA"), _) => (Kind::Rsa, rsa(&bytes(entry, "n")?, &bytes(entry, "e")?)?),
            (Some("EC"), Some("P-256")) => (Kind::P256, point(entry, 32)?),
            (Some("EC"), Some("P-384")) => (Kind::P384, point(entry, 48)?),
            (Some("OKP"), Some("Ed25519")) => (Kind::Ed25519, exactly(bytes(entry, "x")?, 32)?),
            (Some("oct"), _) => return Err("a symmetric key"),
            _ => return Err("a type or curve that is not supported"),
        };
        let algorithm = match text("alg")?.map(Algorithm::named) {
            None => None,
            Some(Some(algorithm)) if algorithm.kind == kind => Some(algorithm.name),
            Some(_) => return Err("an `alg` that is not supported, or not of its type"),
        };
        Ok(Self { id: text("kid")?.map(str::to_owned), kind, algorithm, public })
    }

    fn fits(&self, algorithm: &Algorithm, id: Option<&str>) -> bool {
        self.kind == algorithm.kind
            && self.algorithm.is_none_or(|only| only == algorithm.name)
            && match (&self.id, id) {
                (Some(own), Some(id)) => own == id,
                _ => true,
            }
    }

    fn verify(&self, algorithm: &Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verifier = algorithm.verifier;
        let is_signed = |signature: &[u8]| verifier.verify_signature(&self.public, message, signature).is_ok();
        let field_bytes = match self.kind {
            Kind::Rsa | Kind::Ed25519 => return is_signed(signature),
            Kind::P256 => 32,
            Kind::P384 => 48,
        };
        der::ecdsa_signature(signature, field_bytes).is_some_and(|signature| is_signed(&signature))
    }
}

fn bytes(entry: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = entry.get(name).and_then(Value::as_str).ok_or("a part of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of the key is not base64url")
}

fn exactly(bytes: Vec<u8>, length: usize) -> Result<Vec<u8>, &'static str> {
    if bytes.len() == length { Ok(bytes) } else { Err("a part of the key has the wrong length") }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (modulus, exponent) = (der::trimmed(modulus), der::trimmed(exponent));
    if !(MIN_RSA_BYTES..=MAX_RSA_BYTES).contains(&modulus.len()) {
        return Err("an RSA key of fewer than 2048 or more than 8192 bits");
    }
    // 1 would make every text its own signature; more than 33 bits no verifier takes.
    if !(1..=5).contains(&exponent.len()) || exponent == [1] {
        return Err("an RSA exponent that cannot be");
    }
    Ok(der::rsa_public_key(modulus, exponent))
}

/// The uncompressed point (SEC 1 2.3.3).
fn point(entry: &Map<String, Value>, field_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (exactly(bytes(entry, "x")?, field_bytes)?, exactly(bytes(entry, "y")?, field_bytes)?);
    Ok([&[4][..], &x, &y].concat())
}

const fn algorithm(name: &'static str, kind: Kind, verifier: &'static dyn SignatureVerificationAlgorithm) -> Algorithm {
    Algorithm { name, kind, verifier }
}

/// What the verifiers of our TLS can do, which is all that is needed. ES512 and Ed448 are not among it.
static ALGORITHMS: [Algorithm; 9] = [
    algorithm("RS256", Kind::Rsa, ring::RSA_PKCS1_2048_8192_SHA256),
    algorithm("RS384", Kind::Rsa, ring::RSA_PKCS1_2048_8192_SHA384),
    algorithm("RS512", Kind::Rsa, ring::RSA_PKCS1_2048_8192_SHA512),
    algorithm("PS256", Kind::Rsa, ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
    algorithm("PS384", Kind::Rsa, ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY),
    algorithm("PS512", Kind::Rsa, ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY),
    algorithm("ES256", Kind::P256, ring::ECDSA_P256_SHA256),
    algorithm("ES384", Kind::P384, ring::ECDSA_P384_SHA384),
    algorithm("EdDSA", Kind::Ed25519, ring::ED25519),
];

/// RFC 7518 3.3 demands 2048 bits.
const MIN_RSA_BYTES: usize = 256;
/// The most that the verifier takes.
const MAX_RSA_BYTES: usize = 1024;
/// Keys tried for one token (ours): a verification takes about 0.1 ms at most, and strangers may ask for it.
const MAX_TRIES: usize = 8;
/// Issuers have a handful (ours).
const MAX_KEYS: usize = 100;
/// The longest set (ours): 100 keys of the longest kind.
pub const MAX_SET_BYTES: usize = 256 * 1024;

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
