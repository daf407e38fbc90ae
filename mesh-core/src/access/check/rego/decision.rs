//! A decision in the form of OPA's Envoy plugin, as the answer of a policy server.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::rpc::Status;
use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::Code;

use crate::access::check::metadata;

/// The answer; an error says why the value is no decision.
pub(super) fn response(value: Value) -> Result<CheckResponse, String> {
    let decision = match value {
        Value::Bool(allowed) => Decision { allowed, ..Decision::default() },
        value @ Value::Object(_) => serde_json::from_value(value).map_err(|error| error.to_string())?,
        _ => return Err("it is neither a boolean nor an object".to_owned()),
    };
    let code = if decision.allowed { Code::Ok } else { Code::PermissionDenied };
    let dynamic_metadata = decision.dynamic_metadata.map(metadata::structure);
    let http_response = match decision.allowed {
        true => HttpResponse::OkResponse(OkHttpResponse {
            headers: decision.headers.options(),
            headers_to_remove: decision.request_headers_to_remove,
            response_headers_to_add: decision.response_headers_to_add.options(),
            query_parameters_to_set: parameters(decision.query_parameters_to_set),
            query_parameters_to_remove: decision.query_parameters_to_remove,
            ..OkHttpResponse::default()
        }),
        false => HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: decision.http_status.map(status).transpose()?,
            headers: decision.headers.options(),
            body: decision.body,
        }),
    };
    Ok(CheckResponse {
        status: Some(Status { code: code as i32, ..Status::default() }),
        dynamic_metadata,
        http_response: Some(http_response),
    })
}

/// A question whose path, query or body cannot be read is the caller's mistake: the plugin denies it in these words.
pub(super) fn unreadable(why: &str) -> CheckResponse {
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: StatusCode::BadRequest as i32 }),
        body: format!("request_parse_error: {why}"),
        ..DeniedHttpResponse::default()
    };
    CheckResponse {
        status: Some(Status { code: Code::PermissionDenied as i32, ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    }
}

/// As in the plugin, a status that Envoy's enumeration lacks (451, say) is no decision.
fn status(code: i32) -> Result<HttpStatus, String> {
    match StatusCode::try_from(code) {
        Ok(StatusCode::Empty) | Err(_) => Err(format!("`http_status` {code} is none of Envoy's StatusCode")),
        Ok(_) => Ok(HttpStatus { code }),
    }
}

/// `allowed` has to be said.
#[derive(Default, Deserialize)]
struct Decision {
    allowed: bool,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    body: String,
    http_status: Option<i32>,
    #[serde(default)]
    response_headers_to_add: Headers,
    #[serde(default)]
    request_headers_to_remove: Vec<String>,
    #[serde(default)]
    query_parameters_to_set: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    query_parameters_to_remove: Vec<String>,
    dynamic_metadata: Option<Map<String, Value>>,
}

/// An object, or a list of objects.
#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    Object(BTreeMap<String, OneOrMany>),
    List(Vec<BTreeMap<String, OneOrMany>>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Headers {
    fn options(self) -> Vec<HeaderValueOption> {
        let objects = match self {
            Self::Object(object) => vec![object],
            Self::List(objects) => objects,
        };
        let pairs = objects
            .into_iter()
            .flatten()
            .flat_map(|(key, values)| values.each().map(move |value| (key.clone(), value)));
        let option = |(key, value)| HeaderValueOption {
            header: Some(HeaderValue { key, value, ..HeaderValue::default() }),
            ..HeaderValueOption::default()
        };
        pairs.map(option).collect()
    }
}

impl OneOrMany {
    fn each(self) -> std::vec::IntoIter<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
        .into_iter()
    }
}

fn parameters(written: BTreeMap<String, OneOrMany>) -> Vec<QueryParameter> {
    let pairs = written.into_iter().flat_map(|(key, values)| values.each().map(move |value| (key.clone(), value)));
    pairs.map(|(key, value)| QueryParameter { key, value }).collect()
}
