//! A tonic client through the layers: a server that says UNAVAILABLE twice is asked three times; what the layers
//! refuse, and a server that is gone, reads as a gRPC status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use mesh_core::error::BoxError;
use mesh_core::layer::{CircuitBreakerLayer, ConcurrencyLayer, RetryLayer, TimeoutLayer, to_status};
use mesh_core::policy::retry::{RetryConditions, RetryPolicy};
use tokio::net::TcpSocket;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tower::ServiceBuilder;

/// The method `check` of any service: UNAVAILABLE twice, then an answer.
#[derive(Clone, Default)]
struct Flaky(Arc<AtomicU32>);

#[tonic::async_trait]
impl Authorization for Flaky {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(Status::unavailable("not yet")),
            _ => Ok(Response::new(CheckResponse::default())),
        }
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let flaky = Flaky::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let sound = Endpoint::from_shared(format!("http://{}", incoming.local_addr()?))?.connect_lazy();
    let server = Server::builder().add_service(AuthorizationServer::new(flaky.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    // An address that is taken, and does not listen.
    let nobody = TcpSocket::new_v4()?;
    nobody.bind("127.0.0.1:0".parse()?)?;
    let gone = Endpoint::from_shared(format!("http://{}", nobody.local_addr()?))?.connect_lazy();

    for (what, channel, room, expected) in [
        ("UNAVAILABLE twice, then an answer", &sound, 100, (Code::Ok, 3)),
        ("no room under the limit", &sound, 0, (Code::Unavailable, 0)),
        // Nothing was sent, so it may be tried again, whatever the method.
        ("no server", &gone, 100, (Code::Unavailable, 3)),
    ] {
        let (code, attempts) = ask(channel.clone(), room).await;
        println!("{what}: {code:?} after {attempts} attempts");
        assert_eq!((code, attempts), expected, "{what}");
    }
    assert_eq!(flaky.0.load(Ordering::SeqCst), 3, "requests that arrived");
    Ok(())
}

/// One call through layers over tonic's own channel: how it ended, after how many attempts.
async fn ask(channel: Channel, room: u32) -> (Code, u32) {
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let counted = move |request: http::Request<tonic::body::Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        request
    };
    let channel = ServiceBuilder::new().map_request(counted).service(channel);
    // All of gRPC is POST: the policy has to name the statuses that may be tried again.
    let conditions = RetryConditions::default().with(RetryConditions::NONE.with_grpc_code(Code::Unavailable as u16));
    let policy = RetryPolicy { conditions, ..RetryPolicy::default() };

    let stack = ServiceBuilder::new()
        .map_err(to_status)
        .layer(TimeoutLayer::new(Duration::from_secs(60)))
        .layer(ConcurrencyLayer::new(room))
        .layer(RetryLayer::new(policy))
        .layer(CircuitBreakerLayer::default())
        .service(channel);
    let mut client = AuthorizationClient::new(stack);
    let answer = client.check(CheckRequest::default()).await;

    (answer.map_or_else(|status| status.code(), |_| Code::Ok), sent.load(Ordering::SeqCst))
}
