//! What the Rust drivers share: a job sent through any tower service.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use mesh_core::error::BoxError;
use mesh_core::{Body, CallOptions, CallReport, Mesh};
use tower::{Service, ServiceExt};

use crate::driver::{Call, Job, Outcome};
use crate::scenario::{from_hex, to_hex};

/// Reads a job from stdin, opens its mesh, and sends its requests through what `client` makes of the mesh.
pub fn main<S>(client: impl FnOnce(&Mesh) -> S, keeps_metrics: bool) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
{
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let job: Job = serde_json::from_str(&text)?;
    let mesh = Mesh::from_file(&job.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(drive(client(&mesh), job))?;
    println!("{}", serde_json::json!({ "metrics": keeps_metrics.then(|| mesh.metrics_text()) }));
    Ok(())
}

async fn drive<S>(client: S, job: Job) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
{
    for group in job.groups {
        tokio::time::sleep(Duration::from_millis(group.pause_ms)).await;
        let calls: Vec<_> = group.requests.into_iter().map(|call| tokio::spawn(one(client.clone(), call))).collect();
        for call in calls {
            println!("{}", serde_json::to_string(&call.await??)?);
        }
    }
    Ok(())
}

async fn one<S>(client: S, call: Call) -> Result<Outcome, BoxError>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
{
    let (id, started) = (call.id, Instant::now());
    let answer = client.oneshot(request(call)?).await;
    let mut outcome = match answer {
        Ok(response) => read(response).await,
        Err(error) => failed(&error.into()),
    };
    outcome.id = id;
    outcome.ms = u64::try_from(started.elapsed().as_millis())?;
    Ok(outcome)
}

fn failed(error: &BoxError) -> Outcome {
    let Some(error) = error.downcast_ref::<mesh_core::Error>() else {
        return Outcome { error: Some(format!("foreign: {error}")), ..Outcome::default() };
    };
    Outcome {
        error: Some(error.kind().as_str().to_owned()),
        attempts: Some(error.place().attempts),
        cluster: error.place().cluster.clone(),
        endpoint: error.place().endpoint.clone(),
        ..Outcome::default()
    }
}

fn request(call: Call) -> Result<Request<Body>, BoxError> {
    let mut request =
        Request::builder().method(call.method.as_str()).uri(call.url).body(body(&call.chunks, call.body)?)?;
    for (name, value) in &call.headers {
        request.headers_mut().append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    let timeout = call.timeout_ms.map(Duration::from_millis);
    request.extensions_mut().insert(CallOptions { timeout, idempotent: call.idempotent, ..CallOptions::default() });
    Ok(request)
}

fn body(chunks: &[String], whole: Option<String>) -> Result<Body, BoxError> {
    if chunks.is_empty() {
        return Ok(whole.map_or_else(|| Some(Body::empty()), |whole| from_hex(&whole).map(Body::from)).ok_or("hex")?);
    }
    let chunks = chunks.iter().map(|chunk| from_hex(chunk).ok_or("hex")).collect::<Result<Vec<_>, _>>()?;
    let (sender, body) = Body::channel(1, None);
    tokio::spawn(async move {
        for chunk in chunks {
            if sender.send(Ok(Frame::data(Bytes::from(chunk)))).await.is_err() {
                return;
            }
        }
    });
    Ok(body)
}

async fn read(response: Response<Body>) -> Outcome {
    let report = response.extensions().get::<CallReport>().cloned();
    let mut outcome = Outcome {
        status: Some(response.status().as_u16()),
        headers: pairs(response.headers()),
        attempts: report.as_ref().map(|report| report.attempts),
        cluster: report.as_ref().map(|report| report.cluster.to_string()),
        endpoint: report.as_ref().map(|report| report.endpoint.to_string()),
        ..Outcome::default()
    };
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => outcome.trailers = frame.trailers_ref().map(pairs).unwrap_or_default(),
            Err(error) => {
                let kind = error.downcast_ref::<mesh_core::Error>().map_or("foreign", |error| error.kind().as_str());
                outcome.body_error = Some(kind.to_owned());
                break;
            }
        }
    }
    outcome.body = to_hex(&bytes);
    outcome
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
