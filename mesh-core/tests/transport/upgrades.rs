//! WebSocket and its kind, through an ingress.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peers::{Peer, Wire, answered, client, eventually, get, mesh, soon};

const ASK: &str =
    "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhl\r\n\r\n";

async fn ingress(address: std::net::SocketAddr, more: &str) -> (mesh_core::Mesh, std::net::SocketAddr) {
    let mesh = mesh(&format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
listeners: [{{ name: in, address: \"127.0.0.1:0\", forward: true }}]
clusters: [{{ name: a, endpoints: [{{ address: \"{address}\" }}]{more} }}]
routes: [{{ hosts: [\"*\"], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
"
    ));
    let front = mesh.forward("in").await.unwrap().local_addr();
    (mesh, front)
}

/// Agrees, then answers every byte with itself.
async fn echoes(stream: tokio::net::TcpStream) {
    let mut wire = Wire::new(stream);
    let head = wire.head().await.unwrap().to_ascii_lowercase();
    if !head.contains("upgrade: websocket") || !head.contains("connection: upgrade") {
        return wire.write("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n").await;
    }
    assert!(head.contains("sec-websocket-key: dghl"), "{head}");
    wire.write("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let (mut read, mut write) = wire.stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
async fn an_upgrade_passes_through_and_its_bytes_flow_both_ways() {
    let peer = Peer::start(|_, stream| echoes(stream)).await;
    let (mesh, front) = ingress(peer.address, "").await;
    let mut wire = Wire::connect(front).await;
    wire.write(ASK).await;
    let head = soon(wire.head()).await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    for text in ["hello", "\0\u{1}binary", "bye"] {
        wire.write(text).await;
        assert_eq!(soon(wire.exactly(text.len())).await.unwrap(), text);
    }
    let open = || mesh.status()["clusters"]["a"]["endpoints"][0]["open_connections"].clone();
    assert_eq!(open(), 1, "a tunnel counts as a connection");
    wire.stream.shutdown().await.unwrap();
    assert_eq!(soon(wire.stream.read(&mut [0; 8])).await.unwrap(), 0);
    eventually("the tunnel to end", || open() == 0).await;
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let peer = Peer::start(|_, stream| async {
        let mut wire = Wire::new(stream);
        while wire.head().await.is_some() {
            wire.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        }
    })
    .await;
    let (_mesh, front) = ingress(peer.address, "").await;
    let mut wire = Wire::connect(front).await;
    for _ in 0..2 {
        wire.write(ASK).await;
        assert!(soon(wire.head()).await.unwrap().starts_with("HTTP/1.1 403"));
        assert_eq!(soon(wire.exactly(2)).await.unwrap(), "no");
    }
    assert_eq!(peer.accepted(), 1, "the connection serves on");
}

#[tokio::test]
async fn h2c_is_never_asked_for() {
    let peer = Peer::start(|_, stream| async {
        let mut wire = Wire::new(stream);
        while let Some(head) = wire.head().await {
            let body = if head.to_ascii_lowercase().contains("upgrade") { "yes" } else { "not" };
            wire.write(&format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}")).await;
        }
    })
    .await;
    let mesh = client(&[peer.address], "");
    let mut request = get("/");
    request.headers_mut().insert("upgrade", "h2c".parse().unwrap());
    assert_eq!(answered(&mesh, request).await, (200, "not".to_owned()));
}
