//! Every name that leaves the process: metrics, labels, headers, span attributes, log keys.
//!
//! Decides: spelling, once. Never: holds a value. Invariant: a name is public API; dashboards and
//! alerts are written against it, so it is added to and not changed.
//! Origin: Istio standard metrics (release 1.28), OpenTelemetry semantic conventions; `libmesh_*` is ours.

/// A metric's name and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric {
    /// Prometheus name.
    pub name: &'static str,
    /// One sentence for `# HELP`.
    pub help: &'static str,
}

impl Metric {
    /// A metric. Meant for `const` items: a name outside Prometheus' grammar does not compile there.
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        assert!(is_metric_name(name), "a metric name is [a-zA-Z_:][a-zA-Z0-9_:]*");
        Self { name, help }
    }
}

const fn is_metric_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let ok =
            bytes[i].is_ascii_alphabetic() || matches!(bytes[i], b'_' | b':') || (i > 0 && bytes[i].is_ascii_digit());
        if !ok {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

/// Metrics.
pub mod metric {
    use super::Metric;

    /// Requests, by Istio's 25 labels.
    pub const REQUESTS: Metric = Metric::new("istio_requests_total", "Requests that ended.");
    /// Time from the first byte of a request to the last of its response.
    pub const REQUEST_DURATION: Metric =
        Metric::new("istio_request_duration_milliseconds", "Duration of requests, in milliseconds.");
    /// Request sizes on the wire.
    pub const REQUEST_BYTES: Metric = Metric::new("istio_request_bytes", "Size of requests on the wire, in bytes.");
    /// Response sizes on the wire.
    pub const RESPONSE_BYTES: Metric = Metric::new("istio_response_bytes", "Size of responses on the wire, in bytes.");
    /// gRPC messages towards the destination.
    pub const REQUEST_MESSAGES: Metric =
        Metric::new("istio_request_messages_total", "gRPC messages sent by the source.");
    /// gRPC messages towards the source.
    pub const RESPONSE_MESSAGES: Metric =
        Metric::new("istio_response_messages_total", "gRPC messages sent by the destination.");
    /// Bare connections opened, by Istio's 23 labels.
    pub const TCP_OPENED: Metric =
        Metric::new("istio_tcp_connections_opened_total", "TCP connections that were opened.");
    /// Bare connections closed.
    pub const TCP_CLOSED: Metric =
        Metric::new("istio_tcp_connections_closed_total", "TCP connections that were closed.");
    /// Bytes of bare connections towards the source.
    pub const TCP_SENT: Metric =
        Metric::new("istio_tcp_sent_bytes_total", "Bytes of TCP connections that went to the source.");
    /// Bytes of bare connections from the source.
    pub const TCP_RECEIVED: Metric =
        Metric::new("istio_tcp_received_bytes_total", "Bytes of TCP connections that came from the source.");
    /// Which build runs.
    pub const BUILD: Metric = Metric::new("istio_build", "Component and version; always 1.");

    /// Attempts, the first included.
    pub const ATTEMPTS: Metric =
        Metric::new("libmesh_attempts_total", "Attempts made, the first of each request included.");
    /// Retries made.
    pub const RETRIES: Metric =
        Metric::new("libmesh_retries_total", "Retries made, by the reason of the failure before.");
    /// Retries not made.
    pub const RETRIES_REFUSED: Metric =
        Metric::new("libmesh_retries_refused_total", "Retries that were wanted and not made, by what forbade them.");
    /// Faults on purpose.
    pub const FAULTS: Metric =
        Metric::new("libmesh_faults_injected_total", "Requests that were delayed or aborted on purpose.");
    /// Copies for other clusters.
    pub const MIRRORED: Metric = Metric::new(
        "libmesh_mirrored_requests_total",
        "Copies of requests for a cluster that mirrors, by outcome: answered, failed, no_place, body_not_held, upgrade.",
    );
    /// Hedges sent.
    pub const HEDGES: Metric =
        Metric::new("libmesh_hedges_total", "Copies of a request sent before the first was answered.");
    /// Hedges not sent.
    pub const HEDGES_REFUSED: Metric =
        Metric::new("libmesh_hedges_refused_total", "Copies that were due and not sent, by what forbade them.");
    /// Hedges that were faster.
    pub const HEDGES_WON: Metric =
        Metric::new("libmesh_hedges_won_total", "Copies that were answered before the request they copied.");
    /// Retry budget left.
    pub const RETRY_BUDGET_BALANCE: Metric =
        Metric::new("libmesh_retry_budget_balance", "Retries the budget of a cluster still allows.");
    /// Refusals before anything was sent.
    pub const REFUSED: Metric =
        Metric::new("libmesh_requests_refused_total", "Requests refused locally, by error type.");
    /// Requests shed.
    pub const SHED: Metric =
        Metric::new("libmesh_requests_shed_total", "Requests refused by a concurrency limit, by side and criticality.");
    /// Concurrency limits.
    pub const LIMIT: Metric =
        Metric::new("libmesh_concurrency_limit", "Requests that may be in flight now, by what is limited.");
    /// Requests that wait for a place.
    pub const WAITING: Metric =
        Metric::new("libmesh_requests_waiting", "Requests that wait at a listener for a place.");
    /// Circuit breaker state.
    pub const BREAKER_STATE: Metric = Metric::new(
        "libmesh_circuit_breaker_state",
        "Circuit breakers in a state, by scope: those of a cluster's endpoints, and the cluster's own.",
    );
    /// Circuit breaker transitions.
    pub const BREAKER_TRANSITIONS: Metric = Metric::new(
        "libmesh_circuit_breaker_transitions_total",
        "Times a circuit breaker entered a state, by scope: those of a cluster's endpoints, and the cluster's own.",
    );
    /// Detections without ejection.
    pub const EJECTIONS_UNENFORCED: Metric = Metric::new(
        "libmesh_ejections_unenforced_total",
        "Outliers that were not ejected, by reason and by what spared them.",
    );
    /// Share of ejected endpoints.
    pub const EJECTED_SHARE: Metric =
        Metric::new("libmesh_ejected_share", "Share of a cluster's endpoints that are ejected now, 0 to 1.");
    /// Endpoints by health.
    pub const ENDPOINTS_HEALTH: Metric = Metric::new(
        "libmesh_endpoints_health",
        "Endpoints of a cluster by what operator, health check and the endpoint itself say.",
    );
    /// Health checks made.
    pub const HEALTH_CHECKS: Metric =
        Metric::new("libmesh_health_checks_total", "Health checks of a cluster's endpoints, by outcome.");
    /// Ejections.
    pub const EJECTIONS: Metric =
        Metric::new("libmesh_ejections_total", "Endpoints ejected by outlier detection, by reason.");
    /// Endpoints ejected now.
    pub const EJECTED: Metric =
        Metric::new("libmesh_ejected_endpoints", "Endpoints of a cluster that are ejected now.");
    /// Endpoints known now.
    pub const ENDPOINTS: Metric = Metric::new("libmesh_endpoints", "Endpoints of a cluster, by status.");
    /// Questions to name servers.
    pub const DNS_RESOLUTIONS: Metric = Metric::new(
        "libmesh_dns_resolutions_total",
        "Questions about the names of a cluster's endpoints that ended, by outcome: success, empty, timeout, error.",
    );
    /// Age of what name servers said.
    pub const DNS_AGE: Metric =
        Metric::new("libmesh_dns_age_seconds", "Time since the oldest DNS answer in use of a cluster was confirmed.");
    /// Panic mode.
    pub const PANIC: Metric =
        Metric::new("libmesh_panic", "1 while too few endpoints are healthy and health is ignored.");
    /// Guarded calls.
    pub const GUARD_CALLS: Metric = Metric::new("libmesh_guard_calls_total", "Guarded calls that ended, by outcome.");
    /// Attempts of guarded calls.
    pub const GUARD_ATTEMPTS: Metric =
        Metric::new("libmesh_guard_attempts_total", "Attempts of guarded calls, the first of each included.");
    /// Retries of guarded calls.
    pub const GUARD_RETRIES: Metric = Metric::new("libmesh_guard_retries_total", "Retries of guarded calls.");
    /// Retries of guarded calls not made.
    pub const GUARD_RETRIES_REFUSED: Metric = Metric::new(
        "libmesh_guard_retries_refused_total",
        "Retries of guarded calls that were wanted and not made, by what forbade them.",
    );
    /// Guarded calls in flight.
    pub const GUARD_IN_FLIGHT: Metric = Metric::new("libmesh_guard_calls_in_flight", "Guarded calls in flight.");
    /// Retry budget of a guard.
    pub const GUARD_BUDGET: Metric =
        Metric::new("libmesh_guard_retry_budget_balance", "Retries the budget of a guard still allows.");
    /// Circuit breaker of a guard.
    pub const GUARD_BREAKER: Metric = Metric::new(
        "libmesh_guard_circuit_breaker_state",
        "Circuit breaker of a guard: 0 closed, 1 half open, 2 open.",
    );
    /// Open connections.
    pub const POOL_CONNECTIONS: Metric =
        Metric::new("libmesh_pool_connections", "Open connections of a cluster, by state.");
    /// Requests in flight.
    pub const IN_FLIGHT: Metric = Metric::new("libmesh_requests_in_flight", "Requests in flight, by side.");
    /// The revision in force.
    pub const CONFIG_REVISION: Metric =
        Metric::new("libmesh_config_revision", "Number of the configuration revision in force.");
    /// Revisions accepted.
    pub const CONFIG_UPDATES: Metric =
        Metric::new("libmesh_config_updates_total", "Configuration revisions put in force.");
    /// Revisions refused.
    pub const CONFIG_REJECTS: Metric = Metric::new(
        "libmesh_config_rejects_total",
        "Configuration documents refused; the last good one stayed in force.",
    );
    /// Seconds until the certificate expires.
    pub const CERTIFICATE_EXPIRY: Metric = Metric::new(
        "libmesh_certificate_expiry_seconds",
        "Seconds until this workload's certificate expires; negative once it has.",
    );
    /// Certificates put in use.
    pub const SVID_ROTATIONS: Metric = Metric::new("libmesh_svid_rotations_total", "Certificates put in use.");
    /// Certificates that could not be obtained or used.
    pub const SVID_FAILURES: Metric =
        Metric::new("libmesh_svid_failures_total", "Attempts to obtain or load a certificate that failed.");
    /// Access decisions.
    pub const ACCESS_DECISIONS: Metric = Metric::new("libmesh_access_decisions_total", "Access decisions, by outcome.");
    /// Requests by what their end user's token was found to be.
    pub const END_USERS: Metric = Metric::new(
        "libmesh_end_user_tokens_total",
        "Requests with an end user's token, or without a required one, by issuer and what was found.",
    );
    /// An issuer's keys.
    pub const JWKS_LOADS: Metric =
        Metric::new("libmesh_jwks_loads_total", "Times the keys of an issuer were read or asked for, by outcome.");
    /// Requests that rules would decide otherwise once they are rolled out.
    pub const ACCESS_PLANNED: Metric = Metric::new(
        "libmesh_access_planned_total",
        "Requests that access rules in dry run, or in force for a share, would decide otherwise, by rule and outcome.",
    );
    /// Conditions that could not be evaluated.
    pub const CONDITION_FAILURES: Metric = Metric::new(
        "libmesh_access_condition_failures_total",
        "Conditions of access rules that could not be evaluated, and counted on the safe side, by rule.",
    );
    /// Requests over a rate limit.
    pub const RATE_LIMITED: Metric =
        Metric::new("libmesh_rate_limited_total", "Requests over a rate limit: refused, or passed and only counted.");
    /// Calls to a rate limit service.
    pub const RATE_LIMIT_CALLS: Metric =
        Metric::new("libmesh_rate_limit_calls_total", "Calls to a rate limit service, for a request or for a lease.");
    /// Requests on a lease.
    pub const RATE_LIMIT_LEASED: Metric = Metric::new(
        "libmesh_rate_limit_leased_total",
        "Requests that passed a global limit on a lease, without a call.",
    );
    /// Requests that could not be counted.
    pub const RATE_LIMIT_FAILURES: Metric = Metric::new(
        "libmesh_rate_limit_failures_total",
        "Requests that a rate limit service, or a shared file, could not count: passed, refused or counted alone.",
    );
    /// Leases kept.
    pub const RATE_LIMIT_LEASES: Metric =
        Metric::new("libmesh_rate_limit_leases", "Sets of descriptors that a global limit keeps a lease of.");
    /// Leases forgotten.
    pub const RATE_LIMIT_LEASES_EVICTED: Metric = Metric::new(
        "libmesh_rate_limit_leases_evicted_total",
        "Leases of a global limit that were forgotten although in use: `max_keys` is too small.",
    );
    /// Buckets of a limit that a server assigns.
    pub const RATE_LIMIT_QUOTA_BUCKETS: Metric = Metric::new(
        "libmesh_rate_limit_quota_buckets",
        "Buckets of a rate limit that a server assigns, by state: unassigned, active, expired.",
    );
    /// Requests without a bucket.
    pub const RATE_LIMIT_QUOTA_OVERFLOWED: Metric = Metric::new(
        "libmesh_rate_limit_quota_overflowed_total",
        "Requests that no bucket was left for and that are not reported: `max_buckets` is too small.",
    );
    /// Usage reports.
    pub const RATE_LIMIT_QUOTA_REPORTS: Metric = Metric::new(
        "libmesh_rate_limit_quota_reports_total",
        "Buckets whose usage was reported to the server that assigns, each time.",
    );
    /// What the server assigned.
    pub const RATE_LIMIT_QUOTA_ASSIGNMENTS: Metric = Metric::new(
        "libmesh_rate_limit_quota_assignments_total",
        "Assignments of a server: replaced, extended or abandoned a bucket, meant an unknown one, or nothing.",
    );
    /// Whether the server can be heard.
    pub const RATE_LIMIT_QUOTA_STREAM: Metric =
        Metric::new("libmesh_rate_limit_quota_stream_open", "Whether the server that assigns answers on a stream (1).");
    /// Streams.
    pub const RATE_LIMIT_QUOTA_STREAMS: Metric =
        Metric::new("libmesh_rate_limit_quota_streams_total", "Streams begun to the server that assigns.");
    /// Ends of streams.
    pub const RATE_LIMIT_QUOTA_STREAM_ENDS: Metric = Metric::new(
        "libmesh_rate_limit_quota_stream_ends_total",
        "Streams to the server that assigns that ended: rpc, ended, timeout, endpoint_left.",
    );
    /// Check lookups answered from the cache.
    pub const CHECK_CACHE_HITS: Metric =
        Metric::new("libmesh_check_cache_hits_total", "Checks answered from the cache.");
    /// Check lookups that asked the policy server.
    pub const CHECK_CACHE_MISSES: Metric =
        Metric::new("libmesh_check_cache_misses_total", "Checks that were not in the cache.");
    /// Hits that refused.
    pub const CHECK_CACHE_NEGATIVE_HITS: Metric =
        Metric::new("libmesh_check_cache_negative_hits_total", "Checks refused by an answer from the cache.");
    /// Misses that found an answer past its end.
    pub const CHECK_CACHE_EXPIRED: Metric =
        Metric::new("libmesh_check_cache_expired_total", "Checks whose kept answer was past its end.");
    /// Live answers that made room.
    pub const CHECK_CACHE_EVICTED: Metric =
        Metric::new("libmesh_check_cache_evicted_total", "Answers that had to make room while they still held.");
    /// Misses answered by another request's call.
    pub const CHECK_CACHE_COALESCED: Metric =
        Metric::new("libmesh_check_cache_coalesced_total", "Checks that waited for another request's call.");
    /// Background calls.
    pub const CHECK_CACHE_REFRESHES: Metric =
        Metric::new("libmesh_check_cache_refreshes_total", "Answers asked for again before their end.");
    /// Expired answers that stood in.
    pub const CHECK_CACHE_STALE: Metric = Metric::new(
        "libmesh_check_cache_stale_total",
        "Checks answered by an answer past its end while the policy server failed.",
    );
    /// Answers that were not kept.
    pub const CHECK_CACHE_UNCACHEABLE: Metric =
        Metric::new("libmesh_check_cache_uncacheable_total", "Answers that may not be kept.");
    /// Answers whose hints could not be read.
    pub const CHECK_CACHE_MALFORMED_HINTS: Metric =
        Metric::new("libmesh_check_cache_malformed_hints_total", "Answers whose cache hints could not be read.");
    /// All answers void.
    pub const CHECK_CACHE_VOIDED: Metric = Metric::new(
        "libmesh_check_cache_voided_total",
        "Times that all answers of a check were voided: its server named a new epoch, or somebody asked for it.",
    );
    /// Answers held.
    pub const CHECK_CACHE_ENTRIES: Metric = Metric::new("libmesh_check_cache_entries", "Answers held now.");
    /// What they take.
    pub const CHECK_CACHE_BYTES: Metric =
        Metric::new("libmesh_check_cache_bytes", "Bytes that held answers take with their keys.");
    /// Reference sets.
    pub const CHECK_CACHE_REFERENCE_SETS: Metric = Metric::new(
        "libmesh_check_cache_reference_sets",
        "Different sets of attributes that answers depend on; each lookup tries all.",
    );
    /// Checks that failed, by what that meant.
    pub const CHECK_FAILURES: Metric = Metric::new(
        "libmesh_check_failures_total",
        "Checks without an answer, by reason and by what was done: fail_open, fail_closed, stale (an expired answer \
         stood in) or refresh (no request waited).",
    );
    /// Calls to the policy server.
    pub const CHECK_CALLS: Metric =
        Metric::new("libmesh_check_calls_total", "Calls to a policy server, or decisions in this process.");
    /// Log lines lost.
    pub const ACCESS_LOG_DROPPED: Metric =
        Metric::new("libmesh_access_log_dropped_total", "Access log lines dropped: queue full or sink failing.");
    /// What the series cap folded.
    pub const METRICS_FOLDED: Metric = Metric::new(
        "libmesh_metrics_folded_total",
        "Records that went to an overflow series because a metric was full.",
    );
}

/// Metric labels.
pub mod label {
    /// Which end reports: `source` or `destination`.
    pub const REPORTER: &str = "reporter";
    /// Istio's labels of every HTTP and gRPC metric, in the order they are written.
    pub const REQUEST: [&str; 25] = [
        REPORTER,
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_canonical_service",
        "source_canonical_revision",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_cluster",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "request_protocol",
        "response_code",
        "grpc_response_status",
        "response_flags",
        "connection_security_policy",
    ];
    /// Istio's labels of every TCP metric, in the order they are written: a connection has no status.
    pub const CONNECTION: [&str; 23] = [
        REPORTER,
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_canonical_service",
        "source_canonical_revision",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_cluster",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "request_protocol",
        "response_flags",
        "connection_security_policy",
    ];
    /// Upper bound of a histogram bucket.
    pub const LE: &str = "le";
    /// `istio_build`: the component.
    pub const COMPONENT: &str = "component";
    /// `istio_build`: its version.
    pub const TAG: &str = "tag";
    /// Name of a cluster of the configuration.
    pub const CLUSTER: &str = "cluster";
    /// Address of an endpoint.
    pub const ENDPOINT: &str = "endpoint";
    /// Name of a listener.
    pub const LISTENER: &str = "listener";
    /// Name of a guard.
    pub const GUARD: &str = "guard";
    /// Name of a check.
    pub const CHECK: &str = "check";
    /// Name of an issuer of end users' tokens.
    pub const ISSUER: &str = "issuer";
    /// Name of a metric.
    pub const METRIC: &str = "metric";
    /// An `ErrorKind`, as text.
    pub const ERROR_TYPE: &str = "error_type";
    /// Why something was done.
    pub const REASON: &str = "reason";
    /// The name of an access rule or policy, or why there is none.
    pub const RULE: &str = "rule";
    /// The name of a rate limit.
    pub const LIMIT: &str = "limit";
    /// What a call is for: `request` or `lease`.
    pub const PURPOSE: &str = "purpose";
    /// How something ended.
    pub const OUTCOME: &str = "outcome";
    /// A state by name.
    pub const STATE: &str = "state";
    /// A class of requests, by name.
    pub const CRITICALITY: &str = "criticality";
    /// `endpoint` or `cluster`: whose breaker it is.
    pub const SCOPE: &str = "scope";
    /// What spared an outlier, in the words of gRFC A91.
    pub const UNENFORCED_REASON: &str = "unenforced_reason";
    /// `inbound` or `outbound`.
    pub const SIDE: &str = "side";
}

/// Label values with a fixed meaning.
pub mod value {
    /// A fact nobody told us.
    pub const UNKNOWN: &str = "unknown";
    /// The canonical revision of a workload that names none.
    pub const LATEST: &str = "latest";
    /// Every label of a series that stands for the ones over the cap.
    pub const OVERFLOW: &str = "overflow";
    /// No response flag.
    pub const NO_FLAG: &str = "-";
    /// What is spoken over a bare connection.
    pub const TCP: &str = "tcp";
    /// This library, in `istio_build`.
    pub const COMPONENT: &str = "libmesh";
}

/// Headers this module reads and writes.
pub mod header {
    use http::HeaderName;

    /// W3C trace context.
    pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    /// W3C trace context, vendors' part.
    pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
    /// W3C baggage.
    pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
    /// Who calls, and who answered: see [`crate::telemetry::Peer`].
    pub const PEER: HeaderName = HeaderName::from_static("x-mesh-peer");
    /// In a request: in which form its caller wants to hear how loaded the server is.
    pub const LOAD_FORMAT: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
    /// How much it matters that a request is answered: see `policy::criticality`.
    pub const CRITICALITY: HeaderName = HeaderName::from_static("x-mesh-criticality");
    /// Why a server of the mesh turned a request away without acting on it: `overloaded`.
    pub const REFUSED: HeaderName = HeaderName::from_static("x-mesh-refused");
    /// In a response: its server is draining and wants no new request.
    pub const DRAINING: HeaderName = HeaderName::from_static("x-mesh-draining");
    /// In a request: it is not for the application; the server side answers whether it is serving.
    pub const PROBE: HeaderName = HeaderName::from_static("x-mesh-probe");
    /// In a response: its server must be taken out at once (Envoy's health check filter).
    pub const ENVOY_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
    /// In a health check's response: its server is degraded (Envoy).
    pub const ENVOY_DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
    /// One id for one request, as Envoy names it.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// Which attempt of its caller a request is, from 1, as Envoy counts; absent on the first.
    pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
    /// How many attempts of the caller came before, as gRPC counts [gRFC A6].
    pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
    /// `false` on a failure that was tried as often as it should be, further down: trying the whole again
    /// only adds load. Nobody else reads it.
    pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-mesh-should-retry");
    /// `1` on a request asks that the call be explained, where the configuration allows it.
    pub const EXPLAIN: HeaderName = HeaderName::from_static("x-mesh-explain");
}

/// Span attributes.
pub mod span {
    /// How often a request was sent again; absent on the first attempt.
    pub const RESEND_COUNT: &str = "http.request.resend_count";
    /// Request method.
    pub const METHOD: &str = "http.request.method";
    /// Response status.
    pub const STATUS: &str = "http.response.status_code";
    /// The matched rule.
    pub const ROUTE: &str = "http.route";
    /// The logical host called.
    pub const SERVER_ADDRESS: &str = "server.address";
    /// The reason of a failure.
    pub const ERROR_TYPE: &str = "error.type";
    /// The configuration revision that decided.
    pub const REVISION: &str = "libmesh.revision";
    /// The chosen cluster.
    pub const CLUSTER: &str = "libmesh.cluster";
    /// The chosen endpoint.
    pub const ENDPOINT: &str = "libmesh.endpoint";
}

/// Keys of an access-log line, in the order they are written. Absent facts are left out.
pub mod log {
    /// Every key.
    pub const ALL: [&str; 30] = [
        "time",
        "reporter",
        "protocol",
        "method",
        "host",
        "path",
        "route",
        "cluster",
        "endpoint",
        "listener",
        "status",
        "grpc_status",
        "flags",
        "duration_ms",
        "attempts",
        "revision",
        "request_bytes",
        "response_bytes",
        "request_id",
        "trace_id",
        "span_id",
        "peer",
        "peer_serial",
        "principal",
        "access_rule",
        "would_deny",
        "would_allow",
        "check_metadata",
        "error_type",
        "error_detail",
    ];
}
