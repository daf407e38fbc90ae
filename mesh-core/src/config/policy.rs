//! Resilience settings and remote checks, as they are written.
//!
//! Decides: each setting's default and its origin. Never: applies one.
//! Invariant: a setting and its override have the same fields; both are generated from one list.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::Access;
use super::admission::{AdaptiveLimit, ClassShares};
use super::authorization::Authorization;
use super::check_cache::CheckCache;
use super::duration::TimeSpan;
use super::end_user::{ClaimPath, EndUserIssuer};
use super::ext_authz::{HttpCheck, MetadataNamespace, Rego, RequestBody};
use super::global_limit::GlobalRateLimit;
use super::hedge::HedgeDelay;
use super::rate_limit::RateLimit;
use super::rate_limit_quota::RateLimitQuota;
use super::route::{HeaderMatch, Matches};
use super::value::{HeaderName, Name, Percent, TextPattern, TextValue, ValueError, text_serde};

/// Who may call: end users are told by their tokens, then local rules are asked, then remote checks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whose tokens say who the end user of a request is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub end_users: Vec<EndUserIssuer>,
    /// Local access rules.
    pub access: Access,
    /// Istio's authorization policies.
    pub authorization: Authorization,
    /// How many requests may come in, in a span of time.
    pub rate_limits: Vec<RateLimit>,
    /// The same, as a server assigns it for many processes; applied in this order after the local ones.
    pub rate_limit_quotas: Vec<RateLimitQuota>,
    /// The same, counted elsewhere for many processes; asked in this order after the quotas.
    pub global_rate_limits: Vec<GlobalRateLimit>,
    /// Remote decisions, asked in this order after the local rules allowed.
    pub checks: Vec<Check>,
}

/// A setting with all its fields, and the override in which each field may be absent.
macro_rules! setting {
    ($(#[$doc:meta])* $setting:ident, $override:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $setting {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $setting {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        $(#[$doc])*
        ///
        /// Every field that is absent keeps the mesh-wide default.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $override {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $override {
            /// The setting that results on top of `base`.
            pub fn over(&self, base: &$setting) -> $setting {
                $setting { $($field: self.$field.clone().unwrap_or_else(|| base.$field.clone()),)* }
            }
        }
    };
}

setting! {
    /// When and how often a failed attempt is repeated.
    Retry, RetryOverride {
        /// Retries beyond the first attempt; 0 = off. Default: 2 (Istio).
        #[schemars(range(max = 10))]
        attempts: u32 = 2,
        /// What counts as worth a retry. Default: connect-failure, refused-stream, gateway-error (Envoy's names).
        conditions: Vec<RetryCondition> =
            vec![RetryCondition::ConnectFailure, RetryCondition::RefusedStream, RetryCondition::GatewayError],
        /// Upper bound of the first random wait, doubled each time. Default: 25ms (Envoy).
        base: TimeSpan = TimeSpan::millis(25),
        /// Upper bound of every wait. Default: 250ms (Envoy: ten times the base).
        max: TimeSpan = TimeSpan::millis(250),
        /// Growth of the wait from retry to retry, for every `jitter` but `envoy`, which doubles. Default: 2 (gRPC).
        #[schemars(range(min = 1, max = 10))]
        multiplier: f64 = 2.0,
        /// How a wait is drawn. Default: envoy.
        jitter: RetryJitter = RetryJitter::Envoy,
        /// The longest wait that a server may ask for (`Retry-After`, `grpc-retry-pushback-ms`); a longer one ends
        /// the request at once. Default: 300s (linkerd).
        max_hint: TimeSpan = TimeSpan::secs(300),
        /// The statuses of `retriable-status-codes`. Default: none (Envoy).
        #[schemars(inner(range(min = 200, max = 599)))]
        retriable_status_codes: Vec<u16> = Vec::new(),
        /// The response headers of `retriable-headers`; one of them is enough. Default: none (Envoy).
        retriable_headers: Vec<HeaderMatch> = Vec::new(),
        /// Only requests with one of these headers are repeated. Default: every request (Envoy).
        retriable_request_headers: Vec<HeaderMatch> = Vec::new(),
        /// Whether a request with an `idempotency-key` header may be sent again, whatever its method. Default: false.
        idempotency_key: bool = false,
        /// Whether a request that is itself a caller's retry is repeated from here, too. Default: false (ours: retries
        /// of retries multiply along a chain of services).
        nested: bool = false,
        /// Bytes of a response that are held back until its end, to repeat it if it breaks off or its gRPC status, in
        /// the trailers, is one of `conditions`. For unary calls; a stream would wait. 0 = off. Default: 0 (Envoy, gRPC).
        #[schemars(range(max = 65536))]
        buffer_response: u32 = 0,
        /// Whether POST, PATCH and the like may be sent again after bytes were sent. Default: false.
        non_idempotent: bool = false,
    }
}

setting! {
    /// When a copy of a request that may be repeated is sent to a second endpoint before the first has answered. The
    /// first answer counts, the other copy is cancelled. An outcome that `retry.conditions` names does not count.
    Hedge, HedgeOverride {
        /// Copies beyond the first attempt, of one request; 0 = off. Default: 1 (Finagle, Polly).
        #[schemars(range(max = 4))]
        max_hedges: u32 = 1,
        /// When the next copy goes: a time span, or `p95` for the time within which 95 % of the rule's responses came
        /// in the last 30 s. Default: p95 (ours; Finagle: p99).
        delay: HedgeDelay = HedgeDelay::Percentile(95.0),
        /// Responses that must have been seen in the last 30 s before a percentile is used. Default: 50 (failsafe-go).
        #[schemars(range(min = 1))]
        min_samples: u32 = 50,
        /// Copies as a share of the rule's requests; `retry_budget` bounds them, too. Default: 5 (ours: goes with p95).
        budget_percent: Percent = Percent(5.0),
        /// Copies per second that are always allowed. Default: 1 (ours: so that a rare request can be hedged).
        min_per_second: u32 = 1,
    }
}

setting! {
    /// How much extra load retries and hedges may cause, per cluster.
    RetryBudget, RetryBudgetOverride {
        /// Retries as a share of the requests in the window. Default: 20 (Finagle, Envoy).
        percent: Percent = Percent(20.0),
        /// Retries per second that are always allowed. Default: 10 (Finagle).
        min_per_second: u32 = 10,
        /// The window that requests are counted in. Default: 10s (Finagle).
        window: TimeSpan = TimeSpan::secs(10),
    }
}

setting! {
    /// When an endpoint that fails is no longer asked.
    CircuitBreaker, CircuitBreakerOverride {
        /// Failures in a row that open the breaker; 0 = never. Default: 5 (Finagle).
        consecutive_failures: u32 = 5,
        /// Share of successes below which the breaker opens; 0 = never. Default: 80 (Finagle).
        min_success_percent: Percent = Percent(80.0),
        /// Requests in the window before the share counts. Default: 5 (Finagle).
        min_requests: u32 = 5,
        /// The window of the share. Default: 30s (Finagle).
        window: TimeSpan = TimeSpan::secs(30),
        /// How long the breaker stays open the first time. Default: 5s (Finagle).
        open: TimeSpan = TimeSpan::secs(5),
        /// How long it stays open at most, after failed probes. Default: 300s (Finagle).
        max_open: TimeSpan = TimeSpan::secs(300),
        /// Judge the last so many requests, however old, instead of those of `window`; 0 = by time.
        /// Default: 0 (resilience4j counts the last 100).
        #[schemars(range(max = 10000))]
        window_requests: u32 = 0,
        /// An answer whose head took this long is slow; 0s = none is. Default: 0s (resilience4j: 60s).
        slow_call: TimeSpan = TimeSpan::ZERO,
        /// Share of slow answers at which the breaker opens. Default: 100 (resilience4j).
        max_slow_percent: Percent = Percent(100.0),
        /// Requests that a breaker lets pass after its wait; their results decide. Default: 1 (Hystrix, Finagle).
        #[schemars(range(min = 1))]
        half_open_requests: u32 = 1,
        /// How many of them may fail. Default: 0 (Hystrix, Finagle).
        half_open_failures: u32 = 0,
        /// How long they may take to say something; then others are let through. Default: 30s (ours: twice
        /// the default timeout).
        max_half_open: TimeSpan = TimeSpan::secs(30),
        /// Takes the decision away from the results. Default: none.
        force: ForcedBreaker = ForcedBreaker::None,
    }
}

/// Who decides whether requests pass a circuit breaker (resilience4j's states).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForcedBreaker {
    /// The results.
    #[default]
    None,
    /// Nothing passes.
    Open,
    /// Everything passes and nothing is counted.
    Closed,
    /// Everything passes and is counted: shows what the breaker would do.
    MetricsOnly,
}

setting! {
    /// When an endpoint that answers badly is ejected for a while.
    Outlier, OutlierOverride {
        /// 5xx answers or failures to get one in a row; 0 = off. Default: 5 (Envoy).
        consecutive_5xx: u32 = 5,
        /// Share of such detections that eject; the others are only counted. Default: 100 (Envoy).
        enforcing_consecutive_5xx: Percent = Percent(100.0),
        /// 502, 503, 504 or failures to get an answer in a row; 0 = off. Default: 5 (Envoy).
        consecutive_gateway_failure: u32 = 5,
        /// Share of such detections that eject. Default: 0 (Envoy).
        enforcing_consecutive_gateway_failure: Percent = Percent(0.0),
        /// Whether failures to get an answer (no connection, a reset, a timeout) are told apart from bad answers.
        /// Default: false (Envoy).
        split_external_local_origin_errors: bool = false,
        /// Failures to get an answer in a row, if told apart; 0 = off. Default: 5 (Envoy).
        consecutive_local_origin_failure: u32 = 5,
        /// Share of such detections that eject. Default: 100 (Envoy).
        enforcing_consecutive_local_origin_failure: Percent = Percent(100.0),
        /// Endpoints with enough requests that are needed to compare success rates. Default: 5 (Envoy, gRPC A50).
        success_rate_minimum_hosts: u32 = 5,
        /// Requests of an endpoint in an interval that are enough. Default: 100 (Envoy, gRPC A50).
        success_rate_request_volume: u32 = 100,
        /// Who is worse than the mean by so many thousandths of the standard deviation is an outlier.
        /// Default: 1900 (Envoy, gRPC A50).
        success_rate_stdev_factor: u32 = 1900,
        /// Share of such detections that eject. Default: 100 (Envoy, gRPC A50).
        enforcing_success_rate: Percent = Percent(100.0),
        /// The same for failures to get an answer, if told apart. Default: 100 (Envoy).
        enforcing_local_origin_success_rate: Percent = Percent(100.0),
        /// Who failed at least this share is an outlier. Default: 85 (Envoy, gRPC A50).
        failure_percentage_threshold: Percent = Percent(85.0),
        /// Endpoints with enough requests that are needed to judge any by its share. Default: 5 (Envoy, gRPC A50).
        failure_percentage_minimum_hosts: u32 = 5,
        /// Requests of an endpoint in an interval that are enough. Default: 50 (Envoy, gRPC A50).
        failure_percentage_request_volume: u32 = 50,
        /// Share of such detections that eject. Default: 0 (Envoy).
        enforcing_failure_percentage: Percent = Percent(0.0),
        /// The same for failures to get an answer, if told apart. Default: 0 (Envoy).
        enforcing_failure_percentage_local_origin: Percent = Percent(0.0),
        /// Time between two sweeps. Default: 10s (Envoy, gRPC A50).
        interval: TimeSpan = TimeSpan::secs(10),
        /// How long the first ejection lasts; the n-th lasts n times as long. Default: 30s (Envoy, gRPC A50).
        base_ejection: TimeSpan = TimeSpan::secs(30),
        /// How long an ejection lasts at most. Default: 300s (Envoy, gRPC A50).
        max_ejection: TimeSpan = TimeSpan::secs(300),
        /// Share of the endpoints that may be ejected at once. Default: 10 (Envoy, gRPC A50).
        max_ejection_percent: Percent = Percent(10.0),
        /// At most this much is added to each ejection, by chance, so that a group does not return at once.
        /// Default: 0s (Envoy).
        max_ejection_jitter: TimeSpan = TimeSpan::ZERO,
        /// Whether one endpoint may be ejected even if that is more than the share. Default: true (ours; Envoy: false,
        /// with which nothing ever leaves a cluster of fewer than ten).
        always_eject_one: bool = true,
        /// Whether the last endpoint stays, whatever it does. Default: true (ours).
        keep_last: bool = true,
        /// Whether a successful health check ends an ejection. Default: true (Envoy).
        uneject_on_check: bool = true,
    }
}

setting! {
    /// How many requests a cluster may have in flight (Envoy's `circuit_breakers`).
    ConcurrencyLimit, ConcurrencyLimitOverride {
        /// Requests in flight, retries included. Default: 1024 (Envoy).
        #[schemars(range(min = 1))]
        max_requests: u32 = 1024,
        /// Finds the limit by measuring, up to `max_requests`. Default: off.
        adaptive: AdaptiveLimit = AdaptiveLimit::default(),
        /// What each class of requests may use of the limit.
        shares: ClassShares = ClassShares::default(),
    }
}

/// What counts as worth a retry: the names of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCondition {
    /// The connection could not be opened.
    ConnectFailure,
    /// The peer refused the stream unprocessed (REFUSED_STREAM, GOAWAY).
    RefusedStream,
    /// 502, 503 or 504.
    GatewayError,
    /// The connection or stream was reset, or the attempt timed out.
    Reset,
    /// The connection was reset before the request was sent.
    ResetBeforeRequest,
    /// Any 5xx, or no answer.
    #[serde(rename = "5xx")]
    ServerError,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// One of `retriable_status_codes`.
    RetriableStatusCodes,
    /// One of `retriable_headers`.
    RetriableHeaders,
    /// The attempt timed out (ours: a part of `reset`).
    AttemptTimeout,
    /// A response of Envoy's rate limiter (`x-envoy-ratelimited`).
    EnvoyRatelimited,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 2.
    Unknown,
    /// gRPC status 3.
    InvalidArgument,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 5.
    NotFound,
    /// gRPC status 6.
    AlreadyExists,
    /// gRPC status 7.
    PermissionDenied,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 9.
    FailedPrecondition,
    /// gRPC status 10.
    Aborted,
    /// gRPC status 11.
    OutOfRange,
    /// gRPC status 12.
    Unimplemented,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
    /// gRPC status 15.
    DataLoss,
    /// gRPC status 16.
    Unauthenticated,
}

/// How a wait is drawn; `n` counts retries from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryJitter {
    /// Anything up to `base * (2^n - 1)` (Envoy).
    #[default]
    Envoy,
    /// Anything up to `base * multiplier^(n-1)` (AWS).
    Full,
    /// Half of that, and anything up to the other half (Finagle).
    Equal,
    /// 20 % around it (gRPC).
    Grpc,
    /// Exactly that.
    None,
}

/// A remote decision over Envoy's ext_authz, by gRPC or plain HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The check's name in telemetry. Unique.
    pub name: Name,
    /// The cluster of this file that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Name>,
    /// Decides in this process, in place of a `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rego: Option<Rego>,
    /// The listeners it guards. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// The requests it guards; bare connections it guards all. Default: all.
    #[serde(default, rename = "match", skip_serializing_if = "Matches::is_any")]
    pub matches: Matches,
    /// Whether it is asked only where an authorization policy of action CUSTOM names it. Default: false.
    #[serde(default)]
    pub provider_only: bool,
    /// Time for an answer. Default: 200ms (Envoy).
    #[serde(default = "default_check_timeout")]
    pub timeout: TimeSpan,
    /// What an unanswered check means. Default: closed.
    #[serde(default)]
    pub failure: FailureMode,
    /// HTTP status of a request refused because the check did not answer. Default: 403 (Envoy).
    #[serde(default = "default_check_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status_on_error: u16,
    /// How answers are kept. Absent: only as far as the answer itself allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CheckCache>,
    /// Asks over plain HTTP. Default: gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// Sends the request's body, too. Default: no (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_request_body: Option<RequestBody>,
    /// The request headers that are sent. Default: all over gRPC; authorization alone over HTTP, where that is always
    /// sent (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub allowed_headers: Option<Vec<TextPattern>>,
    /// Request headers that are not sent, whatever `allowed_headers` says. Default: none (Envoy).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disallowed_headers: Vec<TextPattern>,
    /// Whether headers are sent byte by byte, several of one name apart (`header_map`). Default: false (Envoy).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encode_raw_headers: bool,
    /// Whether the caller's certificate is sent, as URL-encoded PEM; it is part of the cache's key then.
    /// Default: false (Envoy).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_peer_certificate: bool,
    /// Whether the server name of the TLS handshake is sent, where there was one; it is part of the cache's key then.
    /// Default: false (Envoy).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_tls_session: bool,
    /// The metadata that is sent with every question (`metadata_context`), by Envoy's names: of the end user's verified
    /// token the claims. A kept answer that does not say what it looked at depends on all claims then, or on those that
    /// `cache.key` names. Of gRPC and Rego. Default: none (Envoy).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata_context_namespaces: Vec<MetadataNamespace>,
    /// Fixed pairs that are sent with every question of this check. Of gRPC. Default: none (Envoy).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context_extensions: BTreeMap<String, String>,
    /// Share of the requests that are asked about. One that an authorization policy demands always is.
    /// Default: 100 (Envoy).
    #[serde(default = "super::ext_authz::everything", skip_serializing_if = "super::ext_authz::is_everything")]
    pub filter_enabled: Percent,
    /// Whether the others are refused, with `status_on_error`. Default: false (Envoy).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny_at_disable: bool,
    /// Whether a request that a failure let through says so to the application, in
    /// `x-envoy-auth-failure-mode-allowed: true`. Default: false (Envoy).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failure_mode_allow_header_add: bool,
    /// Whether the access log shows what an answer says in `dynamic_metadata`, the cache's hints excepted: under
    /// `check_metadata` and the check's name, at most 1 KiB of whole fields. That nothing secret is among it, is the
    /// server's affair. Of requests; by gRPC and Rego. Default: false (Envoy's log formats have to name it, too).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_metadata: bool,
    /// Bytes of a refusal's body that the caller gets at most; 0 = all. Default: 0 (Envoy).
    #[serde(default, skip_serializing_if = "super::ext_authz::is_zero")]
    pub max_denied_response_body_bytes: u32,
}

/// What an unanswered check means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// The request is refused.
    #[default]
    Closed,
    /// The request passes; counted and logged.
    Open,
}

/// A fact of a request that a cached answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CacheAttribute {
    /// The method.
    Method,
    /// The path without the query.
    Path,
    /// The authority.
    Host,
    /// The query.
    Query,
    /// The caller's SPIFFE ID.
    Principal,
    /// The peer's IP address.
    SourceIp,
    /// The listener's name.
    Listener,
    /// The value of one header.
    Header(HeaderName),
    /// Something made of another: `lower(header:x)`, `prefix(path, 2)`, `path_template(path, /users/{id})`,
    /// `cidr(source.ip, 24)`.
    Derived(String),
    /// The end user: issuer and subject of a verified token.
    RequestPrincipal,
    /// One of its claims.
    Claim(ClaimPath),
}

impl CacheAttribute {
    /// A function of one of the others.
    fn derived(text: &str) -> Result<Self, ValueError> {
        let call = text.strip_suffix(')').and_then(|rest| rest.split_once('('));
        let (function, arguments) = call.ok_or_else(|| ValueError::new(format!("unknown attribute `{text}`")))?;
        let parts = || arguments.split_once(',').map(|(of, parameter)| (of.trim(), parameter.trim()));
        let is_right = match function {
            "lower" => Self::parse(arguments).is_ok(),
            "prefix" => parts().is_some_and(|(of, n)| of == "path" && n.parse::<u8>().is_ok_and(|n| n > 0)),
            "cidr" => parts().is_some_and(|(of, n)| of == "source.ip" && n.parse::<u8>().is_ok_and(|n| n <= 128)),
            "path_template" => parts().is_some_and(|(of, template)| of == "path" && template.starts_with('/')),
            _ => return Err(ValueError::new(format!("unknown function `{function}`"))),
        };
        if is_right {
            Ok(Self::Derived(text.to_owned()))
        } else {
            Err(ValueError::new(format!("`{text}` is malformed")))
        }
    }
}

impl TextValue for CacheAttribute {
    const FORMAT: &'static str = "cache-attribute";
    const EXPECTED: &'static str = "one of method, path, host, query, principal, source.ip, listener, \
         request.auth.principal, header:NAME, claim:NAME, or lower(ATTRIBUTE), prefix(path, SEGMENTS), \
         path_template(path, /TEMPLATE), cidr(source.ip, BITS)";

    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(match text {
            "method" => Self::Method,
            "path" => Self::Path,
            "host" => Self::Host,
            "query" => Self::Query,
            "principal" => Self::Principal,
            "source.ip" => Self::SourceIp,
            "listener" => Self::Listener,
            "request.auth.principal" => Self::RequestPrincipal,
            other => match (other.strip_prefix("header:"), other.strip_prefix("claim:")) {
                (Some(name), _) => Self::Header(HeaderName::parse(name)?),
                (_, Some(claim)) => Self::Claim(ClaimPath::parse(claim)?),
                _ => Self::derived(other)?,
            },
        })
    }
}

impl fmt::Display for CacheAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Host => f.write_str("host"),
            Self::Query => f.write_str("query"),
            Self::Principal => f.write_str("principal"),
            Self::SourceIp => f.write_str("source.ip"),
            Self::Listener => f.write_str("listener"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Derived(call) => f.write_str(call),
            Self::RequestPrincipal => f.write_str("request.auth.principal"),
            Self::Claim(claim) => write!(f, "claim:{claim}"),
        }
    }
}

text_serde!(CacheAttribute);

fn default_check_timeout() -> TimeSpan {
    TimeSpan::millis(200)
}

fn default_check_status() -> u16 {
    403
}
