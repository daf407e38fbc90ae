//! The caller of a case: the same bytes, from the same address, with the same identity and server name, to either door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_tests::caller;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;

/// Whose door is knocked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Door {
    Ours,
    Theirs,
}

/// Who calls. `tls`: `None` is plaintext, an empty one TLS without a certificate.
pub struct Caller<'a> {
    pub case: &'a Value,
    pub tls: Option<Option<Arc<CertifiedKey>>>,
}

impl Caller<'_> {
    /// `allow` or `deny`, and what the answer says.
    pub async fn ask(&self, door: Door, port: u16) -> (&'static str, String) {
        let id = self.case["id"].as_str().unwrap();
        let asking = tokio::time::timeout(PATIENCE, self.exchange(port));
        let answer = asking.await.unwrap_or_else(|_| panic!("{id}: {door:?} neither answers nor closes"));
        if self.case["request"]["protocol"] == "tcp" {
            return (if answer == PING { "allow" } else { "deny" }, String::new());
        }
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        match answer.get(..12) {
            // gRPC's PERMISSION_DENIED.
            Some("HTTP/1.1 200") if head.lines().any(|line| line == "grpc-status: 7") => ("deny", answer),
            Some("HTTP/1.1 200") => ("allow", answer),
            Some("HTTP/1.1 403") => ("deny", answer),
            _ => panic!("{id}: {door:?} gives no verdict: {answer:?}"),
        }
    }

    async fn exchange(&self, port: u16) -> String {
        let request = &self.case["request"];
        let address = |field: &str, port| SocketAddr::new(request[field].as_str().unwrap().parse().unwrap(), port);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address("source_ip", 0)).unwrap();
        let stream = socket.connect(address("destination_ip", port)).await.unwrap();
        let Some(key) = &self.tls else { return talk(stream, &self.words()).await };
        let name = ServerName::try_from(request["sni"].as_str().unwrap().to_owned()).unwrap();
        match caller::connector(key.as_ref()).unwrap().connect(name, stream).await {
            Ok(stream) => talk(stream, &self.words()).await,
            Err(error) => panic!("{}: no handshake: {error}", self.case["id"]),
        }
    }

    fn words(&self) -> String {
        let request = &self.case["request"];
        let text = |field: &str| request[field].as_str().unwrap();
        if text("protocol") == "tcp" {
            return PING.to_owned();
        }
        let mut words = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", text("method"), text("path"), text("host"));
        words += &format!("x-case: {}\r\nconnection: close\r\n", self.case["id"].as_str().unwrap());
        if let Some(original) = request["remote_ip"].as_str() {
            words += &format!("x-forwarded-for: {original}\r\n");
        }
        for pair in request["headers"].as_array().unwrap() {
            words += &format!("{}: {}\r\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        }
        words + "\r\n"
    }
}

/// What comes back until the end, or until it is what was sent. A refused connection may end in an error.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &str) -> String {
    let mut answer = Vec::new();
    if stream.write_all(words.as_bytes()).await.is_ok() {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..read]);
            if answer == PING.as_bytes() {
                break;
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

const PING: &str = "ping";
const PATIENCE: Duration = Duration::from_secs(10);
