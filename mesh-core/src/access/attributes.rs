//! The facts a policy reads about one request.
//!
//! Decides: nothing. It is the one vocabulary that local rules, remote checks and the check cache share.
//! Never: copies on the request path; [`AttributesBuf`] exists for the one case that outlives the request,
//! a remote call in flight.
//! Invariant: `principal` is a proven identity or `None`; it is never taken from a header.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

/// The facts of one request, borrowed from it.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// The caller's proven SPIFFE ID (`spiffe://...`), `None` for an unauthenticated caller.
    pub principal: Option<&'a str>,
    /// Our own SPIFFE ID.
    pub own_principal: Option<&'a str>,
    /// Canonical name of the service that is asked for: this process.
    pub service: &'a str,
    /// Name of the listener the request came in by.
    pub listener: &'a str,
    /// Request method.
    pub method: &'a str,
    /// Path without the query, not decoded. Rules compare it as it stands: normalize it before.
    pub path: &'a str,
    /// Query without the `?`, not decoded.
    pub query: Option<&'a str>,
    /// Authority of the request.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// Request headers.
    pub headers: &'a HeaderMap,
    /// The peer's socket address.
    pub source_address: Option<SocketAddr>,
    /// The local socket address.
    pub destination_address: Option<SocketAddr>,
    /// Value of `x-request-id`, empty when there is none.
    pub request_id: &'a str,
    /// When the first byte arrived.
    pub time: SystemTime,
    /// The original client, where proxies that are trusted say so; else nobody knows better than `source_address`.
    pub remote_address: Option<IpAddr>,
    /// The server name the TLS client asked for.
    pub sni: Option<&'a str>,
    /// The caller's certificate (DER), as it was verified, where it was kept.
    pub certificate: Option<&'a Arc<[u8]>>,
    /// Claims of a validated token of the end user.
    pub claims: Option<&'a Arc<Claims>>,
    /// Whether this is a bare connection: method, path, host and headers mean nothing.
    pub is_tcp: bool,
}

/// Claims of a validated token.
pub type Claims = serde_json::Map<String, serde_json::Value>;

impl Attributes<'_> {
    /// Path and query as the caller wrote them.
    pub fn path_and_query(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_owned(),
        }
    }

    /// A copy that may outlive the request.
    pub fn to_buf(&self) -> AttributesBuf {
        AttributesBuf {
            principal: self.principal.map(str::to_owned),
            own_principal: self.own_principal.map(str::to_owned),
            service: self.service.to_owned(),
            listener: self.listener.to_owned(),
            method: self.method.to_owned(),
            path: self.path.to_owned(),
            query: self.query.map(str::to_owned),
            host: self.host.to_owned(),
            scheme: self.scheme.to_owned(),
            protocol: self.protocol.to_owned(),
            headers: self.headers.clone(),
            source_address: self.source_address,
            destination_address: self.destination_address,
            request_id: self.request_id.to_owned(),
            time: self.time,
            remote_address: self.remote_address,
            sni: self.sni.map(str::to_owned),
            certificate: self.certificate.cloned(),
            claims: self.claims.cloned(),
            is_tcp: self.is_tcp,
        }
    }
}

/// Header values are left out: they hold credentials.
impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("principal", &self.principal)
            .field("listener", &self.listener)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AttributesBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrow().fmt(f)
    }
}

/// [`Attributes`] that own what they hold.
#[derive(Clone)]
pub struct AttributesBuf {
    /// See [`Attributes::principal`].
    pub principal: Option<String>,
    /// See [`Attributes::own_principal`].
    pub own_principal: Option<String>,
    /// See [`Attributes::service`].
    pub service: String,
    /// See [`Attributes::listener`].
    pub listener: String,
    /// See [`Attributes::method`].
    pub method: String,
    /// See [`Attributes::path`].
    pub path: String,
    /// See [`Attributes::query`].
    pub query: Option<String>,
    /// See [`Attributes::host`].
    pub host: String,
    /// See [`Attributes::scheme`].
    pub scheme: String,
    /// See [`Attributes::protocol`].
    pub protocol: String,
    /// See [`Attributes::headers`].
    pub headers: HeaderMap,
    /// See [`Attributes::source_address`].
    pub source_address: Option<SocketAddr>,
    /// See [`Attributes::destination_address`].
    pub destination_address: Option<SocketAddr>,
    /// See [`Attributes::request_id`].
    pub request_id: String,
    /// See [`Attributes::time`].
    pub time: SystemTime,
    /// See [`Attributes::remote_address`].
    pub remote_address: Option<IpAddr>,
    /// See [`Attributes::sni`].
    pub sni: Option<String>,
    /// See [`Attributes::certificate`].
    pub certificate: Option<Arc<[u8]>>,
    /// See [`Attributes::claims`].
    pub claims: Option<Arc<Claims>>,
    /// See [`Attributes::is_tcp`].
    pub is_tcp: bool,
}

impl AttributesBuf {
    /// The borrowed form, which is what policies read.
    pub fn borrow(&self) -> Attributes<'_> {
        Attributes {
            principal: self.principal.as_deref(),
            own_principal: self.own_principal.as_deref(),
            service: &self.service,
            listener: &self.listener,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            host: &self.host,
            scheme: &self.scheme,
            protocol: &self.protocol,
            headers: &self.headers,
            source_address: self.source_address,
            destination_address: self.destination_address,
            request_id: &self.request_id,
            time: self.time,
            remote_address: self.remote_address,
            sni: self.sni.as_deref(),
            certificate: self.certificate.as_ref(),
            claims: self.claims.as_ref(),
            is_tcp: self.is_tcp,
        }
    }
}

#[cfg(test)]
impl Default for AttributesBuf {
    /// A plain authenticated GET, for tests to vary.
    fn default() -> Self {
        Self {
            principal: Some("spiffe://cluster.local/ns/default/sa/caller".to_owned()),
            own_principal: Some("spiffe://cluster.local/ns/default/sa/me".to_owned()),
            service: "details".to_owned(),
            listener: "inbound".to_owned(),
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            query: None,
            host: "details".to_owned(),
            scheme: "http".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            headers: HeaderMap::new(),
            source_address: None,
            destination_address: None,
            request_id: String::new(),
            time: SystemTime::UNIX_EPOCH,
            remote_address: None,
            sni: None,
            certificate: None,
            claims: None,
            is_tcp: false,
        }
    }
}
