//! The ways a request can take: what is compared.
//!
//! Invariant: every case asks the same upstream for the same path and reads the answer to its end.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mesh_core::body::Body;
use mesh_core::mesh::Mesh;
use mesh_core::outbound::ServiceClient;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::Failure;
use crate::upstream::ANSWER;

/// A way to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// One hyper connection per request in flight and nothing else: the least an HTTP client can do.
    Bare,
    /// `ServiceClient`: routing, load balancing, retries, breaker, metrics and trace context, all at their defaults.
    Mesh,
    /// The bare client, through an Envoy on the same host.
    Envoy,
}

impl Case {
    /// As the table calls it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::Mesh => "libmesh",
            Self::Envoy => "Envoy sidecar",
        }
    }
}

/// One client of a closed loop.
pub trait Requester: Send + 'static {
    /// Sends a request and reads the answer to its end.
    fn once(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A bare hyper connection.
pub struct Bare {
    sender: SendRequest<Empty<Bytes>>,
    authority: String,
}

impl Bare {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority: address.to_string() })
    }
}

impl Requester for Bare {
    async fn once(&mut self) -> Result<(), Failure> {
        self.sender.ready().await?;
        let request = Request::get("/").header(http::header::HOST, &self.authority).body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        checked(status, &response.into_body().collect().await?.to_bytes())
    }
}

/// The mesh's client, as an application holds it.
pub struct Meshed {
    client: ServiceClient,
}

impl Meshed {
    /// A client of `mesh`.
    pub fn new(mesh: &Mesh) -> Self {
        Self { client: mesh.client() }
    }
}

impl Requester for Meshed {
    async fn once(&mut self) -> Result<(), Failure> {
        let request = Request::get("http://hello/").body(Body::empty())?;
        let response = self.client.call(request).await?;
        let status = response.status();
        checked(status, &response.into_body().collect().await?.to_bytes())
    }
}

/// A mesh whose only cluster is the upstream; everything else as the defaults have it.
pub fn mesh(upstream: SocketAddr) -> Result<Mesh, Failure> {
    let config = format!(
        "version: 1\n\
         node: {{ service: bench, namespace: default }}\n\
         clusters:\n\
         \x20 - {{ name: hello, endpoints: [{{ address: \"{upstream}\" }}] }}\n\
         routes:\n\
         \x20 - {{ hosts: [hello], rules: [{{ backends: [{{ cluster: hello }}] }}] }}\n"
    );
    Ok(Mesh::from_yaml(&config, "bench")?)
}

fn checked(status: StatusCode, body: &[u8]) -> Result<(), Failure> {
    if status == StatusCode::OK && body == ANSWER {
        return Ok(());
    }
    Err(format!("unexpected answer: {status} {:?}", String::from_utf8_lossy(body)).into())
}
