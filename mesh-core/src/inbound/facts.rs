//! What policies read of a request besides its headers.
//!
//! Decides: the one form of path and host that rules, limits and checks compare, and that the application then reads.
//! Never: lets two readers see two requests: `/public/../admin` is judged as it will be read, and the host header is
//! the authority, where there is one. Invariant: a request without one clear form is refused (400).

use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

use super::admission::{Refused, refusal};
use super::serve::Origin;
use super::{ConnectionAddress, Inbound, ServerName};
use crate::access::attributes::Attributes;
use crate::access::jwt::{self, EndUser};
use crate::access::verdict::{HeaderChange, Verdict};
use crate::body::Body;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind};
use crate::identity::tls::PeerIdentity;
use crate::route::host;
use crate::route::matcher::{RequestHead, RequestMatch, first_match};
use crate::route::normalize::Normalized;
use crate::route::path_terms::PathTerms;
use crate::route::readings::Readings;
use crate::time::Clock;

/// The facts of one request, normalised.
pub(super) struct Facts<'a> {
    inbound: &'a Inbound,
    origin: &'a Origin,
    pub(super) method: http::Method,
    path: String,
    /// Other ways in which the path may be read.
    pub(super) readings: Readings,
    pub(super) query: Option<String>,
    host: String,
    protocol: &'static str,
    request_id: Arc<str>,
    /// Of a client that proved no identity.
    server_name: Option<ServerName>,
    time: std::time::SystemTime,
    /// Once a token has proven one.
    pub(super) user: Option<EndUser>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(
        (inbound, paths): (&'a Inbound, &PathTerms),
        origin: &'a Origin,
        request: &mut Request<Body>,
        context: &CallContext,
    ) -> Result<Self, Refused> {
        if let Some(location) = settle(request, paths).map_err(|error| Refused { error, verdict: None })? {
            return Err(elsewhere(&location));
        }
        Ok(Self {
            readings: paths.readings(request.uri().path()),
            inbound,
            origin,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().map(str::to_owned),
            host: host::normalized(authority(request)).into_owned(),
            protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            request_id: context.request_id.clone().unwrap_or_default(),
            server_name: request.extensions().get().cloned(),
            time: inbound.core.clock.wall(),
            user: None,
        })
    }

    /// The query as it is now: a check may have changed it.
    pub(super) fn read_query(&mut self, uri: &Uri) {
        self.query = uri.query().map(str::to_owned);
    }

    /// Whether the request meets one of these conditions, if there are any: by its path as it stands, or by another way
    /// in which that may be read.
    pub(super) fn meets(&self, conditions: &[RequestMatch], request: &Request<Body>) -> bool {
        let head = RequestHead::new(&self.method, request.uri(), request.headers()).asked_by(self.principal());
        let is_met = |path| first_match(conditions, RequestHead { path, ..head }).is_some();
        is_met(head.path) || self.readings.structural().chain(self.readings.decoded()).any(is_met)
    }

    /// Who asks, proven.
    pub(super) fn principal(&self) -> Option<&str> {
        self.origin.1.as_ref().map(|peer| peer.id.as_str())
    }

    pub(super) fn attributes<'b>(&'b self, headers: &'b HeaderMap) -> Attributes<'b> {
        let (address, peer) = (self.origin.0.map(ConnectionAddress::canonical), &self.origin.1);
        let node = &self.inbound.core.telemetry.node;
        let of_peer = peer.as_ref().and_then(|peer| peer.server_name.as_deref());
        Attributes {
            principal: peer.as_ref().map(|peer| peer.id.as_str()),
            own_principal: peer.as_ref().map(|_| &*node.principal),
            service: &node.canonical_service,
            listener: &self.inbound.name,
            method: self.method.as_str(),
            path: &self.path,
            query: self.query.as_deref(),
            host: &self.host,
            scheme: if peer.is_some() || self.server_name.is_some() { "https" } else { "http" },
            protocol: self.protocol,
            headers,
            source_address: address.map(|address| address.remote),
            destination_address: address.map(|address| address.local),
            request_id: &self.request_id,
            remote_address: None,
            sni: of_peer.or(self.server_name.as_ref().map(|name| &*name.0)),
            certificate: peer.as_ref().and_then(|peer| peer.certificate.as_ref()),
            claims: self.user.as_ref().map(EndUser::claims),
            is_tcp: false,
            time: self.time,
        }
    }
}

/// When what was said about a caller ceases to hold: no later than the caller's certificate, the end user's token, and a
/// token that nobody here verifies but the check's server may.
pub(crate) fn expiry(peer: Option<&PeerIdentity>, attributes: &Attributes<'_>, clock: &dyn Clock) -> Option<Instant> {
    let token = attributes.claims.and_then(|claims| jwt::expires(claims));
    let stated = jwt::stated_expiry(attributes.headers);
    let end = peer.map(|peer| peer.not_after).into_iter().chain(token).chain(stated).min()?;
    Some(crate::time::after(clock.now(), end.duration_since(clock.wall()).unwrap_or_default()))
}

/// Brings a request to its one form, for whoever judges it and whoever reads it then; or says where its caller has to
/// ask for that form.
pub(crate) fn settle<In>(request: &mut Request<In>, paths: &PathTerms) -> Result<Option<String>, Error> {
    let uri = request.uri();
    if uri.authority().is_some() && uri.scheme().is_none() && *request.method() != Method::CONNECT {
        // RFC 9112, 3.2.3. `GET admin` would be a request without a path for a host of that name.
        return Err(bad("the target is an authority".to_owned()));
    }
    let location = normalise_path(request, paths)?;
    agree_on_host(request)?;
    Ok(location)
}

/// The caller is sent to the decoded path (Envoy: 307). A location that began with `//` would name another host.
fn elsewhere(location: &str) -> Refused {
    let location = format!("/{}", location.trim_start_matches('/'));
    let error = bad("the path has an escaped slash: sent to the decoded one".to_owned());
    let to = HeaderChange::set("location", &location);
    let verdict = Verdict { response_headers: to.into_iter().collect(), ..Verdict::deny(307) };
    Refused { error, verdict: Some(Arc::new(verdict)) }
}

fn bad(why: String) -> Error {
    refusal(ErrorKind::BadRequest, why)
}

fn normalise_path<In>(request: &mut Request<In>, paths: &PathTerms) -> Result<Option<String>, Error> {
    let Some(target) = request.uri().path_and_query().map(|target| target.as_str().to_owned()) else { return Ok(None) };
    let new = match paths.apply(&target).map_err(|reason| bad(format!("path refused: {reason:?}")))? {
        Normalized::Target(new) => new,
        Normalized::Redirect(location) => return Ok(Some(location)),
    };
    if *new != *target {
        let new: PathAndQuery = new.parse().map_err(|error| bad(format!("path refused: {error}")))?;
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(new);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| bad(format!("path refused: {error}")))?;
    }
    Ok(None)
}

/// RFC 9112 3.2: several host fields are an error, and an authority in the target counts more than the field. HTTP/2
/// leaves the field out; whoever asks for it finds it all the same.
fn agree_on_host<In>(request: &mut Request<In>) -> Result<(), Error> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("several host headers".to_owned()));
    }
    if host.is_some_and(|host| host.to_str().is_err()) {
        return Err(bad("the host header is not text".to_owned()));
    }
    let Some(authority) = request.uri().authority().map(|authority| authority.as_str()) else { return Ok(()) };
    if host.is_some_and(|host| host.as_bytes() == authority.as_bytes()) {
        return Ok(());
    }
    let authority = HeaderValue::from_str(authority).map_err(|error| bad(format!("authority refused: {error}")))?;
    request.headers_mut().insert(header::HOST, authority);
    Ok(())
}

/// Whom the request is for: the authority of its target, else its host header, else nobody.
pub(crate) fn authority<In>(request: &Request<In>) -> &str {
    let from_header = || request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or_else(from_header).unwrap_or_default()
}
