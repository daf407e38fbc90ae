//! Probes: active health checks, and questions to endpoints that said they are draining.
//!
//! Decides: nothing about health; it asks, and hands what it found to the endpoint's own state. Never: waits for
//! one probe before starting the next, or has more than [`MAX_PROBES`] out at once; what waits for room waits once.
//! Invariant: each turn that is taken is given back, however the probe ends.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use tokio::sync::Semaphore;

use crate::cluster::group::Cluster;
use crate::cluster::health::{Found, HealthCheck, Probe, Question, Schedule, notice};
use crate::cluster::member::Endpoint;
use crate::core::Core;
use crate::endpoint::ask::{Answer, Ask, ask, converse};
use crate::telemetry::names::header::{PEER, PROBE};
use crate::telemetry::names::{label, metric};

/// Probes what is due until the mesh is gone.
pub(super) async fn watch(core: Weak<Core>) {
    let permits = Arc::new(Semaphore::new(MAX_PROBES));
    loop {
        tokio::time::sleep(TICK).await;
        let Some(core) = core.upgrade() else { return };
        let snapshot = core.snapshot.load_full();
        for cluster in snapshot.clusters.values() {
            start_due(&core, cluster, &permits);
        }
    }
}

/// Starts every probe of a cluster whose turn it is, or has it wait for room.
fn start_due(core: &Arc<Core>, cluster: &Arc<Cluster>, permits: &Arc<Semaphore>) {
    let check = cluster.settings.health_check.as_ref();
    let (now, mut rng) = (core.clock.now(), core.randomness.generator());
    cluster.each_endpoint(|endpoint| {
        let health = &endpoint.live.health;
        let schedule = match check {
            Some(check) if cluster.is_used() => check.schedule,
            Some(check) => check.idle_schedule,
            // Without a check only who said that he is draining is asked, whether he is still there and still is.
            None if health.is_draining(now) => RETURN_SCHEDULE,
            None => return,
        };
        if health.take_turn(schedule, now, &mut rng) {
            tokio::spawn(run(
                (Arc::downgrade(core), Arc::downgrade(cluster), Arc::clone(endpoint)),
                Arc::clone(permits),
            ));
        }
    });
}

/// Who took a turn waits for room in the order of the turns: a cluster whose endpoints do not answer delays
/// the others, and starves none.
async fn run((core, cluster, endpoint): (Weak<Core>, Weak<Cluster>, Arc<Endpoint>), permits: Arc<Semaphore>) {
    let Ok(permit) = permits.acquire_owned().await else { return };
    let Some(core) = core.upgrade() else { return };
    let Some(cluster) = cluster.upgrade() else { return endpoint.live.health.not_probed(core.clock.now()) };
    let since = core.clock.now();
    let check = cluster.settings.health_check.clone();
    let patience = check.as_ref().map_or(RETURN_TIMEOUT, |check| check.timeout);
    let is_late = core.clock.sleep_until(crate::time::after(since, patience));
    let failed = Probe { found: Found::Failed, speaks: false };
    let probe = tokio::select! {
        biased;
        probe = question(&core, (&cluster, &endpoint), check.as_ref()) => probe.unwrap_or(failed),
        () = is_late => failed,
    };
    drop(permit);
    settle(&core, (&cluster, &endpoint), check.as_ref(), (probe, since));
}

/// What was found is told to the endpoint's state, to metrics and, if it changed something, to the log.
fn settle(
    core: &Core,
    (cluster, endpoint): (&Cluster, &Endpoint),
    check: Option<&HealthCheck>,
    (probe, since): (Probe, Instant),
) {
    let (health, now) = (&endpoint.live.health, core.clock.now());
    let Some(check) = check else { return health.asked(probe, since, now) };
    let labels = [(label::CLUSTER, &*cluster.name), (label::OUTCOME, outcome(probe.found))];
    core.telemetry.registry.counter(&metric::HEALTH_CHECKS, &labels).inc();
    if matches!(probe.found, Found::Healthy) && cluster.outlier.take_back_early(endpoint.live.outlier.key()) {
        tracing::info!(cluster = %cluster.name, endpoint = %endpoint.name, "the health check ends the ejection");
    }
    if let Some(change) = health.probed(probe, since, (check.thresholds, now)) {
        tracing::warn!(cluster = %cluster.name, endpoint = %endpoint.name, from = change.from.as_str(), to = change.to.as_str(), "health changed");
    }
}

fn outcome(found: Found) -> &'static str {
    match found {
        Found::Healthy => "healthy",
        Found::Degraded => "degraded",
        Found::Draining => "draining",
        Found::Failed => "failed",
        Found::Refused => "refused",
    }
}

/// Asks. `None`: there was no answer.
async fn question(
    core: &Arc<Core>,
    (cluster, endpoint): (&Cluster, &Endpoint),
    check: Option<&HealthCheck>,
) -> Option<Probe> {
    let dialer = core.dialer().ok()?;
    let (address, keepalive) = (&endpoint.address, cluster.settings.pool.keepalive);
    let spoken = |found| Probe { found, speaks: true };
    let asked = match check.map(|check| &check.question) {
        Some(Question::Tcp { send, receive }) => {
            let transport = cluster.transport(endpoint, false);
            let is_right = converse(dialer, address, &transport, (send, receive)).await.ok()?;
            let found = if is_right { Found::Healthy } else { Found::Failed };
            return Some(Probe { found, speaks: false });
        }
        Some(Question::Http { method, path, host, .. }) => {
            Ask { method: method.clone(), path, host, headers: headers(core), body: Bytes::new() }
        }
        Some(Question::Grpc { service, host }) => {
            let mut headers = headers(core);
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
            let path = Uri::from_static("/grpc.health.v1.Health/Check");
            let question = Ask { method: Method::POST, path: &path, host, headers, body: grpc_request(service) };
            let answer = ask(dialer, address, (&cluster.transport(endpoint, true), keepalive), question).await.ok()?;
            return Some(spoken(read_grpc(&answer)));
        }
        None => {
            let (path, host) = (Uri::from_static("*"), HeaderValue::from_static("health"));
            let mut headers = headers(core);
            headers.insert(PROBE, HeaderValue::from_static("1"));
            let question = Ask { method: Method::OPTIONS, path: &path, host: &host, headers, body: Bytes::new() };
            let answer = ask(dialer, address, (&cluster.transport(endpoint, false), keepalive), question).await.ok()?;
            let found = if notice::is_leaving(&answer.headers) { Found::Draining } else { Found::Healthy };
            return Some(spoken(found));
        }
    };
    let answer = ask(dialer, address, (&cluster.transport(endpoint, false), keepalive), asked).await.ok()?;
    let Some(Question::Http { expected, .. }) = check.map(|check| &check.question) else { return None };
    Some(spoken(read_http(&answer, expected)))
}

/// A probe says who it comes from, as every request within the mesh: only then a server tells that it drains.
fn headers(core: &Core) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static("libmesh/health"));
    if core.telemetry.exchanges_peers {
        headers.insert(PEER, core.telemetry.node_header.clone());
    }
    headers
}

fn read_http(answer: &Answer, expected: &[(u16, u16)]) -> Found {
    let status = answer.status.as_u16();
    let says_draining = answer.body.trim_ascii().eq_ignore_ascii_case(b"draining");
    if answer.headers.contains_key(crate::telemetry::names::header::ENVOY_FAIL) {
        Found::Refused
    } else if notice::is_leaving(&answer.headers) || says_draining {
        Found::Draining
    } else if !expected.iter().any(|(from, to)| (*from..=*to).contains(&status)) {
        Found::Failed
    } else if notice::is_degraded(&answer.headers) {
        Found::Degraded
    } else {
        Found::Healthy
    }
}

/// A server that says NOT_SERVING is asked to leave alone, not found broken: it may be used when all else fails.
fn read_grpc(answer: &Answer) -> Found {
    let has_failed = answer.headers.get("grpc-status").is_some_and(|status| status != "0");
    if notice::is_leaving(&answer.headers) {
        return Found::Draining;
    }
    if has_failed || answer.status != StatusCode::OK {
        return Found::Failed;
    }
    match answer.body.get(5..) {
        Some([FIELD_STATUS, SERVING, ..]) => Found::Healthy,
        Some([FIELD_STATUS, NOT_SERVING, ..]) => Found::Draining,
        _ => Found::Failed,
    }
}

/// `HealthCheckRequest { service }` in its gRPC frame.
fn grpc_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            message.put_u8((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        message.put_u8(left as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse.status`, field 1, a varint.
const FIELD_STATUS: u8 = 0x08;
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// How often is looked whose turn it is: half of the shortest interval that makes sense.
const TICK: Duration = Duration::from_millis(100);
/// Probes in flight at once: a thousand endpoints that do not answer within 1 s are probed in 16 s.
const MAX_PROBES: usize = 64;
/// An endpoint that said it is draining is asked this often whether it is back.
const RETURN_SCHEDULE: Schedule = Schedule { interval: Duration::from_millis(200), jitter_percent: 50 };
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, header: Option<&'static str>, body: &'static [u8]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.extend(header.map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("1"))));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from_static(body) }
    }

    #[test]
    fn an_http_answer_is_read_by_status_header_and_body() {
        for (status, header, body, expected) in [
            (200, None, &b"ok"[..], Found::Healthy),
            (204, None, b"", Found::Healthy),
            (302, None, b"", Found::Failed),
            (503, None, b"down", Found::Failed),
            (503, None, b"DRAINING\n", Found::Draining),
            (200, Some("x-mesh-draining"), b"", Found::Draining),
            (200, Some("x-envoy-degraded"), b"", Found::Degraded),
            (503, Some("x-envoy-degraded"), b"", Found::Failed),
            (200, Some("x-envoy-immediate-health-check-fail"), b"", Found::Refused),
        ] {
            assert_eq!(
                read_http(&answer(status, header, body), &[(200, 299)]),
                expected,
                "{status} {header:?} {body:?}"
            );
        }
    }

    #[test]
    fn a_grpc_answer_is_read_by_its_serving_status() {
        for (status, body, expected) in [
            (200, &b"\0\0\0\0\x02\x08\x01"[..], Found::Healthy),
            (200, b"\0\0\0\0\x02\x08\x02", Found::Draining),
            (200, b"\0\0\0\0\x02\x08\x03", Found::Failed),
            (200, b"\0\0\0\0\0", Found::Failed),
            (200, b"", Found::Failed),
            (404, b"\0\0\0\0\x02\x08\x01", Found::Failed),
        ] {
            assert_eq!(read_grpc(&answer(status, None, body)), expected, "{status} {body:?}");
        }
        let mut refused = answer(200, None, b"");
        refused.headers.insert("grpc-status", HeaderValue::from_static("12"));
        assert_eq!(read_grpc(&refused), Found::Failed);
    }

    #[test]
    fn a_grpc_question_names_its_service_in_a_frame() {
        assert_eq!(&grpc_request("")[..], b"\0\0\0\0\0");
        assert_eq!(&grpc_request("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "s".repeat(200);
        let frame = grpc_request(&long);
        assert_eq!((&frame[..5], &frame[5..8], frame.len()), (&b"\0\0\0\0\xcb"[..], &b"\x0a\xc8\x01"[..], 208));
    }
}
