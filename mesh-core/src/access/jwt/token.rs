//! A token, taken apart.
//!
//! Decides: whether a text has the one form of a signed token (RFC 7515 7.1). Never: believes what is in it: until its
//! signature is verified, a token only says which issuer and key to ask. Links and keys in its header are not looked at.
//! Invariant: one text, one reading: base64url without padding, JSON with each name once, nothing critical.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::key::Algorithm;
use super::{Refusal, strict};
use crate::access::attributes::Claims;

/// A token whose signature was not looked at.
pub(super) struct Token<'a> {
    pub(super) algorithm: &'static Algorithm,
    /// The name of the key.
    pub(super) key: Option<String>,
    /// What the signature is about.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) claims: Claims,
    /// The claims as they were written.
    pub(super) text: String,
}

impl<'a> Token<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_BYTES {
            return Err(Refusal::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload, signature) = (decoded(header)?, decoded(payload)?, decoded(signature)?);
        let header = strict::object(&header).ok_or(Refusal::Malformed)?;
        // RFC 7515 4.1.11: what is critical has to be understood, and nothing is. RFC 7797 needs `crit`, but a sender
        // that forgets it means another signature all the same; RFC 7516's compression is for another kind of token.
        if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::Critical);
        }
        let Some(Value::String(name)) = header.get("alg") else { return Err(Refusal::Malformed) };
        let algorithm = Algorithm::named(name).ok_or(Refusal::Algorithm)?;
        let key = match header.get("kid") {
            None => None,
            Some(Value::String(name)) => Some(name.clone()),
            Some(_) => return Err(Refusal::Malformed),
        };
        let claims = strict::object(&payload).ok_or(Refusal::Malformed)?;
        let text = String::from_utf8(payload).map_err(|_| Refusal::Malformed)?;
        Ok(Self { algorithm, key, signed: signed.as_bytes(), signature, claims, text })
    }
}

/// Refuses padding, other alphabets, and a last digit with bits that mean nothing.
fn decoded(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

/// The longest token: 8 KiB, the length of a header line that servers take by default (Apache, nginx).
pub const MAX_BYTES: usize = 8 * 1024;
