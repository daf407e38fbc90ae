//! The exact bytes a question is known by.
//!
//! Decides: how facts become one byte string, without ambiguity and without credentials.
//! Never: hashes what is not secret. The table compares all bytes.
//! Invariant: equal bytes mean the same reference set, the same identity and the same values.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use http::header::AUTHORIZATION;

use super::references::ReferenceSet;
use crate::access::attributes::Attributes;
use crate::access::fact::{Fact, OrderedName};
use crate::access::jwt;

/// Writes keys. Holds the secret of the credential digests, drawn once per cache.
pub(super) struct Keys {
    digests: [RandomState; 2],
    authorization: Fact,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            digests: [RandomState::new(), RandomState::new()],
            authorization: Fact::Header(OrderedName(AUTHORIZATION)),
        }
    }
}

impl Keys {
    /// The key of a request under a set; `None` if the set does not describe it or the key is too long.
    pub(super) fn of(&self, set: &ReferenceSet, attributes: &Attributes<'_>) -> Option<Vec<u8>> {
        let mut key = Vec::with_capacity(TYPICAL_KEY_BYTES);
        self.write(&mut key, set, attributes).then_some(key)
    }

    /// The same into a buffer that was used before; false instead of `None`.
    pub(super) fn write(&self, key: &mut Vec<u8>, set: &ReferenceSet, attributes: &Attributes<'_>) -> bool {
        key.clear();
        if !set.references.absent.iter().all(|fact| fact.value(attributes).is_none()) {
            return false;
        }
        key.extend_from_slice(&set.id.to_le_bytes());
        self.identity(key, attributes);
        for fact in &set.references.exact {
            let Some(value) = fact.value(attributes) else { return false };
            self.part(key, fact, Some(&value));
        }
        key.len() <= MAX_KEY_BYTES
    }

    /// The key of a call in flight: absent facts are part of it.
    pub(super) fn of_flight(&self, epoch: u64, facts: &[Fact], attributes: &Attributes<'_>) -> Box<[u8]> {
        let mut key = Vec::with_capacity(TYPICAL_KEY_BYTES);
        key.extend_from_slice(&epoch.to_le_bytes());
        self.identity(&mut key, attributes);
        for fact in facts {
            self.part(&mut key, fact, fact.value(attributes).as_deref());
        }
        key.into()
    }

    /// What is part of every key, whatever the server says it looked at.
    fn identity(&self, key: &mut Vec<u8>, attributes: &Attributes<'_>) {
        for fact in [&Fact::Principal, &Fact::Service, &Fact::Listener, &self.authorization] {
            self.part(key, fact, fact.value(attributes).as_deref());
        }
        // The end user; without a subject, all that the token says of him.
        let user = attributes.claims.map(|claims| match jwt::principal(claims) {
            Some(principal) => principal,
            None => serde_json::Value::Object((**claims).clone()).to_string(),
        });
        self.part(key, &Fact::RequestPrincipal, user.as_deref().map(str::as_bytes));
    }

    /// Presence, length, bytes: no value can imitate the border between two.
    fn part(&self, key: &mut Vec<u8>, fact: &Fact, value: Option<&[u8]>) {
        let Some(value) = value else { return key.push(0) };
        key.push(1);
        key.extend_from_slice(&(value.len() as u64).to_le_bytes());
        if fact.is_secret() {
            // Two SipHashes under independent secret keys, 128 bits: nobody can compute or test it elsewhere.
            for digest in &self.digests {
                key.extend_from_slice(&digest.hash_one(value).to_le_bytes());
            }
        } else {
            key.extend_from_slice(value);
        }
    }
}

/// Room for an identity, a path and a header or two without growing.
const TYPICAL_KEY_BYTES: usize = 256;
/// Longer keys are not kept: no request should fill the cache alone.
const MAX_KEY_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AttributesBuf;
    use crate::access::cache::references::{ReferenceSets, References};

    #[test]
    fn a_credential_is_never_in_a_key() {
        let mut attributes = AttributesBuf::default();
        attributes.headers.insert("authorization", "Bearer open-sesame".parse().unwrap());
        attributes.headers.insert("cookie", "session=open-sesame".parse().unwrap());
        let facts = ["header:authorization", "lower(header:cookie)"].map(|name| Fact::parse(name).unwrap());
        let set = ReferenceSets::new(1).intern(References::new(facts.to_vec(), Vec::new()));
        let keys = Keys::default();
        let key = keys.of(&set, &attributes.borrow()).unwrap();
        assert!(!key.windows(6).any(|bytes| bytes == b"sesame"));
        attributes.headers.insert("authorization", "Bearer open-barley".parse().unwrap());
        assert_ne!(keys.of(&set, &attributes.borrow()).unwrap(), key);
    }

    #[test]
    fn a_key_holds_the_end_user() {
        let set = ReferenceSets::new(1).intern(References::default());
        let keys = Keys::default();
        let with = |claims: Option<serde_json::Value>| {
            let claims = claims.map(|claims| std::sync::Arc::new(claims.as_object().unwrap().clone()));
            let attributes = AttributesBuf { claims, ..AttributesBuf::default() };
            keys.of(&set, &attributes.borrow()).unwrap()
        };
        let of = |claims| with(Some(claims));
        let alice = of(serde_json::json!({"iss": "a", "sub": "alice"}));
        assert_eq!(alice, of(serde_json::json!({"iss": "a", "sub": "alice", "exp": 7})), "another token of hers");
        for other in [
            with(None),
            of(serde_json::json!({"iss": "a", "sub": "bob"})),
            of(serde_json::json!({"iss": "b", "sub": "alice"})),
            of(serde_json::json!({"iss": "a", "name": "alice"})),
        ] {
            assert_ne!(alice, other);
        }
        let nameless = |name: &str| of(serde_json::json!({"iss": "a", "name": name}));
        assert_ne!(nameless("x"), nameless("y"));
    }

    #[test]
    fn an_absent_principal_differs_from_any_principal() {
        let set = ReferenceSets::new(1).intern(References::default());
        let keys = Keys::default();
        let with = |principal: Option<&str>| {
            let attributes = AttributesBuf { principal: principal.map(str::to_owned), ..AttributesBuf::default() };
            keys.of(&set, &attributes.borrow()).unwrap()
        };
        assert_ne!(with(None), with(Some("")));
        assert_ne!(with(Some("a")), with(Some("b")));
    }
}
