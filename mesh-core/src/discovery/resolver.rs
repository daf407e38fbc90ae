//! Who is asked what a name stands for.
//!
//! Decides: how an answer reads: records with a time to live, "there is none", or "nobody knows".
//! Never: caches (its caller does, for as long as the answer says), or runs on the request path.
//! Invariant: an authoritative "there is none" and a failure to ask are never mixed up: the first may
//! empty a cluster, the second must not.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};

/// A question about a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The name.
    pub name: Arc<str>,
    /// What is wanted.
    pub records: Records,
    /// Name servers; empty: those of the system's configuration.
    pub servers: Arc<[SocketAddr]>,
    /// Time to answer.
    pub timeout: Duration,
}

/// What is wanted of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Records {
    /// What the operating system says, its hosts file and name services included. It tells no time to live.
    Host,
    /// A records.
    V4,
    /// AAAA records.
    V6,
    /// SRV records.
    Service,
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// An address.
    Address(IpAddr),
    /// A service (RFC 2782).
    Service {
        /// The lowest is used while it can be.
        priority: u16,
        /// Share among those of one priority; 0 is "hardly ever".
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: Arc<str>,
    },
}

/// Records, never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The records.
    pub records: Vec<Record>,
    /// How long they may be used without asking again; `None`: not told.
    pub ttl: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// The name does not exist, or has no such records; for this long, if that was told.
    None(Option<Duration>),
    /// Nobody answered in time.
    TimedOut,
    /// The question could not be asked, or a server failed.
    Failed(String),
}

/// A pending answer.
pub type Looking = Pin<Box<dyn Future<Output = Result<Answer, Unanswered>> + Send>>;

/// Answers questions about names, off the request path. Injected, so that a test can put its own in place.
pub trait Resolver: Send + Sync + 'static {
    /// Asks.
    fn look_up(&self, question: &Question) -> Looking;
}

/// The system's resolver for hosts, DNS for everything else.
#[derive(Default)]
pub struct StandardResolver {
    /// One resolver for each set of servers, so that their sockets and statistics are shared.
    by_servers: Mutex<HashMap<Arc<[SocketAddr]>, TokioResolver>>,
}

impl Unanswered {
    /// A stable name, for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None(_) => "empty",
            Self::TimedOut => "timeout",
            Self::Failed(_) => "error",
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None(_) => f.write_str("there is no such name or record"),
            Self::TimedOut => f.write_str("no name server answered in time"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl Resolver for StandardResolver {
    fn look_up(&self, question: &Question) -> Looking {
        let timeout = question.timeout;
        let looking = match record_type(question.records) {
            None => ask_system(&question.name),
            Some(kind) => match self.dns(&question.servers) {
                Ok(resolver) => ask_dns(resolver, Arc::clone(&question.name), kind),
                Err(reason) => Box::pin(std::future::ready(Err(Unanswered::Failed(reason)))),
            },
        };
        Box::pin(async move { tokio::time::timeout(timeout, looking).await.unwrap_or(Err(Unanswered::TimedOut)) })
    }
}

impl StandardResolver {
    fn dns(&self, servers: &Arc<[SocketAddr]>) -> Result<TokioResolver, String> {
        let mut by_servers = self.by_servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = by_servers.get(servers) {
            return Ok(resolver.clone());
        }
        let resolver = dns_resolver(servers).map_err(|error| format!("no name server: {error}"))?;
        by_servers.insert(Arc::clone(servers), resolver.clone());
        Ok(resolver)
    }
}

fn record_type(records: Records) -> Option<RecordType> {
    match records {
        Records::Host => None,
        Records::V4 => Some(RecordType::A),
        Records::V6 => Some(RecordType::AAAA),
        Records::Service => Some(RecordType::SRV),
    }
}

fn ask_system(host: &str) -> Looking {
    let host = host.to_owned();
    Box::pin(async move {
        let found = tokio::net::lookup_host((host.as_str(), 0)).await;
        // The operating system does not tell a missing name from a server that failed: take neither for the other.
        let found = found.map_err(|error| Unanswered::Failed(error.to_string()))?;
        answer(found.map(|address| Record::Address(address.ip())).collect(), None)
    })
}

fn ask_dns(resolver: TokioResolver, name: Arc<str>, kind: RecordType) -> Looking {
    Box::pin(async move {
        let found = resolver.lookup(&*name, kind).await.map_err(|error| unanswered(&error))?;
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        answer(found.answers().iter().filter_map(|found| record(&found.data)).collect(), Some(ttl))
    })
}

fn answer(mut records: Vec<Record>, ttl: Option<Duration>) -> Result<Answer, Unanswered> {
    // Servers rotate their answers; an order of our own makes equal answers equal.
    records.sort_unstable();
    records.dedup();
    if records.is_empty() { Err(Unanswered::None(ttl)) } else { Ok(Answer { records, ttl }) }
}

fn record(data: &RData) -> Option<Record> {
    match data {
        RData::SRV(found) => Some(Record::Service {
            priority: found.priority,
            weight: found.weight,
            port: found.port,
            target: found.target.to_ascii().into(),
        }),
        other => other.ip_addr().map(Record::Address),
    }
}

fn unanswered(error: &NetError) -> Unanswered {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            Unanswered::None(none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())))
        }
        NetError::Timeout => Unanswered::TimedOut,
        other => Unanswered::Failed(other.to_string()),
    }
}

fn dns_resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let configs = servers.iter().map(|server| {
            let on_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), configs.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    // Whoever asks keeps the answer for as long as it holds, and asks when it does not.
    builder.options_mut().cache_size = 0;
    builder.options_mut().edns0 = true;
    builder.build()
}
