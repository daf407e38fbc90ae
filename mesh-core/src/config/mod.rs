//! What an operator writes: the document, its values, and everything that can be wrong with it.
//!
//! Decides: which texts are a configuration, and says every reason why one is not, with its line.
//! Never: touches a runtime type, a socket or a clock; it reads text and nothing else.
//! Invariant: a [`Document`] that left [`parse`] has no dangling reference and no malformed value.

pub mod access;
pub mod admission;
pub mod authorization;
pub mod balancing;
pub mod check;
pub mod check_cache;
pub mod cluster;
pub mod connection;
pub mod diagnostic;
pub mod dns;
pub mod document;
pub mod duration;
pub mod end_user;
pub mod ext_authz;
pub mod global_limit;
pub mod guard;
pub mod hashing;
pub mod health;
pub mod hedge;
pub mod identity;
pub mod listener;
pub mod parse;
pub mod path;
pub mod path_template;
pub mod policy;
pub mod rate_limit;
pub mod rate_limit_quota;
pub mod route;
pub mod rule;
pub mod schema;
pub mod telemetry;
pub mod tree;
pub mod value;

pub use access::{Access, AccessRule, Action};
pub use authorization::{Authorization, AuthorizationPolicy};
pub use check_cache::CheckCache;
pub use cluster::{
    Balancer, Cluster, ClusterTls, Declared, Endpoint, Locality, Protocol, ServiceNames, TlsMode, Workload,
};
pub use connection::{ConnectionPool, Http2, KeepAlive};
pub use diagnostic::{Diagnostic, Path, Severity};
pub use dns::{Dns, DnsFamily, DnsMode, DnsRecords, OnEmpty};
pub use document::{Defaults, Document, Node};
pub use duration::TimeSpan;
pub use end_user::{ClaimPath, ClaimToHeader, EndUserIssuer, Jwks, TokenHeader};
pub use ext_authz::{HttpCheck, Rego, RequestBody};
pub use hashing::{ConsistentHashing, Cookie, HashFunction, HashPolicy, HashSource, Maglev, RingHash, Session};
pub use health::{GrpcQuestion, HealthCheck, HttpQuestion, ListenerHealth, StatusRange, TcpQuestion};
pub use hedge::HedgeDelay;
pub use identity::{DevCa, Identity, IdentityFiles, TrustBundle};
pub use listener::{Listener, ListenerTls};
pub use parse::{Parsed, Positions, parse, parse_endpoints};
pub use policy::{
    CacheAttribute, Check, CircuitBreaker, CircuitBreakerOverride, ConcurrencyLimit, ConcurrencyLimitOverride,
    FailureMode, ForcedBreaker, Hedge, HedgeOverride, Outlier, OutlierOverride, Policy, Retry, RetryBudget,
    RetryBudgetOverride, RetryCondition, RetryJitter, RetryOverride,
};
pub use rate_limit::RateLimit;
pub use route::{
    Backend, HeaderMatch, Matches, PathMatch, QueryMatch, RequestMatch, Rewrite, Route, Rule, SourceMatch, Test,
};
pub use schema::json_schema;
pub use telemetry::{AccessLog, Admin, Explain, LogTarget, Metrics, Telemetry, Tracing};
pub use value::{
    AddressText, HeaderName, HostPattern, HostPatternKind, HostText, Method, Name, PathText, Percent, RegexText,
    ServerNameText, SpiffeIdText, TextPattern, TextPatternKind, TextValue, TrustDomainText, ValueError, Weight,
};
