//! Servers, documents and waiting, shared by the stories.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::config::Endpoint;
use mesh_core::discovery::resolver::{Answer, Looking, Question, Record, Records, Resolver, Unanswered};
use mesh_core::error::BoxError;
use mesh_core::{Body, CallReport, Error, Mesh};
use tokio::net::TcpSocket;

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Two ports that were free at one time.
pub fn two_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

/// A port that is taken at 127.0.0.1 as long as the tests run, by a socket that does not listen.
pub fn closed_port() -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::mem::forget(socket);
    port
}

/// Serves 200 on `address` until the mesh is dropped.
pub async fn serve(address: &str) -> Mesh {
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"{address}\" }}]\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let fine = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::from("fine"))) });
    mesh.listen("in", fine).await.unwrap();
    mesh
}

/// A document with one cluster `a`, whose source is `source`, behind the host `a`.
pub fn document(source: &str) -> String {
    format!(
        "version: 1\nclusters: [{{ name: a, {source} }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n"
    )
}

/// The endpoint that answers.
pub async fn endpoint_of(mesh: &Mesh) -> Result<String, Error> {
    let response = mesh.client().call(Request::get("http://a/").body(Body::empty()).unwrap()).await?;
    assert_eq!(response.status(), 200);
    let endpoint = response.extensions().get::<CallReport>().unwrap().endpoint.to_string();
    response.into_body().collect_up_to(1 << 20).await.unwrap();
    Ok(endpoint)
}

/// The endpoints of cluster `a` that are in force.
pub fn in_force(mesh: &Mesh) -> Vec<String> {
    let status = mesh.status();
    let endpoints = status["clusters"]["a"]["endpoints"].as_array().unwrap();
    endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
}

/// Waits until it is so, for at most 30 s of real time.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever measures [`rss`] holds this: what another test takes would be found in it.
pub static MEASURING: Mutex<()> = Mutex::new(());

/// What this process holds in memory.
pub fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// An endpoint at `address`.
pub fn at(address: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint::at(address.parse().unwrap()))
}

type Answers = HashMap<(String, Records), Result<Answer, Unanswered>>;

/// Answers from a table; what is not in it does not exist.
#[derive(Clone, Default)]
pub struct Zone {
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicUsize>,
}

impl Zone {
    /// Addresses with a time to live.
    pub fn set(&self, name: &str, records: Records, (addresses, ttl): (&[&str], Duration)) {
        let records_found = addresses.iter().map(|ip| Record::Address(ip.parse().unwrap())).collect();
        self.answer(name, records, Ok(Answer { records: records_found, ttl: Some(ttl) }));
    }

    /// Any answer.
    pub fn answer(&self, name: &str, records: Records, answer: Result<Answer, Unanswered>) {
        self.answers.lock().unwrap().insert((name.to_owned(), records), answer);
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolver for Zone {
    fn look_up(&self, question: &Question) -> Looking {
        let found = self.answers.lock().unwrap().get(&(question.name.to_string(), question.records)).cloned();
        let asked = Arc::clone(&self.asked);
        Box::pin(async move {
            asked.fetch_add(1, Ordering::SeqCst);
            found.unwrap_or(Err(Unanswered::None(None)))
        })
    }
}
