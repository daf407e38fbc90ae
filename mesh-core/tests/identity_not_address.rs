//! Policy follows who somebody is, not where: addresses change hands.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use mesh_core::endpoint::connect::{Connector, Io};
use mesh_core::error::BoxError;
use mesh_core::{Body, ErrorKind, Mesh};
use tokio::net::TcpSocket;

/// Connects from one address of this host.
struct At(IpAddr);

impl Connector for At {
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        let own = SocketAddr::new(self.0, 0);
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(own)?;
            Ok(Box::new(socket.connect(address).await?) as Box<dyn Io>)
        })
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn identity(ca: &Path, name: &str) -> String {
    format!(
        "identity: {{spiffe_id: \"spiffe://test/ns/shop/sa/{name}\", dev_ca: {{directory: \"{}\"}}}}\n",
        ca.display()
    )
}

/// A workload that serves at that port and lets only the page in. It answers with its name.
async fn serve(ca: &Path, name: &'static str, port: u16) -> Mesh {
    let text = format!(
        "{}listeners: [{{name: in, address: \"127.0.0.1:{port}\"}}]\npolicy: {{access: {{default: deny, rules: [{{name: page, action: allow, principals: [\"spiffe://test/ns/shop/sa/page\"]}}]}}}}\n",
        identity(ca, name)
    );
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let answer =
        tower::service_fn(move |_: Request<Body>| async move { Ok::<_, BoxError>(Response::new(Body::from(name))) });
    mesh.listen("in", answer).await.unwrap();
    mesh
}

fn client_text(ca: &Path, name: &str, port: u16) -> String {
    format!(
        "{}clusters: [{{name: orders, tls: {{server_ids: [\"spiffe://test/ns/shop/sa/orders\"]}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [orders], rules: [{{backends: [{{cluster: orders}}]}}]}}]\ndefaults: {{retry: {{attempts: 0}}, connect_timeout: 20s}}\n",
        identity(ca, name)
    )
}

fn client(ca: &Path, name: &str, (from, port): (&str, u16)) -> Mesh {
    let connector = Arc::new(At(from.parse().unwrap()));
    Mesh::builder().connector(connector).from_yaml(&client_text(ca, name, port), "client.yaml").unwrap()
}

async fn ask(mesh: &Mesh) -> Result<(u16, String), ErrorKind> {
    let request = Request::get("http://orders/").body(Body::empty()).unwrap();
    let response = mesh.client().call(request).await.map_err(|error| error.kind())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect_up_to(1024).await.unwrap();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn a_caller_that_moves_is_let_in_and_who_takes_its_address_is_not() {
    let ca = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = serve(ca.path(), "orders", port).await;
    let (old, new) = ("127.0.0.21", "127.0.0.22");
    let page = client(ca.path(), "page", (old, port));
    assert_eq!(ask(&page).await, Ok((200, "orders".to_owned())));
    drop(page);
    let moved = client(ca.path(), "page", (new, port));
    let newcomer = client(ca.path(), "other", (old, port));
    assert_eq!(ask(&moved).await, Ok((200, "orders".to_owned())));
    assert_eq!(ask(&newcomer).await, Ok((403, String::new())));
}

#[tokio::test]
async fn a_server_that_moves_is_found_and_who_takes_its_address_is_not_believed() {
    let ca = tempfile::tempdir().unwrap();
    let (old, new) = (free_port(), free_port());
    let first = serve(ca.path(), "orders", old).await;
    let page = client(ca.path(), "page", ("127.0.0.1", old));
    assert_eq!(ask(&page).await, Ok((200, "orders".to_owned())));
    first.drain(std::time::Duration::ZERO).await;
    drop(first);
    let _moved = serve(ca.path(), "orders", new).await;
    let _newcomer = serve(ca.path(), "other", old).await;
    // Nobody told the client yet: it would rather fail than speak to somebody else.
    assert_eq!(ask(&page).await, Err(ErrorKind::PeerIdentity), "the newcomer at the old address must not be believed");
    page.reload(&client_text(ca.path(), "page", new), "client.yaml").unwrap();
    assert_eq!(ask(&page).await, Ok((200, "orders".to_owned())));
}

#[tokio::test]
async fn with_an_identity_a_listener_is_strict_unless_it_says_otherwise() {
    let ca = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = serve(ca.path(), "orders", port).await;
    let text = format!(
        "clusters: [{{name: orders, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [orders], rules: [{{backends: [{{cluster: orders}}]}}]}}]\ndefaults: {{retry: {{attempts: 0}}, connect_timeout: 20s}}\n"
    );
    let plain = Mesh::from_yaml(&text, "client.yaml").unwrap();
    ask(&plain).await.expect_err("a caller without a certificate gets no answer");
}
