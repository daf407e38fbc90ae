//! An axum router on the mesh's own listener: mutual TLS, a rule that names who may call, and a handler that sees
//! the caller's SPIFFE ID.

use std::path::Path;

use axum::routing::get;
use axum::{Extension, Router};
use http::Request;
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh, PeerIdentity};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let ca = tempfile::tempdir()?;
    let server = format!(
        r#"
version: 1
{}
listeners: [{{ name: inbound, address: "127.0.0.1:0" }}]
policy:
  access:
    rules: [{{ name: the-page, action: allow, principals: ["spiffe://shop/ns/default/sa/page"] }}]
"#,
        identity("books", ca.path())
    );
    let app = Router::new()
        .route("/books/7", get(|Extension(peer): Extension<PeerIdentity>| async move { format!("hello {}", peer.id) }));
    let server = Mesh::from_yaml(&server, "server.yaml")?;
    let listening = server.listen("inbound", app).await?;

    for (caller, expected) in [("page", 200), ("stranger", 403)] {
        let config = format!(
            r#"
version: 1
{}
clusters:
  - name: books
    tls: {{ server_ids: ["spiffe://shop/ns/default/sa/books"] }}
    endpoints: [{{ address: "{}" }}]
routes: [{{ hosts: [books], rules: [{{ backends: [{{ cluster: books }}] }}] }}]
"#,
            identity(caller, ca.path()),
            listening.local_addr()
        );
        let client = Mesh::from_yaml(&config, "client.yaml")?.client();
        let response = client.call(Request::get("http://books/books/7").body(Body::empty())?).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect_up_to(1024).await?.to_vec())?;
        println!("{caller}: {status} {text}");
        assert_eq!(status, expected);
        assert_eq!(text, if expected == 200 { "hello spiffe://shop/ns/default/sa/page" } else { "" });
    }
    Ok(())
}

/// A development CA in a directory issues a certificate for each of them.
fn identity(name: &str, ca: &Path) -> String {
    format!("identity: {{ spiffe_id: \"spiffe://shop/ns/default/sa/{name}\", dev_ca: {{ directory: {ca:?} }} }}")
}
