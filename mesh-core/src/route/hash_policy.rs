//! What a request hashes to: the same for requests that belong together.
//!
//! Decides: which parts of a request make its hash, and whether its response has to name a cookie.
//! Never: picks an endpoint; the cluster's balancer does, if it balances by hash.
//! Invariant: equal parts give equal hashes, in every process and every version; a policy that finds
//! nothing in the request adds nothing, and if none does there is no hash.
//!
//! # The rule (Envoy, gRFC A42)
//! `hash = rotate_left(hash, 1) ^ XXH64(part)`, in the order of the policies. The rotation keeps two
//! equal parts from cancelling out. After a `terminal` policy, if there is a hash by then, no further
//! one is asked.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use xxhash_rust::xxh64::xxh64;

use super::matcher::RequestHead;

/// Where a part of the hash comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    /// The part.
    pub part: Part,
    /// Whether the policies after it are only asked when there is no hash yet.
    pub is_terminal: bool,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All values of a header, sorted.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Cookie),
    /// The first value of a query parameter, as it is written.
    QueryParameter(String),
    /// Who sent the request that is being served.
    Principal,
    /// The address that the request being served came from, without the port.
    Address,
}

/// A cookie and, if it is ours to make, for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// `None`: a request without it has no hash. Zero: it lasts as long as the client's session.
    pub ttl: Option<Duration>,
    /// The paths it is for; empty: that of the request.
    pub path: String,
}

/// Who sent the request that is being served, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// Its SPIFFE ID.
    pub principal: Option<&'a str>,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// What a request hashes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None`: no policy found anything.
    pub hash: Option<u64>,
    /// Cookies that were made, for the response.
    pub cookies: Vec<HeaderValue>,
}

impl HashPolicy {
    /// What the policies make of a request. The generator makes cookies.
    pub fn apply(policies: &[Self], head: RequestHead<'_>, source: Source<'_>, rng: &mut fastrand::Rng) -> Hashed {
        let mut hashed = Hashed::default();
        for policy in policies {
            if let Some(part) = policy.part.hash(head, source, (&mut hashed.cookies, rng)) {
                hashed.hash = Some(hashed.hash.map_or(0, |hash| hash.rotate_left(1)) ^ part);
            }
            if policy.is_terminal && hashed.hash.is_some() {
                break;
            }
        }
        hashed
    }
}

impl Part {
    fn hash(
        &self,
        head: RequestHead<'_>,
        source: Source<'_>,
        (made, rng): (&mut Vec<HeaderValue>, &mut fastrand::Rng),
    ) -> Option<u64> {
        match self {
            Self::Header(name) => hash_of_values(head.headers, name),
            Self::Cookie(cookie) => match value_of(head.headers, &cookie.name) {
                Some(value) => Some(xxh64(value.as_bytes(), 0)),
                None => {
                    let value = format!("{:016x}", rng.u64(..));
                    made.push(cookie.set(&value)?);
                    Some(xxh64(value.as_bytes(), 0))
                }
            },
            Self::QueryParameter(name) => {
                let pairs = head.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| xxh64(value.as_bytes(), 0))
            }
            Self::Principal => source.principal.map(|principal| xxh64(principal.as_bytes(), 0)),
            Self::Address => source.address.map(|address| xxh64(address.to_string().as_bytes(), 0)),
        }
    }
}

impl Cookie {
    /// The `set-cookie` that gives it this value; `None` if it is not ours to make.
    pub fn set(&self, value: &str) -> Option<HeaderValue> {
        let ttl = self.ttl?;
        let mut text = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            text += &format!("; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            text += &format!("; Path={}", self.path);
        }
        HeaderValue::from_str(&(text + "; HttpOnly")).ok()
    }
}

/// The value of a cookie of the request, without quotes; an empty one is none.
pub fn value_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| key.trim() == name)?.1.trim();
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!inner.is_empty()).then_some(inner)
}

/// All values of a header, in an order that is not the sender's; each one seeds the next (Envoy).
fn hash_of_values(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(xxh64(first, 0)) };
    let mut all: Vec<&[u8]> = [first, second].into_iter().chain(values).collect();
    all.sort_unstable();
    Some(all.into_iter().fold(0, |seed, value| xxh64(value, seed)))
}

#[cfg(test)]
#[path = "hash_policy_tests.rs"]
mod tests;
