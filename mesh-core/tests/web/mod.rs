//! Servers of the web, with certificates of authorities that a test makes, and a client mesh in front of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_core::discovery::resolver::{Answer, Looking, Question, Record, Resolver};
use mesh_core::{Body, Error, Mesh};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An authority of the web.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, in a file.
    pub fn file(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

/// What a server's certificate says.
pub struct Certificate {
    params: CertificateParams,
}

impl Certificate {
    /// Of these hosts or IP addresses, good for an hour.
    pub fn of(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Self { params: CertificateParams::new(names).unwrap() }.valid(-3600, 3600)
    }

    /// From and until so many seconds from now.
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        self.params.not_before = OffsetDateTime::from_unix_timestamp(now + from).unwrap();
        self.params.not_after = OffsetDateTime::from_unix_timestamp(now + until).unwrap();
        self
    }

    /// It names a workload, too.
    pub fn and_workload(mut self, id: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
        self
    }
}

/// Answers with what it was asked: version, scheme, host, path and the name of the handshake.
pub struct Server {
    pub port: u16,
    asked: Arc<AtomicUsize>,
    body: Arc<Mutex<Option<String>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(authority: &Authority, certificate: Certificate, alpn: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = vec![certificate.params.signed_by(&key, &authority.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = mesh_core::identity::tls::provider();
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (asked, body) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Option<String>>>::default());
        let (count, fixed) = (Arc::clone(&asked), Arc::clone(&body));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, count, fixed) = (acceptor.clone(), Arc::clone(&count), Arc::clone(&fixed));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let sni = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                    let answer = service_fn(move |request: Request<Incoming>| {
                        count.fetch_add(1, Ordering::SeqCst);
                        let text = fixed.lock().unwrap().clone().unwrap_or_else(|| told(&request, &sni));
                        std::future::ready(Ok::<_, Infallible>(Response::new(text)))
                    });
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { port, asked, body, serving }
    }

    /// Requests so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// From now on it answers this, whatever it is asked.
    pub fn answer(&self, text: String) {
        *self.body.lock().unwrap() = Some(text);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn told(request: &Request<Incoming>, sni: &str) -> String {
    let uri = request.uri();
    if request.version() == Version::HTTP_2 {
        return format!("HTTP/2 {uri} sni={sni}");
    }
    format!("HTTP/1.1 {}{uri} sni={sni}", request.headers()["host"].to_str().unwrap())
}

/// Every name is this machine's.
struct Here;

impl Resolver for Here {
    fn look_up(&self, _question: &Question) -> Looking {
        let records = vec![Record::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        Box::pin(std::future::ready(Ok(Answer { records, ttl: Some(Duration::from_secs(3600)) })))
    }
}

/// One cluster `login`, written so, and a mesh for which every name is this machine.
pub fn document(cluster: &str) -> String {
    format!(
        "defaults: {{retry: {{attempts: 0}}}}\nroutes: [{{hosts: [\"*\"], rules: [{{backends: [{{cluster: login}}]}}]}}]\n\
         clusters: [{{name: login, {cluster}}}]\n"
    )
}

pub fn builder() -> mesh_core::MeshBuilder {
    Mesh::builder().resolver(Arc::new(Here))
}

/// One cluster `login`, written so.
pub fn client(cluster: &str) -> Mesh {
    builder().from_yaml(&document(cluster), "client.yaml").unwrap()
}

pub async fn call(mesh: &Mesh) -> Result<Response<Body>, Error> {
    mesh.client().call(Request::get("http://shop/keys").body(Body::empty()).unwrap()).await
}

/// What the server says that it was asked.
pub async fn tell(mesh: &Mesh) -> String {
    let body = call(mesh).await.unwrap().into_body().collect_up_to(1 << 16).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}
