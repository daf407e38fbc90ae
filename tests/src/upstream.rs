//! Scripted upstreams: plain HTTP servers that do exactly what a scenario says.
//!
//! Decides: nothing; the n-th request gets the n-th answer. Invariant: every request that arrives is
//! recorded, its body included, whatever its answer is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::scenario::{Act, Answer, Upstream as Written, bytes_of};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type ScriptedBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// The running upstreams of one scenario. They end when this is dropped.
pub struct Upstreams {
    servers: BTreeMap<String, Server>,
}

struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    /// Bound and not listening: who connects is refused, and nobody else gets the port.
    _dead: Option<TcpSocket>,
}

/// One request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers, the authority of HTTP/2 as `host`.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

struct Shared {
    script: Vec<Answer>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    arrived: Vec<Arrived>,
    connections: usize,
}

impl Upstreams {
    /// Starts them on free ports of 127.0.0.1.
    pub async fn start(written: &BTreeMap<String, Written>) -> std::io::Result<Self> {
        let mut servers = BTreeMap::new();
        for (name, written) in written {
            servers.insert(name.clone(), Server::start(written).await?);
        }
        Ok(Self { servers })
    }

    /// Replaces `$name` by the quoted address of that upstream; longer names first.
    pub fn fill_in(&self, text: &str) -> String {
        let mut names: Vec<_> = self.servers.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names.iter().fold(text.to_owned(), |text, (name, server)| {
            text.replace(&format!("${name}"), &format!("\"{}\"", server.address))
        })
    }

    /// The upstream of that address.
    pub fn name_of(&self, address: &str) -> Option<&str> {
        let found = self.servers.iter().find(|(_, server)| server.address.to_string() == address);
        found.map(|(name, _)| name.as_str())
    }

    /// What arrived at one of them so far.
    pub fn arrived(&self, name: &str) -> Vec<Arrived> {
        self.servers.get(name).map(|server| server.shared.log().arrived.clone()).unwrap_or_default()
    }

    /// Connections that one of them accepted so far.
    pub fn connections(&self, name: &str) -> usize {
        self.servers.get(name).map_or(0, |server| server.shared.log().connections)
    }
}

impl Server {
    async fn start(written: &Written) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { script: written.script.clone(), log: Mutex::default() });
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        if written.dead {
            let socket = TcpSocket::new_v4()?;
            socket.bind(anywhere)?;
            return Ok(Self { address: socket.local_addr()?, shared, accepting: None, _dead: Some(socket) });
        }
        let socket = TcpListener::bind(anywhere).await?;
        let address = socket.local_addr()?;
        let accepting = tokio::spawn(accept(socket, Arc::clone(&shared), written.http2));
        Ok(Self { address, shared, accepting: Some(accepting), _dead: None })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Shared {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the head of a request; says which it is and what its answer is.
    fn arrive(&self, request: &Request<Incoming>) -> (usize, Answer) {
        let mut headers = request.headers().clone();
        if let Some(authority) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(http::header::HOST, host);
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let mut log = self.log();
        log.arrived.push(Arrived { method: request.method().to_string(), target, headers, body: Vec::new() });
        let nth = log.arrived.len() - 1;
        (nth, self.answer_to(nth))
    }

    fn answer_to(&self, nth: usize) -> Answer {
        let mut before = 0;
        for answer in &self.script {
            before += answer.times.max(1);
            if nth < before {
                return answer.clone();
            }
        }
        self.script.last().cloned().unwrap_or_default()
    }
}

/// How a connection ends before its time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Close,
    Reset,
    Garbage,
}

async fn accept(socket: TcpListener, shared: Arc<Shared>, is_http2: bool) {
    // Connections are children of this task: they end with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        let _ = stream.set_nodelay(true);
        shared.log().connections += 1;
        connections.spawn(serve(stream, Arc::clone(&shared), is_http2));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, is_http2: bool) {
    let (fate, mut sealed) = mpsc::channel(1);
    let answer = service_fn(move |request| {
        let answering: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(answer(Arc::clone(&shared), request, fate.clone()));
        answering
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let connection =
            http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).serve_connection(io, answer);
        tokio::select! {
            _ = connection => {}
            _ = sealed.recv() => {}
        }
        return;
    }
    let mut connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, answer);
    tokio::select! {
        _ = Pin::new(&mut connection) => {}
        fate = sealed.recv() => {
            let mut stream = connection.into_parts().io.into_inner();
            match fate {
                Some(Fate::Reset) => drop(stream.set_zero_linger()),
                Some(Fate::Garbage) => drop(stream.write_all(b"this is not HTTP\r\n\r\n").await),
                Some(Fate::Close) | None => {}
            }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    fate: mpsc::Sender<Fate>,
) -> Result<Response<ScriptedBody>, h2::Error> {
    let (nth, answer) = shared.arrive(&request);
    if answer.act == Act::Refuse {
        return Err(h2::Reason::REFUSED_STREAM.into());
    }
    let body = request.into_body().collect().await.map_err(|_| h2::Reason::CANCEL)?.to_bytes();
    shared.log().arrived[nth].body = body.to_vec();
    tokio::time::sleep(Duration::from_millis(answer.after_ms)).await;
    let chunks = match answer.act {
        Act::Close | Act::Reset | Act::Garbage => {
            let end = match answer.act {
                Act::Close => Fate::Close,
                Act::Reset => Fate::Reset,
                _ => Fate::Garbage,
            };
            let _ = fate.send(end).await;
            std::future::pending().await
        }
        Act::Hang => std::future::pending().await,
        Act::Echo => vec![body.to_vec()],
        Act::Answer | Act::Cut | Act::Refuse => {
            let chunks = if answer.chunks.is_empty() { vec![answer.body.clone()] } else { answer.chunks.clone() };
            chunks.iter().map(|chunk| bytes_of(chunk)).collect()
        }
    };
    respond(&answer, chunks).map_err(|error| {
        eprintln!("the script cannot be played: {error}");
        h2::Reason::INTERNAL_ERROR.into()
    })
}

fn respond(answer: &Answer, chunks: Vec<Vec<u8>>) -> Result<Response<ScriptedBody>, BoxError> {
    let mut response = Response::new(body(answer, chunks)?);
    *response.status_mut() = http::StatusCode::from_u16(if answer.status == 0 { 200 } else { answer.status })?;
    *response.headers_mut() = header_map(&answer.headers)?;
    Ok(response)
}

fn body(answer: &Answer, chunks: Vec<Vec<u8>>) -> Result<ScriptedBody, BoxError> {
    let is_whole = answer.chunks.is_empty() && answer.trailers.is_empty() && answer.act != Act::Cut;
    if is_whole {
        let whole = Bytes::from(chunks.concat());
        return Ok(http_body_util::Full::new(whole).map_err(|never: Infallible| match never {}).boxed_unsync());
    }
    let mut frames: Vec<std::io::Result<Frame<Bytes>>> =
        chunks.into_iter().filter(|chunk| !chunk.is_empty()).map(|chunk| Ok(Frame::data(chunk.into()))).collect();
    if answer.act == Act::Cut {
        frames.push(Err(std::io::Error::other("the script breaks the body off")));
    } else if !answer.trailers.is_empty() {
        frames.push(Ok(Frame::trailers(header_map(&answer.trailers)?)));
    }
    // A cut must come after the head has left, so that the peer has a response to lose.
    let pause = Duration::from_millis(if answer.act == Act::Cut { 50 } else { answer.pause_ms });
    let frames = futures_util::stream::unfold(frames.into_iter().enumerate(), move |mut frames| async move {
        let (at, frame) = frames.next()?;
        if at > 0 {
            tokio::time::sleep(pause).await;
        }
        Some((frame, frames))
    });
    Ok(StreamBody::new(frames).boxed_unsync())
}

fn header_map(pairs: &[(String, String)]) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    Ok(headers)
}
