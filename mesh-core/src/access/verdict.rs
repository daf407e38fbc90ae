//! What a check decided, and what that does to the request and the response.
//!
//! Decides: how header and query changes are applied, by the rules of Envoy's `ext_authz`.
//! Never: touches the method, the authority or the framing: pseudo headers and `Host` are out of reach.
//! Invariant: a change that was not marked as appending replaces what the caller sent, so that a caller
//! can not put a value of its own beside the policy server's.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, DATE, HOST, SERVER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::query::is_named;

/// A decision and its consequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the request may go on.
    pub allow: bool,
    /// HTTP status of the reply to a refused request.
    pub status: u16,
    /// gRPC status of the reply; `None`: as the kind of the refusal says.
    pub grpc_status: Option<u16>,
    /// Changes to the request headers, in order.
    pub request_headers: Vec<HeaderChange>,
    /// Request headers that are removed after the changes.
    pub request_headers_to_remove: Vec<HeaderName>,
    /// Changes to the response: the application's when allowed, our reply when denied.
    pub response_headers: Vec<HeaderChange>,
    /// Query parameters that are set.
    pub query_to_set: Vec<(String, String)>,
    /// Query parameters that are removed.
    pub query_to_remove: Vec<String>,
    /// Body of the reply to a refused request.
    pub body: bytes::Bytes,
    /// What the access log shows of what the answer says besides: a JSON object.
    pub metadata: Option<Arc<str>>,
}

impl Verdict {
    /// An approval that changes nothing.
    pub fn allow() -> Self {
        Self {
            allow: true,
            status: 200,
            grpc_status: None,
            request_headers: Vec::new(),
            request_headers_to_remove: Vec::new(),
            response_headers: Vec::new(),
            query_to_set: Vec::new(),
            query_to_remove: Vec::new(),
            body: bytes::Bytes::new(),
            metadata: None,
        }
    }

    /// What its parts take in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let changes = self.request_headers.iter().chain(&self.response_headers);
        let headers = changes.map(|change| change.name.as_str().len() + change.value.len() + PART_BYTES);
        let removed = self.request_headers_to_remove.iter().map(|name| name.as_str().len() + PART_BYTES);
        let set = self.query_to_set.iter().map(|(name, value)| name.len() + value.len() + PART_BYTES);
        let query = self.query_to_remove.iter().map(|name| name.len() + PART_BYTES);
        let parts = headers.chain(removed).chain(set).chain(query).sum::<usize>();
        parts + self.body.len() + self.metadata.as_ref().map_or(0, |text| text.len())
    }

    /// What one more copy of it takes, in bytes: body, metadata and the texts of headers are shared.
    pub(super) fn copied_bytes(&self) -> usize {
        let headers = self.request_headers.len() + self.response_headers.len() + self.request_headers_to_remove.len();
        let set = self.query_to_set.iter().map(|(name, value)| name.len() + value.len() + PART_BYTES);
        let query = self.query_to_remove.iter().map(|name| name.len() + PART_BYTES);
        size_of::<Self>() + headers * PART_BYTES + set.chain(query).sum::<usize>()
    }

    /// A refusal with an HTTP status.
    pub fn deny(status: u16) -> Self {
        Self { allow: false, status, ..Self::allow() }
    }

    /// The verdict of a policy engine that answers with a gRPC status only.
    /// Origin of the table: the status mapping of Istio's Mixer client (`utils/status.cc`, release 1.4).
    pub fn from_code(code: tonic::Code) -> Self {
        use tonic::Code;
        Self::deny(match code {
            Code::Ok => return Self::allow(),
            Code::InvalidArgument => 400,
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::NotFound => 404,
            Code::AlreadyExists | Code::Aborted => 409,
            Code::ResourceExhausted => 429,
            Code::Cancelled => 499,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
            Code::DeadlineExceeded => 504,
            _ => 500,
        })
    }

    /// Whether the verdict changes an allowed request, its query included, or its response.
    pub fn changes_anything(&self) -> bool {
        !self.request_headers.is_empty()
            || !self.request_headers_to_remove.is_empty()
            || !self.response_headers.is_empty()
            || !self.query_to_set.is_empty()
            || !self.query_to_remove.is_empty()
    }

    /// Whether it may have been made for one request: an approval that changes anything, or a refusal with a header
    /// that is not known to be about the reply alone. A redirect to log in may carry that request's `state`.
    pub(super) fn may_be_personal(&self) -> bool {
        match self.allow {
            true => self.changes_anything(),
            false => self.response_headers.iter().any(|change| !OF_ANY_REPLY.contains(&change.name)),
        }
    }
}

/// Applies an approval to the request that goes on.
pub fn apply_to_request(verdict: &Verdict, headers: &mut HeaderMap) {
    for change in verdict.request_headers.iter().filter(|change| change.name != HOST) {
        change.apply(headers);
    }
    for name in verdict.request_headers_to_remove.iter().filter(|name| **name != HOST) {
        headers.remove(name);
    }
}

/// Applies a verdict to the headers of the response.
pub fn apply_to_response(verdict: &Verdict, headers: &mut HeaderMap) {
    for change in &verdict.response_headers {
        change.apply(headers);
    }
}

/// The query after an approval; `None` when nothing is left of it. A parameter goes however the caller wrote its name.
pub fn apply_to_query(verdict: &Verdict, query: Option<&str>) -> Option<String> {
    let set = verdict.query_to_set.iter().map(|(name, _)| name);
    let names: Vec<&String> = set.chain(&verdict.query_to_remove).collect();
    let is_replaced = |key: &str| names.iter().any(|name| *name == key || is_named(key, name));
    let kept = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty() && !is_replaced(pair.split_once('=').map_or(*pair, |(key, _)| key)))
        .map(str::to_owned);
    let set = verdict
        .query_to_set
        .iter()
        .map(|(key, value)| format!("{}={}", utf8_percent_encode(key, QUERY), utf8_percent_encode(value, QUERY)));
    let pairs: Vec<String> = kept.chain(set).collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

/// Why a check gave no verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What went wrong.
    pub reason: FailureReason,
    /// The reply the server wants a refused caller to have.
    pub reply: Option<Box<Verdict>>,
}

impl Failure {
    /// A failure without a reply of its own.
    pub fn new(reason: FailureReason) -> Self {
        Self { reason, reply: None }
    }
}

/// What went wrong with a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// No answer in time.
    Timeout,
    /// The call failed with a gRPC status.
    Rpc(tonic::Code),
    /// The server answered that it could not decide.
    ServerError,
    /// The answer says neither yes nor no, or asks for something impossible.
    Malformed,
}

impl FailureReason {
    /// All names, as [`Self::as_str`] gives them.
    pub const NAMES: [&str; 4] = ["timeout", "rpc", "server_error", "malformed"];

    /// Whether it is about the way to the server, and so about all who ask it, whatever they ask.
    pub(super) const fn is_of_the_way(self) -> bool {
        matches!(self, Self::Rpc(tonic::Code::Unavailable))
    }

    /// Whether time ran out: that of who asked, who may have begun long before another.
    pub(super) const fn is_of_time(self) -> bool {
        matches!(self, Self::Timeout | Self::Rpc(tonic::Code::DeadlineExceeded | tonic::Code::Cancelled))
    }

    /// Stable name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Rpc(_) => "rpc",
            Self::ServerError => "server_error",
            Self::Malformed => "malformed",
        }
    }
}

/// One change to a header map.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderChange {
    /// The header.
    pub name: HeaderName,
    /// The new value.
    pub value: HeaderValue,
    /// How it meets values that are there.
    pub action: HeaderAction,
}

/// How a new value meets the values that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderAction {
    /// Takes the place of what is there, or is added.
    Replace,
    /// Takes the place of what is there; without that, nothing happens.
    ReplaceIfPresent,
    /// One more value.
    Add,
    /// Added if the header is not there.
    AddIfAbsent,
    /// One more value, only if the header is there.
    AppendIfPresent,
}

impl HeaderChange {
    /// Takes the place of what is there. `None`: not a header's name or value.
    pub fn set(name: &str, value: &str) -> Option<Self> {
        Some(Self { name: name.parse().ok()?, value: value.parse().ok()?, action: HeaderAction::Replace })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        let is_present = headers.contains_key(&self.name);
        match self.action {
            HeaderAction::ReplaceIfPresent | HeaderAction::AppendIfPresent if !is_present => {}
            HeaderAction::AddIfAbsent if is_present => {}
            HeaderAction::Replace | HeaderAction::ReplaceIfPresent => {
                headers.insert(self.name.clone(), self.value.clone());
            }
            HeaderAction::Add | HeaderAction::AddIfAbsent | HeaderAction::AppendIfPresent => {
                headers.append(self.name.clone(), self.value.clone());
            }
        }
    }
}

/// Headers of a refusal that say nothing of the request: what the reply is, who made it, and when.
const OF_ANY_REPLY: [HeaderName; 6] = [CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, DATE, SERVER, VARY];
/// A header change or a pair of strings, without what they point to.
const PART_BYTES: usize = 64;
/// What may not stand bare in a query key or value (WHATWG URL: the form-urlencoded set, less what is
/// harmless in a query).
const QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'&').add(b'+').add(b'<').add(b'=').add(b'>').add(b'%').add(b'?');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_query_value_can_not_break_out_of_its_parameter() {
        let verdict = Verdict { query_to_set: vec![("user".into(), "a&admin=1#x".into())], ..Verdict::allow() };
        assert_eq!(apply_to_query(&verdict, Some("q=1&user=z")).as_deref(), Some("q=1&user=a%26admin%3D1%23x"));
    }

    #[test]
    fn a_parameter_goes_however_its_name_is_written() {
        let verdict = Verdict {
            query_to_set: vec![("user".into(), "alice".into())],
            query_to_remove: vec!["is admin".into(), "100%".into()],
            ..Verdict::allow()
        };
        let asked = "%75ser=root&q=1&us%65r=root&is+admin=1&is%20admin&100%=1&100%25&users=2";
        assert_eq!(apply_to_query(&verdict, Some(asked)).as_deref(), Some("q=1&users=2&user=alice"));
    }

    #[test]
    fn a_change_of_the_query_is_a_change() {
        assert!(!Verdict::allow().changes_anything());
        for verdict in [
            Verdict { query_to_set: vec![("user".into(), "alice".into())], ..Verdict::allow() },
            Verdict { query_to_remove: vec!["q".into()], ..Verdict::allow() },
        ] {
            assert!(verdict.changes_anything() && verdict.may_be_personal());
        }
    }

    #[test]
    fn a_query_that_loses_its_last_parameter_is_gone() {
        let verdict = Verdict { query_to_remove: vec!["q".into()], ..Verdict::allow() };
        assert_eq!(apply_to_query(&verdict, Some("q=1")), None);
    }
}
