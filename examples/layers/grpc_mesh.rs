//! A tonic client over the mesh's own client: the configuration says where the service is and that UNAVAILABLE is
//! tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use mesh_core::error::BoxError;
use mesh_core::{CallReport, GrpcChannel, Mesh};
use tonic::{Code, Request, Response, Status};

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
    // A generated service is served by the mesh's listener as it is.
    let server = Mesh::from_yaml("{version: 1, listeners: [{name: inbound, address: '127.0.0.1:0'}]}", "server.yaml")?;
    let flaky = Flaky::default();
    let listening = server.listen("inbound", AuthorizationServer::new(flaky.clone())).await?;
    let config = format!(
        r#"
version: 1
clusters: [{{ name: policy, endpoints: [{{ address: "{}" }}] }}]
routes:
  - {{ hosts: [policy], rules: [{{ backends: [{{ cluster: policy }}], retry: {{ conditions: [unavailable] }} }}] }}
"#,
        listening.local_addr()
    );
    let mesh = Mesh::from_yaml(&config, "client.yaml")?;

    let client = |host: &'static str| {
        AuthorizationClient::with_origin(GrpcChannel::new(mesh.client()), http::Uri::from_static(host))
    };
    let response = client("http://policy").check(CheckRequest::default()).await?;
    let report = response.extensions().get::<CallReport>().ok_or("the mesh reports on each call")?;
    println!("{} answered after {} attempts", report.endpoint, report.attempts);
    assert_eq!((report.attempts, flaky.0.load(Ordering::SeqCst)), (3, 3));

    // An error of the mesh is a status of gRPC.
    let refused = client("http://elsewhere").check(CheckRequest::default()).await.err().ok_or("there is no route")?;
    println!("no such host: {:?}, {}", refused.code(), refused.message());
    assert_eq!(refused.code(), Code::Unimplemented);
    Ok(())
}
