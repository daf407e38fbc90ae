//! What a rule does besides sending on.

use bytes::Bytes;
use http::StatusCode;
use http::uri::Scheme;

use crate::config::route::Rule;
use crate::config::rule as written;
use crate::policy::fault::{Abort, Fault};
use crate::route::answer::{Answer, NewPath, Redirect};
use crate::route::header_changes::HeaderChanges;

/// The answer that a rule gives itself, if it does.
pub(super) fn answer(rule: &Rule) -> Option<Result<Answer, String>> {
    if let Some(redirect) = &rule.redirect {
        return Some(compile_redirect(redirect).map_err(|reason| format!("redirect: {reason}")));
    }
    let direct = rule.direct_response.as_ref()?;
    let status = StatusCode::from_u16(direct.status).map_err(|error| format!("direct_response: {error}"));
    Some(status.map(|status| Answer::Direct { status, body: Bytes::from(direct.body.clone()) }))
}

fn compile_redirect(written: &written::Redirect) -> Result<Answer, String> {
    let host = written.host.as_deref();
    let path = written.path.as_deref().map(|path| NewPath::Full(path.into()));
    let prefix = written.prefix.as_deref().map(|prefix| NewPath::Prefix(prefix.into()));
    for path in written.path.iter().chain(&written.prefix) {
        if path.contains(['?', '#']) || path.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(format!("`{path}` is not a path"));
        }
    }
    Ok(Answer::Redirect(Redirect {
        status: StatusCode::from_u16(written.status.unwrap_or(302)).map_err(|error| error.to_string())?,
        scheme: written.scheme.map(|scheme| match scheme {
            written::RedirectScheme::Http => Scheme::HTTP,
            written::RedirectScheme::Https => Scheme::HTTPS,
        }),
        host: host.map(Into::into),
        port: written.port,
        path: path.or(prefix),
        strip_query: written.strip_query,
    }))
}

pub(super) fn header_changes(written: Option<&written::HeaderChanges>) -> Result<Option<HeaderChanges>, String> {
    let Some(written) = written else { return Ok(None) };
    let changes = HeaderChanges::new(
        written.remove.iter().map(|name| name.as_str()),
        written.set.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        written.add.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    )?;
    Ok(Some(changes).filter(|changes| !changes.is_empty()))
}

pub(super) fn fault(written: &written::Fault) -> Fault {
    let delay = written.delay.as_ref().map(|delay| (delay.time.0, delay.percent.fraction()));
    let abort = written.abort.as_ref().and_then(|abort| {
        let answer = abort.status.map(Abort::Http).or(abort.grpc_status.map(Abort::Grpc))?;
        Some((answer, abort.percent.fraction()))
    });
    Fault { delay, abort }
}
