//! The admin endpoint: what an operator asks a running process.
//!
//! Decides: nothing about traffic, except when asked to drain, or to forget what checks have answered. Never: shows a secret (the document
//! holds file names, not keys), or listens beyond loopback unless the config says `allow_remote`.

use std::convert::Infallible;
use std::sync::Weak;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::body::Body;
use crate::core::Core;

/// Serves the admin endpoint until the mesh is gone.
pub(crate) async fn run(socket: TcpListener, core: Weak<Core>) {
    while let Ok((stream, _)) = socket.accept().await {
        let core = core.clone();
        let answer = service_fn(move |request| {
            let response = answer(&request, &core);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "admin connection ended");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, core: &Weak<Core>) -> Response<Body> {
    let Some(core) = core.upgrade() else { return text(StatusCode::SERVICE_UNAVAILABLE, "closed\n") };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => text(StatusCode::OK, INDEX),
        (&Method::GET, "/ready") if core.is_ready() => text(StatusCode::OK, "ready\n"),
        (&Method::GET, "/ready") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        (&Method::GET, "/metrics") => {
            let mut response = text(StatusCode::OK, core.metrics_text());
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        (&Method::GET, "/status") => json(&core.status()),
        (&Method::GET, "/config") => json(&core.config()),
        (&Method::GET, "/explain") => json(&explained(&core, request.uri().query())),
        (&Method::GET, "/clusters") => json(&core.status()["clusters"]),
        (&Method::POST, "/drain") => {
            let grace = grace(request.uri().query());
            let drain = core.drain.clone();
            tokio::spawn(async move { drain.run(grace).await });
            text(StatusCode::ACCEPTED, "draining\n")
        }
        (&Method::POST, "/checks/void") => match core.snapshot.load().void_checks(check_name(request.uri().query())) {
            0 => text(StatusCode::NOT_FOUND, "no such check\n"),
            _ => text(StatusCode::OK, "voided\n"),
        },
        (_, "/checks/void") => text(StatusCode::METHOD_NOT_ALLOWED, "POST /checks/void?check=NAME\n"),
        (_, "/drain") => text(StatusCode::METHOD_NOT_ALLOWED, "POST /drain?seconds=30\n"),
        _ => text(StatusCode::NOT_FOUND, INDEX),
    }
}

/// The calls that were kept, the latest first; those with one request id, if it is asked for.
fn explained(core: &Core, query: Option<&str>) -> serde_json::Value {
    let id = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("id=")));
    let kept = core.telemetry.explained.latest();
    let asked = kept.iter().filter(|call| id.is_none_or(|id| call.request_id.as_deref() == Some(id)));
    serde_json::Value::Array(asked.filter_map(|call| serde_json::to_value(&**call).ok()).collect())
}

/// A name is of letters, digits and marks that stand in a query as they are.
fn check_name(query: Option<&str>) -> Option<&str> {
    query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("check=")))
}

fn grace(query: Option<&str>) -> Duration {
    let seconds = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("seconds=")));
    seconds.and_then(|seconds| seconds.parse().ok()).map_or(DEFAULT_GRACE, Duration::from_secs)
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, format!("{value:#}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Kubernetes' default termination grace period.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

const INDEX: &str = "\
GET  /ready              200 when this process can serve
GET  /config             the document in force
GET  /clusters           endpoints, their load and health
GET  /explain?id=...     finished calls: picks, attempts, decisions; all, or by x-request-id
GET  /status             everything above, identity and listeners
GET  /metrics            Prometheus text
POST /checks/void?check=NAME  forget what a check's server has answered; without a name, all
POST /drain?seconds=30   lame duck, then stop listening
";
