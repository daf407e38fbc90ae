//! An axum server of your own behind the mesh's `ServerLayer`: an access rule of the configuration refuses, what it
//! allows passes, and the handler learns who is calling.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request};
use axum::routing::get;
use axum::{Extension, Router};
use mesh_core::error::BoxError;
use mesh_core::inbound::ConnectionAddress;
use mesh_core::{Body, CallContext, Mesh};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

/// No address: the server is the application's.
const SERVER: &str = "
version: 1
listeners: [{ name: inbound }]
policy:
  access:
    rules: [{ name: no-admin, action: deny, paths: [/admin*] }]
";

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let mesh = Mesh::from_yaml(SERVER, "server.yaml")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let local = listener.local_addr()?;
    // Outside of the router, so that it routes by the path that the rules have judged.
    let app = ServiceBuilder::new()
        // axum knows the caller's address; the mesh's rules and handlers read it here.
        .map_request(move |mut request: Request| {
            if let Some(ConnectInfo(remote)) = request.extensions().get::<ConnectInfo<SocketAddr>>().copied() {
                request.extensions_mut().insert(ConnectionAddress { local, remote });
            }
            request
        })
        .layer(mesh.server_layer("inbound")?)
        .service(Router::new().route("/{*path}", get(hello)));
    let app = Router::new().fallback_service(app).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client = Mesh::from_yaml(&client(local), "client.yaml")?.client();
    for (path, expected) in [("/books/7", 200), ("/admin/7", 403), ("/books/../admin", 403)] {
        let request = http::Request::get(format!("http://books{path}")).header("x-request-id", "id-7");
        let response = client.call(request.body(Body::empty())?).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect_up_to(1024).await?.to_vec())?;
        println!("{path}: {status} {text}");
        assert_eq!(status, expected);
        assert_eq!(text, if expected == 200 { "hello 127.0.0.1, request id-7" } else { "" });
    }
    assert!(mesh.metrics_text().contains("response_code=\"403\""), "what is refused is counted");
    Ok(())
}

/// The facts of the call, as the mesh has them.
async fn hello(Extension(call): Extension<Arc<CallContext>>, Extension(ends): Extension<ConnectionAddress>) -> String {
    format!("hello {}, request {}", ends.remote.ip(), call.request_id.as_deref().unwrap_or_default())
}

fn client(server: SocketAddr) -> String {
    format!(
        "{{version: 1, clusters: [{{name: books, endpoints: [{{address: \"{server}\"}}]}}],
           routes: [{{hosts: [books], rules: [{{backends: [{{cluster: books}}]}}]}}]}}"
    )
}
