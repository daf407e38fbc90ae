//! The question: attributes as an `ext_authz` `CheckRequest`.
//!
//! Decides: how each fact reads on the wire, as Envoy writes it.
//! Never: decodes the path, sends more than the configuration names, believes a header about who the caller is.
//! Invariant: equal attributes give equal questions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HOST};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::config::{CheckConfig, SentHeaders, text};
use super::metadata;
use super::question::Question;

/// Builds the question.
pub fn check_request(question: &Question<'_>, config: &CheckConfig) -> CheckRequest {
    let attributes = &question.attributes;
    let certificate = attributes.certificate.filter(|_| config.peer_certificate);
    let source = Peer {
        // Envoy takes this from a header; the proven identity is what it stands for.
        service: attributes.principal.unwrap_or_default().to_owned(),
        certificate: certificate.map(|der| url_encoded_pem(der)).unwrap_or_default(),
        ..peer(attributes.source_address, attributes.principal)
    };
    let destination = Peer {
        service: attributes.service.to_owned(),
        ..peer(attributes.destination_address, attributes.own_principal)
    };
    let sni = attributes.sni.filter(|_| config.tls_session);
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(Request {
                time: Some(timestamp(attributes.time)),
                // As Envoy's filter for connections, which knows of no request.
                http: (!attributes.is_tcp).then(|| http_request(question, config)),
            }),
            context_extensions: config.context_extensions.clone(),
            metadata_context: config.claims.then(|| metadata::of_claims(attributes.claims.map(|claims| &**claims))),
            tls_session: sni.map(|sni| TlsSession { sni: sni.to_owned() }),
            ..AttributeContext::default()
        }),
    }
}

fn http_request(question: &Question<'_>, config: &CheckConfig) -> HttpRequest {
    let attributes = &question.attributes;
    let path = attributes.path_and_query();
    let headers = headers(question, &path, &config.headers);
    let (headers, header_map) = match config.headers.raw {
        true => (HashMap::new(), Some(core::HeaderMap { headers: headers.into_iter().map(raw).collect() })),
        false => (joined(headers), None),
    };
    let body = question.body.as_ref().map(|body| &body.bytes[..]).unwrap_or_default();
    let (body, raw_body) = match config.body.is_some_and(|terms| terms.as_bytes) {
        true => (String::new(), body.to_vec()),
        false => (text(body), Vec::new()),
    };
    HttpRequest {
        id: attributes.request_id.to_owned(),
        method: attributes.method.to_owned(),
        headers,
        header_map,
        path,
        host: attributes.host.to_owned(),
        scheme: attributes.scheme.to_owned(),
        protocol: attributes.protocol.to_owned(),
        size: size(attributes.headers),
        body,
        raw_body,
        ..HttpRequest::default() // query and fragment stay empty: they are part of the path
    }
}

/// Lower-case names and bare values, pseudo headers among them. What the caller says of a part of the body is ours to
/// say.
fn headers<'q>(question: &'q Question<'_>, path: &'q str, sent: &SentHeaders) -> Vec<(&'q str, &'q [u8])> {
    let attributes = &question.attributes;
    let pseudo = [
        (":method", attributes.method),
        (":path", path),
        (":authority", attributes.host),
        (":scheme", attributes.scheme),
    ];
    let pseudo = pseudo.into_iter().map(|(name, value)| (name, value.as_bytes()));
    let fields = attributes.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let fields = fields.filter(|(name, _)| *name != HOST && *name != PARTIAL_BODY);
    let mut headers: Vec<(&str, &[u8])> = pseudo.chain(fields).filter(|(name, _)| sent.has_grpc(name)).collect();
    if let Some(body) = &question.body {
        headers.push((PARTIAL_BODY, if body.is_partial { b"true" } else { b"false" }));
    }
    headers
}

fn joined(headers: Vec<(&str, &[u8])>) -> HashMap<String, String> {
    let mut joined = HashMap::<String, String>::new();
    for (name, value) in headers {
        let value = text(value);
        match joined.get_mut(name) {
            Some(before) => {
                before.push(',');
                before.push_str(&value);
            }
            None => drop(joined.insert(name.to_owned(), value)),
        }
    }
    joined
}

fn raw((name, value): (&str, &[u8])) -> core::HeaderValue {
    core::HeaderValue { key: name.to_owned(), raw_value: value.to_vec(), ..core::HeaderValue::default() }
}

/// As Envoy writes a certificate: PEM with lines of 64 characters, and what a URL has other uses for encoded.
fn url_encoded_pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    utf8_percent_encode(&pem, IN_A_URL).to_string()
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

/// Says whether the body in a question is only the beginning of the request's.
pub(super) const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
/// What Envoy encodes in a certificate.
const IN_A_URL: &AsciiSet = &CONTROLS.add(b' ').add(b'+').add(b'/').add(b'=');
