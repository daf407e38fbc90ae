//! A rate limit service that says what it is told to, and a service behind a limit.

use std::collections::VecDeque;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::Duration as WireDuration;
use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tokio::net::TcpSocket;
use tonic::Status;
use tower::{Layer, ServiceExt};

/// Says the answers in order; the last one stays. A counter instead of answers counts as a server does.
#[derive(Default)]
pub(crate) struct Script {
    answers: Mutex<VecDeque<Result<RateLimitResponse, Status>>>,
    seen: Mutex<Vec<RateLimitRequest>>,
    /// All or nothing of so many, as Envoy's server counts.
    counter: Option<(u32, AtomicU32)>,
    is_silent: bool,
}

impl Script {
    pub(crate) fn answering(answers: impl IntoIterator<Item = Result<RateLimitResponse, Status>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    pub(crate) fn counting(limit: u32) -> Arc<Self> {
        Arc::new(Self { counter: Some((limit, AtomicU32::new(0))), ..Self::default() })
    }

    pub(crate) fn silent() -> Arc<Self> {
        Arc::new(Self { is_silent: true, ..Self::default() })
    }

    /// Listens as long as the test runs.
    pub(crate) async fn serve(self: &Arc<Self>) -> SocketAddr {
        let server = Mesh::from_yaml("listeners: [{name: rls, address: \"127.0.0.1:0\"}]", "rls.yaml").unwrap();
        let service = RateLimitServiceServer::from_arc(Arc::clone(self));
        let address = server.listen("rls", service).await.unwrap().local_addr();
        std::mem::forget(server);
        address
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn seen(&self) -> Vec<RateLimitRequest> {
        self.seen.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl RateLimitService for Script {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let hits = request.hits_addend;
        self.seen.lock().unwrap().push(request);
        if self.is_silent {
            return pending().await;
        }
        if let Some((limit, counted)) = &self.counter {
            let counted = counted.fetch_add(hits, Ordering::SeqCst) + hits;
            let answer = if counted > *limit { over() } else { self::limit(*limit, limit - counted) };
            return Ok(tonic::Response::new(answer));
        }
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.unwrap().map(tonic::Response::new)
    }
}

/// So many an hour, so many left, 7.5 seconds to go.
pub(crate) fn limit(limit: u32, remaining: u32) -> RateLimitResponse {
    let current = RateLimit { requests_per_unit: limit, unit: Unit::Hour as i32, ..RateLimit::default() };
    let status = DescriptorStatus {
        code: Code::Ok as i32,
        current_limit: Some(current),
        limit_remaining: remaining,
        duration_until_reset: Some(WireDuration { seconds: 7, nanos: 500_000_000 }),
        ..DescriptorStatus::default()
    };
    RateLimitResponse { overall_code: Code::Ok as i32, statuses: vec![status], ..RateLimitResponse::default() }
}

pub(crate) fn over() -> RateLimitResponse {
    let mut response = limit(10, 0);
    response.overall_code = Code::OverLimit as i32;
    response.statuses[0].code = Code::OverLimit as i32;
    response
}

pub(crate) fn unknown() -> RateLimitResponse {
    RateLimitResponse::default()
}

pub(crate) fn refused() -> Status {
    Status::unavailable("down")
}

/// Taken as long as the tests run, by a socket that does not listen: nobody else gets it.
pub(crate) fn dead() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

pub(crate) fn pairs(descriptor: &RateLimitDescriptor) -> Vec<String> {
    descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect()
}

pub(crate) const BY_USER: &str =
    "descriptors: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]";

/// A limit with patience for a cold connection; one that waits for nobody says its own timeout.
pub(crate) fn document(server: SocketAddr, limit: &str) -> String {
    let patience = if limit.contains("timeout: ") { "" } else { ", timeout: 20s" };
    format!(
        "node: {{service: front}}\n\
         clusters: [{{name: limits, protocol: http2, connect_timeout: 15s, endpoints: [{{address: \"{server}\"}}]}}]\n\
         listeners: [{{name: in}}]\n\
         policy: {{global_rate_limits: [{{name: users, cluster: limits, domain: shop, {limit}{patience}}}]}}\n"
    )
}

pub(crate) fn mesh(server: SocketAddr, limit: &str) -> Mesh {
    Mesh::from_yaml(&document(server, limit), "limits.yaml").unwrap()
}

/// Sends it to the service behind the limit. Returns the headers that the application saw, if it saw any.
pub(crate) async fn send(mesh: &Mesh, request: Request<Body>) -> (Response<Body>, HeaderMap) {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let keep = Arc::clone(&seen);
    let application = tower::service_fn(move |request: Request<Body>| {
        keep.lock().unwrap().clone_from(request.headers());
        async { Ok::<_, BoxError>(Response::new(Body::empty())) }
    });
    let service = mesh.server_layer("in").unwrap().layer(application);
    let response = service.oneshot(request).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    (response, seen)
}

/// Waits until it is so; a test that waits in vain fails.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 10 s for {what}");
}
