//! The answer: an `ext_authz` `CheckResponse` as a verdict.
//!
//! Decides: what counts as an approval, which header changes are possible, how long the answer holds.
//! Never: approves without an explicit OK, lets an unreadable hint make an answer live longer.
//! Invariant: the status alone says yes or no; the kind of the HTTP part never does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};
use tonic::Code;

use super::metadata::{HINTS, MAX_EXACT};
use crate::access::cache::{Answer, Epoch, Hints, References, Refusal, Reuse};
use crate::access::fact::Fact;
use crate::access::verdict::{Failure, FailureReason, HeaderAction, HeaderChange, Verdict};
use crate::config::rule::unchangeable;

/// Reads an answer. `status_on_error` is the reply's status when the server reports an error without one.
pub fn interpret(response: CheckResponse, status_on_error: u16) -> Result<Answer, Failure> {
    // Envoy takes a missing status for OK. An approval should be something that was said.
    let code = response.status.as_ref().ok_or(Failure::new(FailureReason::Malformed))?.code;
    let verdict = match response.http_response {
        Some(HttpResponse::ErrorResponse(reply)) => {
            let reply = Some(Box::new(denial(reply, status_on_error)));
            return Err(Failure { reason: FailureReason::ServerError, reply });
        }
        Some(HttpResponse::OkResponse(ok)) if code == Code::Ok as i32 => approval(ok),
        _ if code == Code::Ok as i32 => Ok(Verdict::allow()),
        Some(HttpResponse::DeniedResponse(denied)) => Ok(denial(denied, DENIED)),
        _ => Ok(Verdict::deny(DENIED)),
    };
    // An approval that asks for something impossible must not go on without it, in any failure mode.
    let Ok(verdict) = verdict else {
        let verdict = Arc::new(Verdict::deny(500));
        return Ok(Answer { verdict, reuse: Reuse::Never(Refusal::ErrorStatus), epoch: None });
    };
    let hints = response.dynamic_metadata.as_ref().and_then(|metadata| metadata.fields.get(HINTS));
    let reuse = reuse(&verdict, Code::from_i32(code), hints);
    Ok(Answer { verdict: Arc::new(verdict), reuse, epoch: hints.and_then(epoch_hint) })
}

pub(super) fn reuse(verdict: &Verdict, code: Code, hints: Option<&Value>) -> Reuse {
    if matches!(code, Code::Unknown | Code::Internal | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) {
        return Reuse::Never(Refusal::ErrorStatus);
    }
    if verdict.response_headers.iter().any(|change| change.name == SET_COOKIE) {
        return Reuse::Never(Refusal::SetCookie);
    }
    match hints {
        None => Reuse::Configured,
        // Which policy it is of says nothing of how long it holds.
        Some(hints) if says_the_epoch_alone(hints) => Reuse::Configured,
        Some(hints) => reuse_hints(hints).map_or(Reuse::Never(Refusal::MalformedHints), Reuse::Hinted),
    }
}

fn approval(ok: OkHttpResponse) -> Result<Verdict, Impossible> {
    if ok.headers.len().max(ok.response_headers_to_add.len()) > MAX_CHANGES {
        return Err(Impossible);
    }
    let names = ok.headers_to_remove.iter().filter(|name| !is_out_of_reach(name));
    Ok(Verdict {
        request_headers: changes(&ok.headers, HeaderAction::AppendIfPresent).collect::<Result<_, _>>()?,
        request_headers_to_remove: names.filter_map(|name| name.parse().ok()).collect(),
        response_headers: changes(&ok.response_headers_to_add, HeaderAction::Add).collect::<Result<_, _>>()?,
        query_to_set: ok.query_parameters_to_set.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        query_to_remove: ok.query_parameters_to_remove,
        ..Verdict::allow()
    })
}

/// A refusal stands whatever else is wrong with it: a header that can not be sent is left out.
fn denial(denied: DeniedHttpResponse, default_status: u16) -> Verdict {
    let status = denied.status.and_then(|status| u16::try_from(status.code).ok());
    Verdict {
        response_headers: changes(&denied.headers, HeaderAction::Add)
            .filter_map(Result::ok)
            .take(MAX_CHANGES)
            .collect(),
        body: Bytes::from(denied.body),
        ..Verdict::deny(status.filter(|status| (200..600).contains(status)).unwrap_or(default_status))
    }
}

/// A header that no HTTP message can carry.
struct Impossible;

/// `append: true` means `appending`: one more value on a response, but on a request only if there is one.
/// Without `append`, action 0 can not be told from no action at all. It replaces what the caller sent,
/// which is the documented default of this message, and adds to what this answer set before.
fn changes(
    options: &[HeaderValueOption],
    appending: HeaderAction,
) -> impl Iterator<Item = Result<HeaderChange, Impossible>> {
    let mut seen: Vec<HeaderName> = Vec::new();
    options.iter().filter_map(move |option| {
        let header = option.header.as_ref()?;
        let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        if is_out_of_reach(&header.key) || (bytes.is_empty() && !option.keep_empty_value) {
            return None;
        }
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(header.key.as_bytes()), HeaderValue::from_bytes(bytes))
        else {
            return Some(Err(Impossible));
        };
        let is_first = !seen.contains(&name);
        seen.push(name.clone());
        Some(Ok(HeaderChange { name, value, action: action(option, appending, is_first) }))
    })
}

fn action(option: &HeaderValueOption, appending: HeaderAction, is_first: bool) -> HeaderAction {
    #[allow(deprecated, reason = "servers still send it, and it is the only way to say append to a request")]
    let append = option.append.as_ref().map(|append| append.value);
    match (append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(true), _) => appending,
        (Some(false), _) => HeaderAction::Replace,
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => HeaderAction::AddIfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => HeaderAction::ReplaceIfPresent,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) if !is_first => HeaderAction::Add,
        (None, _) => HeaderAction::Replace,
    }
}

/// What says where a message goes or where it ends, or is a word between the ends of the mesh.
fn is_out_of_reach(name: &str) -> bool {
    name.starts_with(':') || unchangeable(name).is_some()
}

/// Reads `dynamic_metadata["libmesh.check_cache"]`. A key that is not known makes all of it unreadable:
/// it may be a condition.
pub fn reuse_hints(value: &Value) -> Option<Hints> {
    let Some(Kind::StructValue(Struct { fields })) = &value.kind else { return None };
    let (mut hints, mut exact, mut absent) = (Hints::default(), Vec::new(), Vec::new());
    for (name, value) in fields {
        match (name.as_str(), value.kind.as_ref()?) {
            ("valid_duration", kind) => hints.valid_for = Some(duration(kind)?),
            ("grace", kind) => hints.grace = Some(duration(kind)?),
            ("valid_use_count", Kind::NumberValue(uses)) => hints.uses = use_count(*uses)?,
            ("exact" | "derived", Kind::ListValue(names)) => exact.extend(facts(&names.values)?),
            ("absent", Kind::ListValue(names)) => absent.extend(facts(&names.values)?),
            ("epoch", kind) => drop(epoch(kind)?),
            _ => return None,
        }
    }
    let says_what = ["exact", "derived", "absent"].iter().any(|name| fields.contains_key(*name));
    hints.references = says_what.then(|| References::new(exact, absent));
    Some(hints)
}

/// The policy's epoch, if the hints name one that can be read.
fn epoch_hint(hints: &Value) -> Option<Epoch> {
    let Some(Kind::StructValue(Struct { fields })) = &hints.kind else { return None };
    epoch(fields.get("epoch")?.kind.as_ref()?)
}

fn says_the_epoch_alone(hints: &Value) -> bool {
    let Some(Kind::StructValue(Struct { fields })) = &hints.kind else { return false };
    fields.len() == 1 && epoch_hint(hints).is_some()
}

/// A whole number, up to where a double names each of them; or a text that is not empty.
fn epoch(kind: &Kind) -> Option<Epoch> {
    match kind {
        Kind::NumberValue(number) if number.fract() == 0.0 && (0.0..=MAX_EXACT).contains(number) => {
            Some(Epoch::Number(*number as u64))
        }
        Kind::StringValue(text) if (1..=MAX_EPOCH_BYTES).contains(&text.len()) => {
            Some(Epoch::Text(text.as_str().into()))
        }
        _ => None,
    }
}

fn facts(names: &[Value]) -> Option<Vec<Fact>> {
    let fact = |value: &Value| match value.kind.as_ref()? {
        Kind::StringValue(name) => Fact::parse(name).ok(),
        _ => None,
    };
    (names.len() <= MAX_REFERENCES).then(|| names.iter().map(fact).collect())?
}

/// -1: any number.
fn use_count(uses: f64) -> Option<Option<u64>> {
    match uses {
        -1.0 => Some(None),
        uses if uses.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&uses) => Some(Some(uses as u64)),
        _ => None,
    }
}

/// `"10s"`, `"1.5s"`, `"500ms"`, `"5m"`, or a number of seconds.
fn duration(kind: &Kind) -> Option<Duration> {
    let seconds = match kind {
        Kind::NumberValue(seconds) => *seconds,
        Kind::StringValue(text) => {
            let split = text.find(|c: char| c.is_ascii_alphabetic())?;
            let number: f64 = text[..split].parse().ok()?;
            number
                * match &text[split..] {
                    "ms" => 0.001,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return None,
                }
        }
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// HTTP status of a refusal that names none (Envoy's default).
const DENIED: u16 = 403;
/// Header changes one answer may ask for in one list. HTTP/1.1 servers take about 100 headers in all.
pub(super) const MAX_CHANGES: usize = 128;
/// Bytes of an epoch that is a text: any digest.
const MAX_EPOCH_BYTES: usize = 128;
/// Facts one answer may refer to in one list. More is not a useful key.
const MAX_REFERENCES: usize = 32;
