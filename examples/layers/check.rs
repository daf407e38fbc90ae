//! Only a remote check and its cache, around an axum router: a policy server that speaks ext_authz is asked over a
//! tonic channel, once for each user; refusals are answered in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status as Verdict;
use http::Request;
use mesh_core::Body;
use mesh_core::access::{CacheConfig, CheckConfig, Fact, RemoteCheck};
use mesh_core::error::BoxError;
use mesh_core::layer::CheckLayer;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Response, Status};
use tower::{Layer, ServiceExt};

/// Refuses mallory, and counts how often it is asked.
#[derive(Clone, Default)]
struct Policy(Arc<AtomicU32>);

#[tonic::async_trait]
impl Authorization for Policy {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let http = request.into_inner().attributes.and_then(|facts| facts.request?.http).unwrap_or_default();
        let is_welcome = http.headers.get("user").is_some_and(|user| user != "mallory");
        let code = if is_welcome { Code::Ok } else { Code::PermissionDenied } as i32;
        Ok(Response::new(CheckResponse { status: Some(Verdict { code, ..Verdict::default() }), ..Default::default() }))
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let policy = Policy::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let channel = Endpoint::from_shared(format!("http://{}", incoming.local_addr()?))?.connect_lazy();
    let server = Server::builder().add_service(AuthorizationServer::new(policy.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));

    let minute = Duration::from_secs(60);
    let config = CheckConfig {
        timeout: minute,
        cache: CacheConfig::keyed(vec![Fact::parse("header:user")?, Fact::Path], minute, minute),
        ..CheckConfig::default()
    };
    let check = CheckLayer::new(Arc::new(RemoteCheck::new(config)), channel, "inbound");
    let app = check.layer(Router::new().route("/books/7", get(|| async { "a book" })));

    for (user, expected) in [("ann", 200), ("mallory", 403), ("ann", 200), ("mallory", 403)] {
        let request = Request::get("/books/7").header("user", user).body(Body::empty())?;
        let status = app.clone().oneshot(request).await?.status();
        println!("{user}: {status}");
        assert_eq!(status, expected);
    }
    println!("questions asked: {}", policy.0.load(Ordering::SeqCst));
    assert_eq!(policy.0.load(Ordering::SeqCst), 2, "the other two answers were kept");
    Ok(())
}
