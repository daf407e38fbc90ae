//! Only the endpoints of a cluster: balancer, breakers, ejection and pool of the configuration, without routes and
//! retries; here below a retry layer with a policy of its own.

use axum::Router;
use axum::routing::get;
use http::{Request, StatusCode};
use mesh_core::error::BoxError;
use mesh_core::layer::{EndpointService, RetryLayer};
use mesh_core::policy::retry::RetryPolicy;
use mesh_core::{Body, Mesh};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let mut endpoints = Vec::new();
    for (status, name) in [(StatusCode::SERVICE_UNAVAILABLE, "broken"), (StatusCode::OK, "sound")] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        endpoints.push(format!("{{address: \"{}\"}}", listener.local_addr()?));
        let server = Router::new().route("/", get(move || async move { (status, name) }));
        tokio::spawn(async { axum::serve(listener, server).await });
    }
    let config = format!(
        "{{version: 1, clusters: [{{name: books, balancer: round_robin, endpoints: [{}]}}]}}",
        endpoints.join(", ")
    );
    let mesh = Mesh::from_yaml(&config, "mesh.yaml")?;
    let bare = EndpointService::new(&mesh, "books", None)?;
    let retrying = ServiceBuilder::new().layer(RetryLayer::new(RetryPolicy::default())).service(bare.clone());
    let get = || Request::get("http://books/").body(Body::empty());

    let turns = [bare.clone().oneshot(get()?).await?.status(), bare.oneshot(get()?).await?.status()];
    println!("each in turn: {turns:?}");
    assert!(turns.contains(&StatusCode::OK) && turns.contains(&StatusCode::SERVICE_UNAVAILABLE));
    for _ in 0..2 {
        let status = retrying.clone().oneshot(get()?).await?.status();
        println!("with retries: {status}");
        assert_eq!(status, StatusCode::OK);
    }
    Ok(())
}
