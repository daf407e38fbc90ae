//! A check over plain HTTP: the question is a request like the one it is about, the status is the answer.
//!
//! Decides: what is told of the request, and what of the answer reaches the application and the caller, as Envoy's HTTP
//! service does. Never: passes on what frames a message or belongs to one connection; allows by any status but 200.
//! Invariant: nothing of an answer reaches the application unless its name was written down.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use tonic::Code;
use tonic::body::Body;

use super::PolicyService;
use super::config::{CheckConfig, HttpForm, SentHeaders, names, text};
use super::question::Question;
use super::request::PARTIAL_BODY;
use super::response::{MAX_CHANGES, reuse};
use crate::access::attributes::Attributes;
use crate::access::cache::Answer;
use crate::access::verdict::{Failure, FailureReason, HeaderAction, HeaderChange, Verdict};
use crate::config::rule::unchangeable;

/// Asks, and reads the answer.
pub(super) async fn ask<S: PolicyService>(
    mut service: S,
    question: Question<'_>,
    config: &CheckConfig,
    form: &HttpForm,
) -> Result<Answer, Failure> {
    let request = check_request(&question, config, form).ok_or(Failure::new(FailureReason::Malformed))?;
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(|_| unavailable())?;
    let response = service.call(request).await.map_err(|error| failed(error.into()))?;
    let (head, body) = response.into_parts();
    if head.status.is_server_error() {
        return Err(Failure::new(FailureReason::ServerError));
    }
    if head.status == StatusCode::OK {
        // Its body says nothing, but an answer that breaks off is none.
        beginning(body, MAX_BODY_BYTES).await?;
        let verdict = approval(&head.headers, form);
        return Ok(Answer { reuse: reuse(&verdict, Code::Ok, None), verdict: Arc::new(verdict), epoch: None });
    }
    let limit = config.max_denied_body.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
    let verdict = Verdict {
        response_headers: changes(&head.headers, |name| is_for_client(name, form), HeaderAction::Add),
        body: beginning(body, limit).await?,
        ..Verdict::deny(head.status.as_u16())
    };
    Ok(Answer { reuse: reuse(&verdict, Code::PermissionDenied, None), verdict: Arc::new(verdict), epoch: None })
}

/// The question; `None` if what the request names is no target.
pub(super) fn check_request(question: &Question<'_>, config: &CheckConfig, form: &HttpForm) -> Option<Request<Body>> {
    let attributes = &question.attributes;
    let body = question.body.as_ref().map(|body| body.bytes.clone()).unwrap_or_default();
    let length = body.len();
    let mut request = Request::new(Body::new(Full::new(body)));
    *request.method_mut() = attributes.method.parse().ok()?;
    *request.uri_mut() = target(attributes, config, form)?;
    *request.headers_mut() = headers(attributes.headers, &config.headers);
    if let Some(body) = &question.body {
        let told = HeaderValue::from_static(if body.is_partial { "true" } else { "false" });
        request.headers_mut().insert(PARTIAL_BODY, told);
    }
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    for (name, value) in &form.headers_to_add {
        request.headers_mut().insert(name, value.clone());
    }
    Some(request)
}

/// The caller's host stays the question's; where the request goes, the cluster says.
fn target(attributes: &Attributes<'_>, config: &CheckConfig, form: &HttpForm) -> Option<Uri> {
    let mut parts = config.origin.clone().into_parts();
    if let Ok(host) = attributes.host.parse::<Authority>() {
        parts.authority = Some(host);
    }
    parts.scheme = Some(Scheme::HTTP);
    parts.path_and_query = Some(match &form.path_override {
        Some(path) => path.clone(),
        None => format!("{}{}", form.path_prefix, attributes.path_and_query()).parse().ok()?,
    });
    Uri::from_parts(parts).ok()
}

fn headers(from: &HeaderMap, chosen: &SentHeaders) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let is_sent = |name: &HeaderName| {
        chosen.has_http(name.as_str()) && !is_of_the_message(name) && !TIMEOUTS.contains(&name.as_str())
    };
    for name in from.keys().filter(|name| is_sent(name)) {
        let values = from.get_all(name);
        if chosen.raw {
            for value in values {
                headers.append(name, value.clone());
            }
            continue;
        }
        let joined = values.iter().map(|value| text(value.as_bytes())).collect::<Vec<_>>().join(",");
        // What were values are one when they are joined.
        if let Ok(value) = HeaderValue::from_bytes(joined.as_bytes()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn approval(answer: &HeaderMap, form: &HttpForm) -> Verdict {
    let mut request_headers =
        changes(answer, |name| names(&form.upstream_headers, name.as_str()), HeaderAction::Replace);
    request_headers.extend(changes(
        answer,
        |name| names(&form.upstream_headers_to_append, name.as_str()),
        HeaderAction::AppendIfPresent,
    ));
    let on_success = |name: &HeaderName| names(&form.client_headers_on_success, name.as_str());
    Verdict {
        request_headers,
        request_headers_to_remove: to_remove(answer),
        response_headers: changes(answer, on_success, HeaderAction::Add),
        ..Verdict::allow()
    }
}

/// Several values of one name all count: the first replaces, the others are put beside it.
fn changes(answer: &HeaderMap, is_chosen: impl Fn(&HeaderName) -> bool, action: HeaderAction) -> Vec<HeaderChange> {
    let chosen = answer.keys().filter(|name| is_chosen(name) && **name != TO_REMOVE && !is_of_the_message(name));
    let change = |(nth, name, value): (usize, &HeaderName, &HeaderValue)| {
        let action = if nth > 0 && action == HeaderAction::Replace { HeaderAction::Add } else { action };
        HeaderChange { name: name.clone(), value: value.clone(), action }
    };
    let all =
        chosen.flat_map(|name| answer.get_all(name).iter().enumerate().map(move |(nth, value)| (nth, name, value)));
    all.map(change).take(MAX_CHANGES).collect()
}

fn to_remove(answer: &HeaderMap) -> Vec<HeaderName> {
    let lists = answer.get_all(TO_REMOVE).iter().filter_map(|value| value.to_str().ok());
    let listed = lists.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok());
    listed.filter(|name: &HeaderName| unchangeable(name.as_str()).is_none()).collect()
}

fn is_for_client(name: &HeaderName, form: &HttpForm) -> bool {
    let is_listed = |allowed: &Vec<_>| *name == LOCATION || *name == WWW_AUTHENTICATE || names(allowed, name.as_str());
    form.client_headers.as_ref().is_none_or(is_listed)
}

/// What frames a message or belongs to a connection is made anew for every message.
fn is_of_the_message(name: &HeaderName) -> bool {
    unchangeable(name.as_str()).is_some() || matches!(name.as_str(), "proxy-authenticate" | "proxy-authorization")
}

/// At most so many bytes. A refusal that breaks off is none.
async fn beginning<B>(body: B, limit: usize) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut read = BytesMut::new();
    while read.len() < limit {
        let Some(frame) = body.frame().await else { break };
        let Ok(frame) = frame else { return Err(unavailable()) };
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(limit - read.len())]);
        }
    }
    Ok(read.freeze())
}

fn failed(error: tonic::codegen::StdError) -> Failure {
    let code = error.downcast_ref::<tonic::Status>().map_or(Code::Unavailable, tonic::Status::code);
    Failure::new(FailureReason::Rpc(code))
}

fn unavailable() -> Failure {
    Failure::new(FailureReason::Rpc(Code::Unavailable))
}

/// Request headers that an approval takes off, separated by commas.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// The caller's time is not the question's.
const TIMEOUTS: [&str; 2] = ["grpc-timeout", "x-envoy-expected-rq-timeout-ms"];
/// A longer body of a refusal is cut. The same as of a gRPC answer.
const MAX_BODY_BYTES: usize = super::MAX_ANSWER_BYTES;
