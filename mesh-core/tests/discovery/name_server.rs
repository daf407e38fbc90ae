//! A name server on loopback, and what the standard resolver makes of its answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record as DnsRecord, RecordType};
use mesh_core::discovery::resolver::{Question, Record, Records, Resolver, StandardResolver, Unanswered};
use mesh_core::{ErrorKind, Mesh};

use crate::support::{document, endpoint_of, in_force, serve, two_ports, until};

/// Speaks DNS over UDP until it is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<ZoneFile>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct ZoneFile {
    records: HashMap<(String, RecordType), (u32, Vec<RData>)>,
    /// What it says instead of an answer.
    broken: Option<ResponseCode>,
    is_silent: bool,
    asked: usize,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(ZoneFile::default())));
        let answers = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                let Some(reply) = answers.lock().unwrap().reply(&buffer[..length]) else { continue };
                let _ = socket.send_to(&reply, from).await;
            }
        });
        Self { address, zone, task }
    }

    pub fn set(&self, name: &str, kind: RecordType, (ttl, data): (u32, Vec<RData>)) {
        self.zone.lock().unwrap().records.insert((name.to_owned(), kind), (ttl, data));
    }

    pub fn breaks(&self, code: Option<ResponseCode>) {
        self.zone.lock().unwrap().broken = code;
    }

    pub fn falls_silent(&self) {
        self.zone.lock().unwrap().is_silent = true;
    }

    pub fn asked(&self) -> usize {
        self.zone.lock().unwrap().asked
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ZoneFile {
    fn reply(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        self.asked += 1;
        if self.is_silent {
            return None;
        }
        let request = Message::from_vec(request).ok()?;
        let query = request.queries.first()?.clone();
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.add_query(query.clone());
        let name = query.name().to_ascii().to_lowercase();
        let exists = self.records.keys().any(|(other, _)| *other == name);
        match (self.broken, self.records.get(&(name, query.query_type()))) {
            (Some(code), _) => reply.metadata.response_code = code,
            (None, Some((ttl, data))) => {
                let records = data.iter().map(|data| DnsRecord::from_rdata(query.name().clone(), *ttl, data.clone()));
                reply.add_answers(records);
            }
            (None, None) if !exists => reply.metadata.response_code = ResponseCode::NXDomain,
            (None, None) => {}
        }
        reply.to_vec().ok()
    }
}

pub fn a(ip: &str) -> RData {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

fn question(server: &NameServer, name: &str, records: Records) -> Question {
    Question { name: name.into(), records, servers: [server.address].into(), timeout: Duration::from_secs(20) }
}

#[tokio::test]
async fn records_come_with_their_time_to_live_and_in_an_order_of_their_own() {
    let server = NameServer::start().await;
    server.set("a.example.", RecordType::A, (30, vec![a("10.0.0.2"), a("10.0.0.1"), a("10.0.0.2")]));
    server.set("a.example.", RecordType::AAAA, (7, vec![a("::1")]));
    server.set(
        "_x._tcp.a.example.",
        RecordType::SRV,
        (60, vec![srv(1, 2, 80, "b.example."), srv(0, 5, 81, "c.example.")]),
    );
    let resolver = StandardResolver::default();
    let address = |ip: &str| Record::Address(ip.parse().unwrap());
    let service =
        |priority, weight, port, target: &str| Record::Service { priority, weight, port, target: target.into() };
    for (name, records, ttl, expected) in [
        ("a.example", Records::V4, 30, vec![address("10.0.0.1"), address("10.0.0.2")]),
        ("a.example.", Records::V6, 7, vec![address("::1")]),
        (
            "_x._tcp.a.example",
            Records::Service,
            60,
            vec![service(0, 5, 81, "c.example."), service(1, 2, 80, "b.example.")],
        ),
    ] {
        let answer = resolver.look_up(&question(&server, name, records)).await.unwrap();
        assert_eq!(answer.records, expected, "{name}");
        let told = answer.ttl.unwrap();
        assert!(told <= Duration::from_secs(ttl) && told > Duration::from_secs(ttl - 5), "{name}: {told:?}");
    }
    let before = server.asked();
    resolver.look_up(&question(&server, "a.example", Records::V4)).await.unwrap();
    assert_eq!(server.asked(), before + 1, "the resolver keeps no cache of its own");
}

#[tokio::test]
async fn o64_a_missing_name_and_a_failing_server_are_told_apart() {
    let server = NameServer::start().await;
    server.set("a.example.", RecordType::A, (30, vec![a("10.0.0.1")]));
    let resolver = StandardResolver::default();
    for (name, records) in [("b.example", Records::V4), ("a.example", Records::V6)] {
        let answer = resolver.look_up(&question(&server, name, records)).await;
        assert!(matches!(answer, Err(Unanswered::None(_))), "{name}: {answer:?}");
    }
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        server.breaks(Some(code));
        let answer = resolver.look_up(&question(&server, "a.example", Records::V4)).await;
        assert!(matches!(answer, Err(Unanswered::Failed(_))), "{code}: {answer:?}");
    }
    server.falls_silent();
    let soon = Question { timeout: Duration::from_millis(50), ..question(&server, "a.example", Records::V4) };
    assert_eq!(resolver.look_up(&soon).await, Err(Unanswered::TimedOut));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_follows_a_name_server() {
    let [port, other] = two_ports();
    let _servers = [serve(&format!("127.0.0.1:{port}")).await, serve(&format!("127.0.0.2:{other}")).await];
    let names = NameServer::start().await;
    names.set("_http._tcp.a.example.", RecordType::SRV, (1, vec![srv(0, 1, port, "x.example.")]));
    names.set("x.example.", RecordType::A, (1, vec![a("127.0.0.1")]));
    names.set("y.example.", RecordType::A, (1, vec![a("127.0.0.2")]));
    let source = format!("dns: {{ name: _http._tcp.a.example, servers: [\"{}\"] }}", names.address);
    let mesh = Mesh::from_yaml(&document(&source), "mesh.yaml").unwrap();
    // The first request waits for the first answer.
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.1:{port}"));
    names.set("_http._tcp.a.example.", RecordType::SRV, (1, vec![srv(0, 1, other, "y.example.")]));
    until("the new answer", || in_force(&mesh) == [format!("127.0.0.2:{other}")]).await;
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.2:{other}"));
    let metrics = mesh.metrics_text();
    assert!(metrics.contains("libmesh_dns_resolutions_total{cluster=\"a\",outcome=\"success\"}"), "{metrics}");
    assert!(metrics.contains("libmesh_dns_age_seconds{cluster=\"a\"}"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_exist_fails_requests_at_once_and_says_so() {
    let names = NameServer::start().await;
    let source = format!("dns: {{ name: a.example, port: 80, servers: [\"{}\"] }}", names.address);
    let mesh = Mesh::from_yaml(&document(&source), "mesh.yaml").unwrap();
    let started = std::time::Instant::now();
    let error = endpoint_of(&mesh).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.to_string().contains("a.example: no such name or record"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(14), "it waited for its whole deadline");
}
