//! Tokens, good and hostile, for the tests of the engine and for the servers of all languages.
//!
//! Signed by ring with the keys that RFC 7515 and RFC 7520 publish as examples (tests/vectors/jose.json), and with keys
//! made when a test starts.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "shared by tests; each takes its part")]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair};
use ring::{hmac, rsa};
use serde_json::{Value, json};

pub mod hostile;

/// A private key, and how its public part is told.
pub struct Signer {
    key: Private,
    pub id: String,
    /// The public key.
    pub jwk: Value,
}

enum Private {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub fn examples() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/jose.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn unbase64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn named(mut jwk: Value, id: &str) -> (String, Value) {
    jwk["kid"] = id.into();
    (id.to_owned(), jwk)
}

impl Signer {
    /// An RSA key out of an RFC.
    pub fn rsa(example: &str, id: &str) -> Self {
        let example = &examples()["rsa"][example];
        let part = |name: &str| URL_SAFE_NO_PAD.decode(example[name].as_str().unwrap()).unwrap();
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: part("n"), e: part("e") },
            d: part("d"),
            p: part("p"),
            q: part("q"),
            dP: part("dp"),
            dQ: part("dq"),
            qInv: part("qi"),
        };
        let key = rsa::KeyPair::from_components(&components).unwrap();
        let (id, jwk) = named(json!({"kty": "RSA", "n": example["n"], "e": example["e"]}), id);
        Self { key: Private::Rsa(Box::new(key)), id, jwk }
    }

    /// A new key of a curve: P-256, P-384 or Ed25519.
    pub fn new(curve: &str, id: &str) -> Self {
        let random = SystemRandom::new();
        if curve == "Ed25519" {
            let made = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let key = Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap();
            let (id, jwk) = named(json!({"kty": "OKP", "crv": curve, "x": base64(key.public_key())}), id);
            return Self { key: Private::Ed(key), id, jwk };
        }
        let algorithm: &'static EcdsaSigningAlgorithm = match curve {
            "P-256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at((key.public_key().as_ref().len() - 1) / 2);
        let (id, jwk) = named(json!({"kty": "EC", "crv": curve, "x": base64(x), "y": base64(y)}), id);
        Self { key: Private::Ec(key), id, jwk }
    }

    /// A token of these claims.
    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.signed(
            &json!({"alg": algorithm, "kid": self.id, "typ": "JWT"}).to_string(),
            &claims.to_string(),
            algorithm,
        )
    }

    /// A token of this very header and payload, whatever they say.
    pub fn signed(&self, header: &str, payload: &str, algorithm: &str) -> String {
        let signed = format!("{}.{}", base64(header), base64(payload));
        let signature = self.sign(signed.as_bytes(), algorithm);
        format!("{signed}.{}", base64(signature))
    }

    pub fn sign(&self, message: &[u8], algorithm: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding(algorithm), &random, message, &mut signature).unwrap();
                signature
            }
            Private::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Private::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as the PEM that people have lying around (SubjectPublicKeyInfo); of RSA keys only.
    pub fn pem(&self) -> String {
        let Private::Rsa(key) = &self.key else { panic!("not an RSA key") };
        // rsaEncryption, with NULL parameters.
        let algorithm = [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
        let key = key.public().as_ref();
        let bits = [&[3, 0x82][..], &((key.len() + 1) as u16).to_be_bytes(), &[0], key].concat();
        let body = [&algorithm[..], &bits].concat();
        let whole = [&[0x30, 0x82][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        let text = STANDARD.encode(whole);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

/// Signed as with a shared secret.
pub fn with_secret(secret: &[u8], header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", base64(header), base64(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{signed}.{}", base64(hmac::sign(&key, signed.as_bytes())))
}

/// A JWK Set.
pub fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk.clone()).collect::<Vec<_>>()}).to_string()
}

fn padding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "RS384" => &signature::RSA_PKCS1_SHA384,
        "RS512" => &signature::RSA_PKCS1_SHA512,
        "PS256" => &signature::RSA_PSS_SHA256,
        "PS384" => &signature::RSA_PSS_SHA384,
        "PS512" => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}
