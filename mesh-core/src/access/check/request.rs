//! The question: attributes as an `ext_authz` `CheckRequest`.
//!
//! Decides: how each fact reads on the wire, as Envoy writes it.
//! Never: decodes the path, sends a body, believes a header about who the caller is.
//! Invariant: equal attributes give equal questions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST};

use crate::access::attributes::Attributes;

/// Builds the question.
pub fn check_request(attributes: &Attributes<'_>, context_extensions: &HashMap<String, String>) -> CheckRequest {
    let source = Peer {
        // Envoy takes this from a header; the proven identity is what it stands for.
        service: attributes.principal.unwrap_or_default().to_owned(),
        ..peer(attributes.source_address, attributes.principal)
    };
    let destination = Peer {
        service: attributes.service.to_owned(),
        ..peer(attributes.destination_address, attributes.own_principal)
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(Request {
                time: Some(timestamp(attributes.time)),
                // As Envoy's filter for connections, which knows of no request.
                http: (!attributes.is_tcp).then(|| http_request(attributes)),
            }),
            context_extensions: context_extensions.clone(),
            ..AttributeContext::default()
        }),
    }
}

fn http_request(attributes: &Attributes<'_>) -> HttpRequest {
    let path = attributes.path_and_query();
    HttpRequest {
        id: attributes.request_id.to_owned(),
        method: attributes.method.to_owned(),
        headers: headers(attributes, &path),
        path,
        host: attributes.host.to_owned(),
        scheme: attributes.scheme.to_owned(),
        protocol: attributes.protocol.to_owned(),
        size: size(attributes.headers),
        ..HttpRequest::default() // query and fragment stay empty: they are part of the path
    }
}

/// Lower-case names, several values joined with `,`, pseudo headers among them.
fn headers(attributes: &Attributes<'_>, path: &str) -> HashMap<String, String> {
    let pseudo = [
        (":method", attributes.method),
        (":path", path),
        (":authority", attributes.host),
        (":scheme", attributes.scheme),
    ];
    let mut headers: HashMap<String, String> =
        pseudo.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for name in attributes.headers.keys().filter(|name| **name != HOST) {
        let values: Vec<String> = attributes.headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
        headers.insert(name.as_str().to_owned(), values.join(","));
    }
    headers
}

/// Bytes that are not UTF-8 become `!`, one each, as Envoy does.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

/// -1: not known.
fn size(headers: &HeaderMap) -> i64 {
    headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(-1)
}

fn peer(address: Option<SocketAddr>, principal: Option<&str>) -> Peer {
    Peer {
        address: address.map(socket_address),
        principal: principal.unwrap_or_default().to_owned(),
        ..Peer::default()
    }
}

fn socket_address(address: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(address.port()))),
        ..core::SocketAddress::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
