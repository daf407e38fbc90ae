//! All of the client's layers, composed by the routes of a configuration: it decides as `Mesh::client` does.

use axum::Router;
use axum::http::Uri;
use http::Request;
use mesh_core::error::BoxError;
use mesh_core::layer::compose;
use mesh_core::{Body, Mesh};
use tokio::net::TcpListener;
use tower::ServiceExt;

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = format!(
        r#"
version: 1
clusters: [{{ name: books, endpoints: [{{ address: "{}" }}] }}]
routes:
  - hosts: [books]
    rules: [{{ match: [{{ path: {{ prefix: /v2 }} }}], rewrite: {{ prefix: /new }}, backends: [{{ cluster: books }}] }}]
"#,
        listener.local_addr()?
    );
    let echo = Router::new().fallback(|uri: Uri| async move { uri.path().to_owned() });
    tokio::spawn(async { axum::serve(listener, echo).await });

    let mesh = Mesh::from_yaml(&config, "mesh.yaml")?;
    let get = || Request::get("http://books/v2/7").body(Body::empty());
    let composed = compose(&mesh).oneshot(get()?).await?.into_body().collect_up_to(64).await?;
    let whole = mesh.client().call(get()?).await?.into_body().collect_up_to(64).await?;
    println!("layers: {composed:?}, client: {whole:?}");
    assert_eq!(composed, "/new/7");
    assert_eq!(composed, whole);
    Ok(())
}
