//! Peers that do exactly what a test says, and a client mesh in front of them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::time::ManualClock;
use mesh_core::{Body, Error, Mesh};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A listener whose n-th connection is handed to a script.
pub struct Peer {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Peer {
    pub async fn start<F, S>(script: F) -> Self
    where
        F: Fn(usize, TcpStream) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                stream.set_nodelay(true).unwrap();
                connections.spawn(script(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self { address, accepted, accepting }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One end of a raw HTTP/1.1 conversation.
pub struct Wire {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    pub async fn connect(address: impl tokio::net::ToSocketAddrs) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// The next head; `None` when the peer has closed.
    pub async fn head(&mut self) -> Option<String> {
        self.until(b"\r\n\r\n").await
    }

    /// Everything up to and including `end`.
    pub async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.rest.windows(end.len()).position(|window| window == end) {
                let head: Vec<u8> = self.rest.drain(..at + end.len()).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next `length` bytes; `None` when the peer has closed before.
    pub async fn exactly(&mut self, length: usize) -> Option<String> {
        while self.rest.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&self.rest.drain(..length).collect::<Vec<_>>()).into_owned())
    }

    /// Everything until the peer closes.
    pub async fn read_to_end_text(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }

    /// What has been read and not taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    async fn more(&mut self) -> bool {
        // On the heap: each future that waits here would hold it.
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                self.rest.extend(&buffer[..read]);
                true
            }
            _ => false,
        }
    }

    pub async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers every request without a body.
pub async fn answer_all(stream: TcpStream) {
    let mut wire = Wire::new(stream);
    while wire.head().await.is_some() {
        wire.write(OK).await;
    }
}

/// A client of one cluster `a` with these endpoints; `cluster` adds fields to it.
pub fn client(addresses: &[SocketAddr], cluster: &str) -> Mesh {
    mesh(&document(addresses, cluster))
}

/// The same; its time passes only when the test says so.
pub fn client_by(clock: &ManualClock, addresses: &[SocketAddr]) -> Mesh {
    Mesh::builder().clock(Arc::new(clock.clone())).from_yaml(&document(addresses, ""), "mesh.yaml").unwrap()
}

/// Patient: no connection fails because the machine is busy.
fn document(addresses: &[SocketAddr], cluster: &str) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{ address: \"{address}\" }}")).collect();
    let comma = if cluster.is_empty() { "" } else { "," };
    format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
clusters: [{{ name: a, endpoints: [{}]{comma} {cluster} }}]
routes: [{{ hosts: [\"*\"], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
",
        endpoints.join(", ")
    )
}

pub fn mesh(text: &str) -> Mesh {
    Mesh::from_yaml(text, "mesh.yaml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://a{path}")).body(Body::empty()).unwrap()
}

pub async fn call(mesh: &Mesh, request: Request<Body>) -> Result<Response<Body>, Error> {
    soon(mesh.client().call(request)).await
}

/// Status and body.
pub async fn answered(mesh: &Mesh, request: Request<Body>) -> (u16, String) {
    let response = call(mesh, request).await.unwrap();
    (response.status().as_u16(), text(response).await)
}

pub async fn text(response: Response<Body>) -> String {
    let body = soon(response.into_body().collect_up_to(8 << 20)).await.unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

/// A number that the only endpoint's status shows.
pub fn endpoint_status(mesh: &Mesh, field: &str) -> Value {
    mesh.status()["clusters"]["a"]["endpoints"][0][field].clone()
}

/// Nothing here takes longer, however busy the machine is.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it ends within 30 s")
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("waited 30 s for {what}"));
}
