//! What a remote check tells and takes, and how the way to its server is repeated.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::retry::retry_policy;
use crate::access::check::{BodyTerms, CheckConfig, Form, HttpForm, SentHeaders};
use crate::access::rbac::Pattern;
use crate::config::ext_authz::{HttpCheck, MetadataNamespace, Rego};
use crate::config::policy::{Check, Retry};
use crate::config::value::TextPattern;
use crate::policy::retry::{RetryConditions, RetryPolicy};
use crate::snapshot::Sampling;

/// The part of a check's configuration that says what is told and taken.
pub(super) fn terms(written: &Check) -> Result<CheckConfig, String> {
    let limit = written.max_denied_response_body_bytes;
    Ok(CheckConfig {
        mark_failure: written.failure_mode_allow_header_add,
        context_extensions: written.context_extensions.clone().into_iter().collect(),
        form: match (&written.http, &written.rego) {
            (Some(http), _) => over_http(http)?,
            (None, Some(policy)) => rego(policy, written.timeout.0)?,
            (None, None) => Form::Grpc,
        },
        body: written.with_request_body.map(|body| BodyTerms {
            max_bytes: body.max_request_bytes as usize,
            allow_partial: body.allow_partial_message,
            as_bytes: body.pack_as_bytes,
            timeout: body.timeout.0,
        }),
        headers: SentHeaders {
            allowed: written.allowed_headers.as_deref().map(patterns),
            disallowed: patterns(&written.disallowed_headers),
            raw: written.encode_raw_headers,
        },
        peer_certificate: written.include_peer_certificate,
        claims: written.metadata_context_namespaces.contains(&MetadataNamespace::JwtAuthn),
        tls_session: written.include_tls_session,
        logs_metadata: written.log_metadata,
        max_denied_body: (limit > 0).then_some(limit as usize),
        ..CheckConfig::default()
    })
}

/// Which requests the check is asked about, of those it is for.
pub(super) fn sampling(written: &Check) -> Sampling {
    Sampling { share: written.filter_enabled.fraction(), denies_others: written.deny_at_disable }
}

/// A question changes nothing, so it may be asked again whatever became of the first one: also where the way broke
/// off, or the server says that it is leaving, and also for a request that is itself a retry.
pub(super) fn retry(defaults: &Retry) -> Result<Arc<RetryPolicy>, String> {
    let policy = retry_policy(defaults)?;
    let broken = RetryConditions::named("reset").unwrap_or(RetryConditions::NONE).with_grpc_code(UNAVAILABLE);
    Ok(Arc::new(RetryPolicy { conditions: RetryConditions::default().with(broken), nested: true, ..policy }))
}

fn over_http(written: &HttpCheck) -> Result<Form, String> {
    let path_override = written.path_override.as_deref().map(str::parse).transpose();
    let headers = written.headers_to_add.iter().map(|(name, value)| {
        let name: HeaderName =
            name.as_str().parse().map_err(|_| format!("http.headers_to_add: {name:?} is no header"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("http.headers_to_add: {name}: not a value"))?;
        Ok::<_, String>((name, value))
    });
    Ok(Form::Http(Box::new(HttpForm {
        path_prefix: written.path_prefix.clone().unwrap_or_default(),
        path_override: path_override.map_err(|error| format!("http.path_override: {error}"))?,
        headers_to_add: headers.collect::<Result<_, _>>()?,
        upstream_headers: patterns(&written.allowed_upstream_headers),
        upstream_headers_to_append: patterns(&written.allowed_upstream_headers_to_append),
        client_headers: written.allowed_client_headers.as_deref().map(patterns),
        client_headers_on_success: patterns(&written.allowed_client_headers_on_success),
    })))
}

#[cfg(feature = "rego")]
fn rego(written: &Rego, limit: Duration) -> Result<Form, String> {
    let policy = crate::access::check::RegoPolicy::new(&written.policy, &written.decision, limit);
    policy.map(|policy| Form::Rego(Arc::new(policy))).map_err(|why| format!("rego.{why}"))
}

#[cfg(not(feature = "rego"))]
fn rego(_: &Rego, _: Duration) -> Result<Form, String> {
    Err("rego: this build evaluates no policies; build it with the feature `rego`, or ask a `cluster`".to_owned())
}

/// Names of headers have no case.
fn patterns(written: &[TextPattern]) -> Vec<Pattern> {
    written.iter().map(|pattern| Pattern::parse(&pattern.as_str().to_ascii_lowercase())).collect()
}

/// gRPC's code for "come again".
const UNAVAILABLE: u16 = 14;
