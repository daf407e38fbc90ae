//! The exact bytes a question is known by.
//!
//! Decides: how facts become one byte string, without ambiguity and without credentials, and what its hash is.
//! Never: keeps what is secret; takes an equal hash for an equal key; writes a key to look one up.
//! Invariant: a request is found under a key exactly if it would be written as the same bytes. One walk over its facts
//! is hashed, written, or compared with all bytes that were written.

use std::cell::OnceCell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use papaya::Equivalent;

use super::references::ReferenceSet;
use crate::access::attributes::Attributes;
use crate::access::fact::{Fact, OrderedName};

/// A key as it is kept.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) hash: u64,
    bytes: Arc<[u8]>,
}

impl Key {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Makes keys. Holds the secrets of hashes and credential digests, drawn once per cache.
pub(super) struct Keys<S> {
    hasher: S,
    digests: Digests,
}

impl<S: BuildHasher> Keys<S> {
    pub(super) fn new(hasher: S) -> Self {
        Self { hasher, digests: Digests::default() }
    }

    /// What is part of every key of a request.
    #[inline(always)] // What is returned would be copied while it is still on its way to memory.
    pub(super) fn identity<'a>(&'a self, attributes: &'a Attributes<'a>) -> Identity<'a> {
        Identity {
            attributes,
            digests: &self.digests,
            authorization: self.digests.of_fact(&self.digests.authorization, attributes),
            cookie: OnceCell::new(),
            user: User::of(attributes),
        }
    }

    /// To be made once for all sets.
    #[inline]
    pub(super) fn hash_of(&self, identity: &Identity<'_>) -> u64 {
        let mut hashed = Hashed(self.hasher.build_hasher());
        identity.walk(&mut hashed);
        hashed.0.finish()
    }

    /// The key of a request under a set; `None` if the set does not describe it or a value is too long for a key.
    #[inline]
    pub(super) fn sought<'a>(
        &self,
        set: &'a ReferenceSet,
        identity: &'a Identity<'a>,
        identity_hash: u64,
    ) -> Option<Sought<'a>> {
        if set.references.absent.iter().any(|fact| fact.is_in(identity.attributes)) {
            return None;
        }
        let mut hashed = Hashed(self.hasher.build_hasher());
        hashed.0.write_u64(set.id);
        hashed.0.write_u64(identity_hash);
        identity.walk_facts(set, &mut hashed).then(|| Sought { set, identity, hash: hashed.0.finish() })
    }

    /// The key of a call in flight: absent facts are part of it, and it may be long.
    pub(super) fn of_flight<'f>(
        &self,
        epoch: u64,
        facts: impl Iterator<Item = &'f Fact>,
        attributes: &Attributes<'_>,
    ) -> Box<[u8]> {
        let mut written = Written { bytes: Vec::with_capacity(TYPICAL_KEY_BYTES), most: usize::MAX };
        written.bytes.extend_from_slice(&epoch.to_le_bytes());
        self.identity(attributes).walk(&mut written);
        for fact in facts {
            let is_secret = fact.is_secret();
            fact.read(attributes, |value| match value {
                Some(secret) if is_secret => written.take(Some(&self.digests.of(secret))),
                value => written.take(value),
            });
        }
        written.bytes.into()
    }
}

/// What is part of every key, whatever the server says it looked at.
pub(super) struct Identity<'a> {
    attributes: &'a Attributes<'a>,
    digests: &'a Digests,
    authorization: Option<Digest>,
    /// Made when the first set asks for it.
    cookie: OnceCell<Option<Digest>>,
    user: User<'a>,
}

impl Identity<'_> {
    #[inline]
    fn walk(&self, parts: &mut impl Parts) -> bool {
        let Attributes { principal, service, listener, .. } = self.attributes;
        parts.take(principal.map(str::as_bytes))
            && parts.take(Some(service.as_bytes()))
            && parts.take(Some(listener.as_bytes()))
            && parts.take(self.authorization.as_ref().map(|digest| &digest[..]))
            && self.user.walk(parts)
    }

    /// Stops and says false where a fact is absent, or where a reader has seen enough.
    #[inline]
    fn walk_facts(&self, set: &ReferenceSet, parts: &mut impl Parts) -> bool {
        set.facts.iter().all(|part| {
            let mut take = |value: Option<&[u8]>| (value.is_some() || part.need == Need::Nothing) && parts.take(value);
            match &part.form {
                Form::Open(fact) => fact.read(self.attributes, take),
                Form::Cookie => take(self.cookie().as_ref().map(|digest| &digest[..])),
                Form::Secret(fact) => fact.read(self.attributes, |value| match value {
                    Some(secret) => take(Some(&self.digests.of(secret))),
                    None => take(None),
                }),
            }
        })
    }

    fn cookie(&self) -> Option<Digest> {
        *self.cookie.get_or_init(|| self.digests.of_fact(&self.digests.cookie, self.attributes))
    }
}

/// A key that is looked for: nothing of it is written, all of it is compared.
pub(super) struct Sought<'a> {
    set: &'a ReferenceSet,
    identity: &'a Identity<'a>,
    hash: u64,
}

impl Sought<'_> {
    /// The key to keep; `None`: it would be too long.
    pub(super) fn write(&self) -> Option<Key> {
        let mut written = Written { bytes: Vec::with_capacity(TYPICAL_KEY_BYTES), most: MAX_KEY_BYTES };
        written.bytes.extend_from_slice(&self.set.id.to_le_bytes());
        let fits = self.identity.walk(&mut written) && self.identity.walk_facts(self.set, &mut written);
        fits.then(|| Key { hash: self.hash, bytes: written.bytes.into() })
    }

    /// Whether it is this key.
    #[inline]
    pub(super) fn is(&self, key: &Key) -> bool {
        let Some((set, rest)) = key.bytes.split_first_chunk() else { return false };
        let mut compared = Compared { rest };
        self.set.id == u64::from_le_bytes(*set)
            && self.identity.walk(&mut compared)
            && self.identity.walk_facts(self.set, &mut compared)
            && compared.rest.is_empty()
    }
}

impl Hash for Sought<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Key> for Sought<'_> {
    #[inline]
    fn equivalent(&self, key: &Key) -> bool {
        self.hash == key.hash && self.is(key)
    }
}

/// A fact that a set refers to, in its keys.
#[derive(Debug)]
pub(super) struct Part {
    form: Form,
    need: Need,
}

/// What a fact has to be for a set to describe a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// There.
    Value,
    /// There or not: either is part of the key.
    Nothing,
}

/// How it stands there.
#[derive(Debug)]
enum Form {
    /// As it is.
    Open(Fact),
    /// As a digest that all sets share.
    Cookie,
    /// As a digest.
    Secret(Fact),
}

impl Part {
    /// `None`: it is part of every key anyway, and there where it was when the key was written.
    pub(super) fn of(fact: &Fact, need: Need) -> Option<Self> {
        let form = match fact {
            Fact::Principal | Fact::Service | Fact::Listener | Fact::RequestPrincipal => return None,
            Fact::Header(name) if name.0 == AUTHORIZATION => return None,
            Fact::Header(name) if name.0 == COOKIE => Form::Cookie,
            fact if fact.is_secret() => Form::Secret(fact.clone()),
            fact => Form::Open(fact.clone()),
        };
        Some(Self { form, need })
    }
}

/// The end user.
enum User<'a> {
    Nobody,
    /// Issuer and subject.
    Named(&'a str, &'a str),
    /// Without a subject, all that the token says of him.
    Nameless(String),
}

impl<'a> User<'a> {
    #[inline]
    fn of(attributes: &Attributes<'a>) -> Self {
        let Some(claims) = attributes.claims else { return Self::Nobody };
        let text = |name| claims.get(name)?.as_str();
        match (text("iss"), text("sub")) {
            (Some(issuer), Some(subject)) => Self::Named(issuer, subject),
            _ => Self::Nameless(serde_json::Value::Object((**claims).clone()).to_string()),
        }
    }

    /// What follows the first part tells one from the other.
    #[inline]
    fn walk(&self, parts: &mut impl Parts) -> bool {
        match self {
            Self::Nobody => parts.take(None),
            Self::Named(issuer, subject) => parts.take(Some(issuer.as_bytes())) && parts.take(Some(subject.as_bytes())),
            Self::Nameless(claims) => parts.take(Some(claims.as_bytes())) && parts.take(None),
        }
    }
}

/// Reads the parts of a key one after the other.
trait Parts {
    /// False: the rest does not matter any more.
    fn take(&mut self, value: Option<&[u8]>) -> bool;
}

/// Hashes them.
struct Hashed<H>(H);

impl<H: Hasher> Parts for Hashed<H> {
    #[inline]
    fn take(&mut self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else {
            self.0.write_u8(0);
            return true;
        };
        // No key is that long.
        if value.len() > MAX_KEY_BYTES {
            return false;
        }
        self.0.write(value);
        true
    }
}

/// Writes them, each with its length: no value can imitate the border between two, and an absent one is not an empty
/// one.
struct Written {
    bytes: Vec<u8>,
    most: usize,
}

impl Parts for Written {
    fn take(&mut self, value: Option<&[u8]>) -> bool {
        // What is longer than four bytes can tell is longer than any request.
        let length = u32::try_from(length_of(value)).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.bytes.len() <= self.most
    }
}

/// Compares them with what was written.
struct Compared<'a> {
    rest: &'a [u8],
}

impl Parts for Compared<'_> {
    #[inline]
    fn take(&mut self, value: Option<&[u8]>) -> bool {
        let Some((length, rest)) = self.rest.split_first_chunk() else { return false };
        let value_bytes = value.unwrap_or_default();
        if u64::from(u32::from_le_bytes(*length)) != length_of(value) || rest.len() < value_bytes.len() {
            return false;
        }
        let (written, rest) = rest.split_at(value_bytes.len());
        self.rest = rest;
        written == value_bytes
    }
}

/// Zero for what is absent, else one more than the bytes.
#[inline]
fn length_of(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| value.len() as u64 + 1)
}

type Digest = [u8; 16];

/// Two SipHashes under independent secret keys, 128 bits: nobody can compute or test a credential elsewhere.
struct Digests {
    of_value: [RandomState; 2],
    authorization: Fact,
    cookie: Fact,
}

impl Default for Digests {
    fn default() -> Self {
        let header = |name| Fact::Header(OrderedName(name));
        Self {
            of_value: [RandomState::new(), RandomState::new()],
            authorization: header(AUTHORIZATION),
            cookie: header(COOKIE),
        }
    }
}

impl Digests {
    fn of(&self, value: &[u8]) -> Digest {
        let mut digest = [0; 16];
        for (half, state) in digest.chunks_exact_mut(8).zip(&self.of_value) {
            half.copy_from_slice(&state.hash_one(value).to_le_bytes());
        }
        digest
    }

    #[inline]
    fn of_fact(&self, fact: &Fact, attributes: &Attributes<'_>) -> Option<Digest> {
        fact.read(attributes, |value| value.map(|secret| self.of(secret)))
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

    impl Key {
        /// Any bytes, for tests of what keys are kept in.
        pub(in crate::access::cache) fn of_bytes(bytes: &[u8]) -> Self {
            use foldhash::quality::FixedState;
            Self { hash: FixedState::default().hash_one(bytes), bytes: bytes.into() }
        }
    }

    fn keys() -> Keys<foldhash::quality::RandomState> {
        Keys::new(Default::default())
    }

    fn key_of<S: BuildHasher>(keys: &Keys<S>, set: &ReferenceSet, request: &AttributesBuf) -> Option<Vec<u8>> {
        let attributes = request.borrow();
        let identity = keys.identity(&attributes);
        Some(keys.sought(set, &identity, keys.hash_of(&identity))?.write()?.bytes.to_vec())
    }

    #[test]
    fn a_credential_is_never_in_a_key() {
        let mut attributes = AttributesBuf::default();
        attributes.headers.insert("authorization", "Bearer open-sesame".parse().unwrap());
        attributes.headers.insert("cookie", "session=open-sesame".parse().unwrap());
        let facts = ["header:authorization", "lower(header:cookie)"].map(|name| Fact::parse(name).unwrap());
        let set = ReferenceSets::new(1, Vec::new()).intern(References::new(facts.to_vec(), Vec::new()));
        let keys = keys();
        let key = key_of(&keys, &set, &attributes).unwrap();
        assert!(!key.windows(6).any(|bytes| bytes == b"sesame"));
        attributes.headers.insert("authorization", "Bearer open-barley".parse().unwrap());
        assert_ne!(key_of(&keys, &set, &attributes).unwrap(), key);
    }

    #[test]
    fn a_key_holds_the_end_user() {
        let set = ReferenceSets::new(1, Vec::new()).intern(References::default());
        let keys = keys();
        let with = |claims: Option<serde_json::Value>| {
            let claims = claims.map(|claims| std::sync::Arc::new(claims.as_object().unwrap().clone()));
            let attributes = AttributesBuf { claims, ..AttributesBuf::default() };
            key_of(&keys, &set, &attributes).unwrap()
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
        let set = ReferenceSets::new(1, Vec::new()).intern(References::default());
        let keys = keys();
        let with = |principal: Option<&str>| {
            let attributes = AttributesBuf { principal: principal.map(str::to_owned), ..AttributesBuf::default() };
            key_of(&keys, &set, &attributes).unwrap()
        };
        assert_ne!(with(None), with(Some("")));
        assert_ne!(with(Some("a")), with(Some("b")));
    }
}
