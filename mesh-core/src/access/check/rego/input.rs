//! The question as a policy reads it: the `CheckRequest` in protobuf's JSON form, with path, query and body taken apart.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Metadata};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::access::check::metadata;

/// What the policy finds in `input`; an error says why path, query or body is not what the request says it is.
pub(super) fn of(request: &CheckRequest) -> Result<Value, String> {
    let context = request.attributes.clone().unwrap_or_default();
    let question = context.request.unwrap_or_default();
    let http = question.http.clone().unwrap_or_default();
    let (path, query) = http.path.split_once('?').unwrap_or((&http.path, ""));
    let path = decoded(path)?;
    let (body, is_truncated) = parsed_body(&http)?;
    let attributes = written([
        ("source", context.source.as_ref().map(peer)),
        ("destination", context.destination.as_ref().map(peer)),
        ("request", Some(request_of(&question))),
        ("contextExtensions", (!context.context_extensions.is_empty()).then(|| json!(context.context_extensions))),
        ("metadataContext", context.metadata_context.as_ref().map(metadata_of)),
        ("tlsSession", context.tls_session.as_ref().map(|session| written([("sni", text(&session.sni))]))),
    ]);
    let mut input = json!({
        "attributes": attributes,
        "parsed_path": path.trim_start_matches('/').split('/').collect::<Vec<_>>(),
        "parsed_query": parsed_query(query)?,
        "parsed_body": body,
        "truncated_body": is_truncated,
        "version": { "ext_authz": "v3", "encoding": "protojson" },
    });
    if let Some(principal) = context.source.as_ref().and_then(|source| text(&source.principal)) {
        input["source_principal"] = principal;
    }
    Ok(input)
}

/// Protobuf's JSON form leaves out what has its default.
fn written<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

fn text(value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| value.into())
}

fn peer(peer: &Peer) -> Value {
    written([
        ("address", peer.address.as_ref().and_then(address)),
        ("service", text(&peer.service)),
        ("principal", text(&peer.principal)),
        ("certificate", text(&peer.certificate)),
    ])
}

fn metadata_of(context: &Metadata) -> Value {
    let namespaces = context.filter_metadata.iter().map(|(name, fields)| (name.clone(), metadata::json(fields)));
    let namespaces: Map<String, Value> = namespaces.collect();
    written([("filterMetadata", (!namespaces.is_empty()).then_some(Value::Object(namespaces)))])
}

fn address(address: &Address) -> Option<Value> {
    let Some(Kind::SocketAddress(socket)) = &address.address else { return None };
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => Some(port.into()),
        _ => None,
    };
    Some(json!({ "socketAddress": written([("address", text(&socket.address)), ("portValue", port)]) }))
}

fn request_of(request: &Request) -> Value {
    let time = request.time.as_ref().and_then(|time| {
        let at = time::OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
        let at = at.replace_nanosecond(u32::try_from(time.nanos).ok()?).ok()?;
        at.format(&time::format_description::well_known::Rfc3339).ok()
    });
    written([("time", time.map(Value::from)), ("http", request.http.as_ref().map(http_of))])
}

fn http_of(http: &HttpRequest) -> Value {
    let raw = http.header_map.as_ref().map(|map| {
        let headers = map.headers.iter();
        let headers =
            headers.map(|header| json!({ "key": header.key, "rawValue": BASE64_STANDARD.encode(&header.raw_value) }));
        json!({ "headers": headers.collect::<Vec<_>>() })
    });
    written([
        ("id", text(&http.id)),
        ("method", text(&http.method)),
        ("headers", (!http.headers.is_empty()).then(|| json!(http.headers))),
        ("headerMap", raw),
        ("path", text(&http.path)),
        ("host", text(&http.host)),
        ("scheme", text(&http.scheme)),
        // 64 bits are text in protobuf's JSON form.
        ("size", (http.size != 0).then(|| http.size.to_string().into())),
        ("protocol", text(&http.protocol)),
        ("body", text(&http.body)),
        ("rawBody", text(&BASE64_STANDARD.encode(&http.raw_body))),
    ])
}

fn decoded(text: &str) -> Result<String, String> {
    let digits = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(digits) {
        return Err(format!("invalid URL escape in {text:?}"));
    }
    Ok(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

fn parsed_query(query: &str) -> Result<Value, String> {
    let mut parsed = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err("invalid semicolon separator in query".to_owned());
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let values = parsed.entry(decoded(&name.replace('+', " "))?).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(decoded(&value.replace('+', " "))?.into());
        }
    }
    Ok(Value::Object(parsed))
}

/// A body of JSON or of a form, if all of it is there; and whether it is not.
fn parsed_body(http: &HttpRequest) -> Result<(Value, bool), String> {
    let header = |name| http.headers.get(name).map_or("", String::as_str);
    if header("x-envoy-auth-partial-body") == "true" {
        return Ok((Value::Null, true));
    }
    let kind = header("content-type");
    let (is_json, is_form) = (kind.contains("application/json"), kind.contains("application/x-www-form-urlencoded"));
    let body = if http.body.is_empty() { String::from_utf8_lossy(&http.raw_body) } else { (&*http.body).into() };
    if body.is_empty() || !(is_json || is_form) {
        return Ok((Value::Null, false));
    }
    if header("content-length").parse().is_ok_and(|length: usize| length > body.len()) {
        return Ok((Value::Null, true));
    }
    let parsed = match is_json {
        true => serde_json::from_str(&body).map_err(|error| format!("the body is not JSON: {error}"))?,
        false => parsed_query(&body)?,
    };
    Ok((parsed, false))
}
