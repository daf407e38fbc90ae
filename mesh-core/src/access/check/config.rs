//! How a check is made, and what of a request it tells.
//!
//! Decides: which headers are part of a question. Never: reads a document; that is compiled to this.
//! Invariant: the defaults are Envoy's, and a failure refuses unless somebody wrote otherwise.

use std::collections::HashMap;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};

use crate::access::cache::CacheConfig;
use crate::access::fact::Fact;
use crate::access::rbac::Pattern;

/// How a check is made.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// Name in logs and metrics.
    pub name: String,
    /// Scheme and authority the call is addressed to.
    pub origin: Uri,
    /// How long a request waits for the answer.
    pub timeout: Duration,
    /// What a failure means.
    pub failure: FailureMode,
    /// HTTP status of the reply when a failure refuses.
    pub status_on_error: u16,
    /// Whether a request that a failure let through says so, in `x-envoy-auth-failure-mode-allowed`.
    pub mark_failure: bool,
    /// Fixed pairs for the server.
    pub context_extensions: HashMap<String, String>,
    /// By gRPC or by plain HTTP.
    pub form: Form,
    /// How much of the body is part of the question; `None`: nothing.
    pub body: Option<BodyTerms>,
    /// Which request headers are part of the question.
    pub headers: SentHeaders,
    /// Whether the caller's certificate is part of the question, where it is known.
    pub peer_certificate: bool,
    /// Whether the end user's verified claims are part of the question.
    pub claims: bool,
    /// Whether the server name of the TLS handshake is part of the question.
    pub tls_session: bool,
    /// Most bytes of a refusal's body that are passed on; `None`: all.
    pub max_denied_body: Option<usize>,
    /// Whether the access log shows an answer's dynamic metadata.
    pub logs_metadata: bool,
    /// How answers are kept.
    pub cache: CacheConfig,
}

impl CheckConfig {
    /// How answers are kept. A server that is told claims may have read any of them: an answer that does not say what it
    /// looked at depends on all, unless the configured key names the ones that count. One that is told the caller's
    /// certificate or the server name may have read that, whatever it says.
    pub(super) fn kept(&self) -> CacheConfig {
        let mut kept = self.cache.clone();
        let told = [(self.peer_certificate, Fact::Certificate), (self.tls_session, Fact::Sni)];
        kept.told.extend(told.into_iter().filter_map(|(is_told, fact)| is_told.then_some(fact)));
        if let Some(key) = kept.key.as_mut().filter(|key| self.claims && !key.iter().any(Fact::reads_claims)) {
            key.push(Fact::Claims);
        }
        kept
    }
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            name: "check".to_owned(),
            origin: Uri::from_static("http://policy"),
            timeout: Duration::from_millis(200), // Envoy's default
            failure: FailureMode::Closed,
            status_on_error: 403, // Envoy's default
            mark_failure: false,
            context_extensions: HashMap::new(),
            form: Form::Grpc,
            body: None,
            headers: SentHeaders::default(),
            peer_certificate: false,
            claims: false,
            tls_session: false,
            max_denied_body: None,
            logs_metadata: false,
            cache: CacheConfig::default(),
        }
    }
}

/// What a failed check means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureMode {
    /// It is refused.
    #[default]
    Closed,
    /// It goes on.
    Open,
}

/// In which form a policy server is asked, if one is.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// Envoy's `ext_authz` gRPC service.
    #[default]
    Grpc,
    /// A request like the one that is asked about, whose status is the answer.
    Http(Box<HttpForm>),
    /// Nobody is asked: a policy in this process decides.
    #[cfg(feature = "rego")]
    Rego(std::sync::Arc<super::rego::RegoPolicy>),
}

/// A question over plain HTTP, and what of its answer is passed on.
#[derive(Debug, Clone, Default)]
pub struct HttpForm {
    /// Put in front of the request's path; may be empty.
    pub path_prefix: String,
    /// Asked for instead of the request's path and query.
    pub path_override: Option<PathAndQuery>,
    /// Headers of the question, in place of the caller's.
    pub headers_to_add: Vec<(HeaderName, HeaderValue)>,
    /// Headers of an approval that take the place of the request's.
    pub upstream_headers: Vec<Pattern>,
    /// Headers of an approval that are put beside the request's.
    pub upstream_headers_to_append: Vec<Pattern>,
    /// Headers of a refusal that the caller gets; `None`: all.
    pub client_headers: Option<Vec<Pattern>>,
    /// Headers of an approval that the caller gets.
    pub client_headers_on_success: Vec<Pattern>,
}

/// How much of a request's body is part of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyTerms {
    /// Bytes at most.
    pub max_bytes: usize,
    /// Whether the beginning of a longer body is sent; if not, the request is refused.
    pub allow_partial: bool,
    /// Whether it is sent as bytes instead of text.
    pub as_bytes: bool,
    /// How long the caller may take to send it.
    pub timeout: Duration,
}

/// Which request headers are part of a question, and how they are written.
#[derive(Debug, Clone, Default)]
pub struct SentHeaders {
    /// Those that are sent; `None`: all by gRPC, the fixed ones by HTTP. Lower-case.
    pub allowed: Option<Vec<Pattern>>,
    /// Those that are not, whatever `allowed` says. Lower-case.
    pub disallowed: Vec<Pattern>,
    /// Whether they are sent byte by byte, several of one name apart.
    pub raw: bool,
}

impl SentHeaders {
    /// Whether a `CheckRequest` has the header.
    pub fn has_grpc(&self, name: &str) -> bool {
        !names(&self.disallowed, name) && self.allowed.as_ref().is_none_or(|allowed| names(allowed, name))
    }

    /// Whether a question over plain HTTP has it.
    pub fn has_http(&self, name: &str) -> bool {
        let is_allowed = name == AUTHORIZATION || self.allowed.as_ref().is_some_and(|allowed| names(allowed, name));
        is_allowed && !names(&self.disallowed, name)
    }
}

/// Whether one of the patterns names the header. No pattern names none.
pub(super) fn names(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// Bytes that are not UTF-8 become `!`, one each, as Envoy does.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}
