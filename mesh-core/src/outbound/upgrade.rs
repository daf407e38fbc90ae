//! Another protocol over an HTTP/1.1 connection (RFC 9110 7.8): WebSocket and its kind.
//!
//! Decides: which requests ask for it and over which transport they go. Never: takes part in what is spoken then.
//! Invariant: a connection that was upgraded serves no further request and counts as open as long as it is used.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use crate::endpoint::connect::{Protocol, Transport};
use crate::endpoint::connection::Occupied;

/// Keeps an upgraded connection counted; an extension of its 101 response.
#[derive(Clone)]
pub struct Tunnel {
    _place: Arc<Occupied>,
}

impl Tunnel {
    pub(super) fn over(place: Occupied) -> Self {
        Self { _place: Arc::new(place) }
    }
}

/// The protocol a request asks for. `h2c` is none: HTTP/2 is reached by prior knowledge or ALPN (RFC 9113 3.1).
pub(crate) fn wanted(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::UPGRADE).filter(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// An upgrade needs HTTP/1.1. A cluster that speaks HTTP/2 only ignores the wish, as a server may.
pub(super) fn transport<'a>(transport: &'a Transport, headers: &HeaderMap) -> Cow<'a, Transport> {
    if wanted(headers).is_none() || transport.protocol != Protocol::Auto {
        return Cow::Borrowed(transport);
    }
    let tls = transport.tls.as_ref().map(|tls| tls.offering(vec![b"http/1.1".to_vec()]));
    Cow::Owned(Transport { protocol: Protocol::Http1, tls, ..transport.clone() })
}
