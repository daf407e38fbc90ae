//! A policy server under a test's control, a clock under a test's control, and JSON as protobuf.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{BoolValue, ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use serde_json::Value as Json;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use crate::time::Clock;

/// Answers what it was told, in order; the last answer stays.
#[derive(Default)]
pub(super) struct Script {
    pub(super) answers: Mutex<VecDeque<Result<CheckResponse, Status>>>,
    pub(super) latency: Option<Duration>,
    /// So many answers may leave; without it, all.
    held: Option<Semaphore>,
    pub(super) calls: AtomicU64,
    pub(super) seen: Mutex<Vec<CheckRequest>>,
}

impl Script {
    pub(super) fn answering(answers: impl IntoIterator<Item = Result<CheckResponse, Status>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    pub(super) fn slow(
        latency: Duration,
        answers: impl IntoIterator<Item = Result<CheckResponse, Status>>,
    ) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, latency: Some(latency), ..Self::default() })
    }

    /// Takes every question, and answers no more of them than `let_go` says.
    pub(super) fn held(answers: impl IntoIterator<Item = Result<CheckResponse, Status>>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, held: Some(Semaphore::new(0)), ..Self::default() })
    }

    pub(super) fn let_go(&self, count: usize) {
        self.held.as_ref().unwrap().add_permits(count);
    }

    /// The server itself is a tower service that a client can call without a socket.
    pub(super) fn service(self: &Arc<Self>) -> AuthorizationServer<Self> {
        AuthorizationServer::from_arc(self.clone())
    }

    pub(super) fn then(&self, answer: Result<CheckResponse, Status>) {
        *self.answers.lock().unwrap() = VecDeque::from([answer]);
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl Authorization for Script {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(request.into_inner());
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        if let Some(latency) = self.latency {
            tokio::time::sleep(latency).await;
        }
        if let Some(held) = &self.held {
            held.acquire().await.unwrap().forget();
        }
        match answer {
            Some(answer) => answer.map(Response::new),
            None => pending().await,
        }
    }
}

/// Time that moves when it is told to. Nothing ever times out by it.
pub(super) struct Hands {
    start: Instant,
    elapsed: Mutex<Duration>,
}

impl Hands {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), elapsed: Mutex::default() }
    }

    pub(super) fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    pub(super) fn set(&self, seconds: f64) {
        *self.elapsed.lock().unwrap() = Duration::from_secs_f64(seconds);
    }
}

impl Clock for Hands {
    fn now(&self) -> Instant {
        self.start + *self.elapsed.lock().unwrap()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(pending())
    }
}

/// A bare status.
pub(super) fn status(code: Code) -> CheckResponse {
    CheckResponse { status: Some(RpcStatus { code: code as i32, ..RpcStatus::default() }), ..CheckResponse::default() }
}

/// A status that may be used again under hints given as JSON.
pub(super) fn hinted(code: Code, hints: &Json) -> CheckResponse {
    let fields = [("libmesh.check_cache".to_owned(), value(hints))].into();
    CheckResponse { dynamic_metadata: Some(Struct { fields }), ..status(code) }
}

/// JSON as a protobuf value.
pub(super) fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(yes) => Kind::BoolValue(*yes),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(value).collect() }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(name, json)| (name.clone(), value(json))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// A `CheckResponse` in the JSON form of the vectors.
pub(super) fn check_response(json: &Json) -> CheckResponse {
    let status = json.get("status").map(|status| RpcStatus {
        code: i32::try_from(status["code"].as_i64().unwrap()).unwrap(),
        ..RpcStatus::default()
    });
    let ok = json.get("ok_response").map(|ok| {
        HttpResponse::OkResponse(OkHttpResponse {
            headers: headers(&ok["headers"]),
            headers_to_remove: texts(&ok["headers_to_remove"]),
            response_headers_to_add: headers(&ok["response_headers_to_add"]),
            query_parameters_to_set: list(&ok["query_parameters_to_set"])
                .map(|pair| QueryParameter { key: text(&pair["key"]), value: text(&pair["value"]) })
                .collect(),
            query_parameters_to_remove: texts(&ok["query_parameters_to_remove"]),
            ..OkHttpResponse::default()
        })
    });
    let denied = json.get("denied_response").map(|denied| {
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: denied["status"]["code"].as_i64().map(|code| HttpStatus { code: i32::try_from(code).unwrap() }),
            headers: headers(&denied["headers"]),
            body: text(&denied["body"]),
        })
    });
    CheckResponse { status, http_response: ok.or(denied), ..CheckResponse::default() }
}

#[allow(deprecated, reason = "servers still send `append`")]
fn headers(json: &Json) -> Vec<HeaderValueOption> {
    list(json)
        .map(|option| HeaderValueOption {
            header: Some(header(&option["header"]["key"], &option["header"]["value"])),
            append: option["append"].as_bool().map(|value| BoolValue { value }),
            append_action: option["append_action"]
                .as_str()
                .map_or(0, |name| HeaderAppendAction::from_str_name(name).unwrap() as i32),
            keep_empty_value: option["keep_empty_value"].as_bool().unwrap_or_default(),
        })
        .collect()
}

fn header(key: &Json, value: &Json) -> HeaderValue {
    HeaderValue { key: text(key), value: text(value), ..HeaderValue::default() }
}

/// `[[name, value]]` as header options.
pub(super) fn pairs(json: &Json) -> Vec<HeaderValueOption> {
    list(json)
        .map(|pair| HeaderValueOption { header: Some(header(&pair[0], &pair[1])), ..HeaderValueOption::default() })
        .collect()
}

pub(super) fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

pub(super) fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn texts(json: &Json) -> Vec<String> {
    list(json).map(text).collect()
}
