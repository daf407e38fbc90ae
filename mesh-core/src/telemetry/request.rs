//! What is recorded when a request ends.
//!
//! Decides: how the facts of a request read as Istio's 25 labels. Never: a path, an address, a port or a
//! user agent in a label. Invariant: the two ends label the same request alike, but for `reporter` and
//! the security policy, which only the destination knows (Istio: `unknown` at the source).

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::exposition::push_label;
use super::histogram::{Histogram, ISTIO_BOUNDS};
use super::metrics::Counter;
use super::names::{label, value};
use super::peer::{Peer, UNKNOWN};

/// One request, seen from one end. Built once, when it has ended.
#[derive(Debug, Clone)]
pub struct RequestFacts {
    /// Which end reports.
    pub reporter: Reporter,
    /// Who called.
    pub source: Arc<Peer>,
    /// Who answered, or would have.
    pub destination: Arc<Peer>,
    /// What was called.
    pub service: Arc<DestinationService>,
    /// HTTP or gRPC.
    pub protocol: Protocol,
    /// HTTP status; 0 if there was no response.
    pub response_code: u16,
    /// gRPC status, where the response carried one.
    pub grpc_status: Option<u32>,
    /// Envoy's short response flags, joined with a comma; `-` or empty for none.
    pub flags: Cow<'static, str>,
    /// How the connection was protected.
    pub security: Security,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request on the wire, headers included.
    pub request_bytes: u64,
    /// Bytes of the response on the wire, headers included.
    pub response_bytes: u64,
    /// gRPC messages, where they were counted.
    pub messages: Option<Messages>,
}

/// Which end of a request reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller.
    Source,
    /// The callee.
    Destination,
}

/// What was spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
}

/// How a connection was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Both ends showed a certificate.
    MutualTls,
    /// Anything less. Principals do not count then.
    None,
}

/// The logical service that was called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationService {
    /// Full host name, `reviews.default.svc.cluster.local`.
    pub host: Arc<str>,
    /// Short name, `reviews`.
    pub name: Arc<str>,
    /// Namespace, `default`.
    pub namespace: Arc<str>,
}

/// gRPC messages of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// Sent by the source.
    pub request: u64,
    /// Sent by the destination.
    pub response: u64,
}

impl Reporter {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Protocol {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

impl Default for DestinationService {
    fn default() -> Self {
        Self { host: UNKNOWN.clone(), name: UNKNOWN.clone(), namespace: UNKNOWN.clone() }
    }
}

impl RequestFacts {
    /// A request of which only the reporting end is known: fill in the rest.
    pub fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            source: Arc::default(),
            destination: Arc::default(),
            service: Arc::default(),
            protocol: Protocol::Http,
            response_code: 0,
            grpc_status: None,
            flags: Cow::Borrowed(value::NO_FLAG),
            security: Security::None,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            messages: None,
        }
    }

    /// Hash of what selects a series.
    pub(super) fn series_hash(&self, hasher: &impl BuildHasher) -> u64 {
        let mut hasher = hasher.build_hasher();
        (self.reporter, self.protocol, self.response_code, self.grpc_status, self.security).hash(&mut hasher);
        self.flags.hash(&mut hasher);
        self.source.hash(&mut hasher);
        self.destination.hash(&mut hasher);
        self.service.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether both belong to the same series.
    pub(super) fn is_same_series(&self, other: &Self) -> bool {
        self.reporter == other.reporter
            && self.protocol == other.protocol
            && self.response_code == other.response_code
            && self.grpc_status == other.grpc_status
            && self.security == other.security
            && self.flags == other.flags
            && self.source == other.source
            && self.destination == other.destination
            && self.service == other.service
    }

    fn grpc_label(&self) -> Cow<'static, str> {
        /// The highest code gRPC defines; a peer cannot make up series with higher ones.
        const LAST: u32 = 16;
        match self.grpc_status {
            _ if self.protocol == Protocol::Http => Cow::Borrowed(""),
            None => Cow::Borrowed(""),
            Some(status) if status <= LAST => Cow::Owned(status.to_string()),
            // gRPC reads a code it does not know as UNKNOWN.
            Some(_) => Cow::Borrowed("2"),
        }
    }

    /// The 25 labels, as they stand between the braces.
    fn labels(&self) -> String {
        let code = self.response_code.to_string();
        let grpc = self.grpc_label();
        let flags = if self.flags.is_empty() { value::NO_FLAG } else { &*self.flags };
        let (source, destination) =
            (peer_labels(&self.source, self.security), peer_labels(&self.destination, self.security));
        let values = [self.reporter.as_str()].into_iter().chain(source).chain(destination).chain([
            or_unknown(&self.service.host),
            or_unknown(&self.service.name),
            or_unknown(&self.service.namespace),
            self.protocol.as_str(),
            &code,
            &*grpc,
            flags,
            security_label(self.reporter, self.security),
        ]);
        label_text(&label::REQUEST, values)
    }
}

/// The counters of one label set: hold it where many requests share one, and recording is a few adds.
#[derive(Debug)]
pub struct RequestSeries {
    pub(super) labels: String,
    pub(super) requests: Counter,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
    pub(super) messages: OnceLock<(Counter, Counter)>,
    /// The facts it was made for; `None` for an overflow series.
    pub(super) key: Option<RequestFacts>,
}

impl RequestSeries {
    pub(super) fn of(facts: &RequestFacts) -> Self {
        Self::with(facts.labels(), Some(facts.clone()))
    }

    /// The series for what is over the cap. The reporter and the class of the status survive, so that
    /// rates and success rates stay right.
    pub(super) fn overflow(reporter: Reporter, class: usize) -> Self {
        let code = if class == 0 { "0".to_owned() } else { format!("{class}xx") };
        let values = label::REQUEST.iter().map(|name| match *name {
            label::REPORTER => reporter.as_str(),
            "response_code" => code.as_str(),
            _ => value::OVERFLOW,
        });
        Self::with(label_text(&label::REQUEST, values), None)
    }

    fn with(labels: String, key: Option<RequestFacts>) -> Self {
        let histogram = || Histogram::new(ISTIO_BOUNDS);
        Self {
            labels,
            requests: Counter::default(),
            duration: histogram(),
            request_bytes: histogram(),
            response_bytes: histogram(),
            messages: OnceLock::new(),
            key,
        }
    }

    /// Counts one request. Only the numbers of `facts` are read.
    pub fn record(&self, facts: &RequestFacts) {
        self.requests.add(1);
        // One division, rounded once: a duration on a bucket's bound stays on it.
        self.duration.observe(facts.duration.as_nanos() as f64 / NANOSECONDS_PER_MILLISECOND);
        self.request_bytes.observe(facts.request_bytes as f64);
        self.response_bytes.observe(facts.response_bytes as f64);
        if let Some(messages) = facts.messages {
            let (request, response) = self.messages.get_or_init(Default::default);
            request.add(messages.request);
            response.add(messages.response);
        }
    }
}

/// Only the destination knows (Istio).
pub(super) fn security_label(reporter: Reporter, security: Security) -> &'static str {
    match (reporter, security) {
        (Reporter::Source, _) => value::UNKNOWN,
        (Reporter::Destination, Security::MutualTls) => "mutual_tls",
        (Reporter::Destination, Security::None) => "none",
    }
}

/// A peer's eight labels, in Istio's order.
pub(super) fn peer_labels(peer: &Peer, security: Security) -> [&str; 8] {
    let principal = if security == Security::MutualTls { or_unknown(&peer.principal) } else { value::UNKNOWN };
    let revision = if peer.canonical_revision.is_empty() { value::LATEST } else { &peer.canonical_revision };
    [
        or_unknown(&peer.workload),
        or_unknown(&peer.namespace),
        principal,
        or_unknown(&peer.app),
        or_unknown(&peer.version),
        or_unknown(&peer.canonical_service),
        revision,
        or_unknown(&peer.cluster),
    ]
}

pub(super) fn label_text<'a>(names: &[&str], values: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::with_capacity(1024);
    for (name, value) in names.iter().zip(values) {
        push_label(&mut text, name, value);
    }
    text
}

pub(super) fn or_unknown(text: &str) -> &str {
    if text.is_empty() { value::UNKNOWN } else { text }
}

const NANOSECONDS_PER_MILLISECOND: f64 = 1_000_000.0;
