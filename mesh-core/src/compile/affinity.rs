//! Hash tables, hash policies and sessions, as the engines take them.

use std::time::Duration;

use crate::cluster::bounded_load::BalanceFactor;
use crate::cluster::hashing::{HashConfig, TableConfig};
use crate::cluster::maglev::TableSize;
use crate::cluster::ring_hash::{self, RingConfig};
use crate::config::cluster::Cluster;
use crate::config::hashing::{self as written, HashFunction, HashSource};
use crate::route::affinity::Affinity;
use crate::route::hash_policy::{Cookie, HashPolicy, Part};
use crate::route::session::{Carrier, Session};

/// The ring of a cluster.
pub(super) fn ring(cluster: &Cluster) -> Result<HashConfig, String> {
    let ring = cluster.ring_hash.clone().unwrap_or_default();
    let function = match ring.hash_function {
        HashFunction::XxHash => ring_hash::HashFunction::XxHash,
        HashFunction::MurmurHash2 => ring_hash::HashFunction::MurmurHash2,
    };
    let config = RingConfig::new(ring.minimum_ring_size, ring.maximum_ring_size, function);
    Ok(HashConfig { table: TableConfig::Ring(config.map_err(text)?), bound: bound(cluster)? })
}

/// The table of a cluster.
pub(super) fn maglev(cluster: &Cluster) -> Result<HashConfig, String> {
    let size = TableSize::new(cluster.maglev.clone().unwrap_or_default().table_size).map_err(text)?;
    Ok(HashConfig { table: TableConfig::Maglev(size), bound: bound(cluster)? })
}

fn bound(cluster: &Cluster) -> Result<Option<BalanceFactor>, String> {
    let factor = cluster.consistent_hashing.as_ref().and_then(|hashing| hashing.hash_balance_factor);
    factor.map(BalanceFactor::new).transpose().map_err(text)
}

fn text(invalid: crate::policy::Invalid) -> String {
    invalid.to_string()
}

/// What a rule, or a cluster, says.
pub(super) fn affinity(
    policies: &[written::HashPolicy],
    session: Option<&written::Session>,
) -> Result<Affinity, String> {
    Ok(Affinity {
        hash: policies.iter().map(hash_policy).collect::<Result<_, _>>()?,
        session: session.map(compile_session).transpose()?,
    })
}

fn hash_policy(policy: &written::HashPolicy) -> Result<HashPolicy, String> {
    let header = policy.header.as_ref().map(|name| Ok(Part::Header(header_name(name.as_str())?)));
    let cookie =
        policy.cookie.as_ref().map(|cookie| Ok(Part::Cookie(self::cookie(cookie, cookie.ttl.map(|ttl| ttl.0)))));
    let query = policy.query_parameter.clone().map(|name| Ok(Part::QueryParameter(name)));
    let source = policy.source.map(|source| match source {
        HashSource::Principal => Ok(Part::Principal),
        HashSource::Address => Ok(Part::Address),
    });
    let part = header.or(cookie).or(query).or(source).ok_or("a hash policy reads nothing")?;
    part.map(|part| HashPolicy { part, is_terminal: policy.terminal })
}

fn compile_session(session: &written::Session) -> Result<Session, String> {
    let cookie = session.cookie.as_ref().map(|cookie| {
        let ttl = cookie.ttl.map_or(Duration::ZERO, |ttl| ttl.0);
        Ok(Carrier::Cookie(self::cookie(cookie, Some(ttl))))
    });
    let header = session.header.as_ref().map(|name| header_name(name.as_str()).map(Carrier::Header));
    let carrier = cookie.or(header).ok_or("a session is carried by nothing")??;
    Ok(Session { carrier, is_strict: session.strict })
}

fn cookie(written: &written::Cookie, ttl: Option<Duration>) -> Cookie {
    Cookie { name: written.name.clone(), ttl, path: written.path.clone() }
}

fn header_name(name: &str) -> Result<http::HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is no header name"))
}
