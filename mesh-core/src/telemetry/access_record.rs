//! One line of the access log.
//!
//! Decides: the schema, one JSON object a line, the same keys in every language. Never: writes a query
//! string (it may hold secrets), a header or a body. What a policy server says for the log is written as it said it.
//! Invariant: a record is one line whatever is in it; JSON escapes control characters.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Uri};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use super::request::Reporter;
use super::trace::{SpanId, TraceContext, TraceId};
use crate::error::ErrorKind;

/// One request, seen from one end. Absent facts are left out of the line.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    /// When the request began.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Which end writes.
    #[serde(serialize_with = "reporter")]
    pub reporter: Reporter,
    /// `tcp` for a bare connection, whose method is CONNECT and which has no path and no status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// Request method.
    #[serde(serialize_with = "shown")]
    pub method: Method,
    /// Authority called.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: Arc<str>,
    /// Path; a query put here by mistake is cut off.
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "without_query")]
    pub path: String,
    /// Name of the matched rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// Chosen cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    /// Last endpoint tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    /// Listener the request came in by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Arc<str>>,
    /// HTTP status; 0 if there was no response.
    pub status: u16,
    /// gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// Envoy's short response flags.
    pub flags: Cow<'static, str>,
    /// Duration, to the microsecond.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Attempts made, the first included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Configuration revision that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Arc<str>>,
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Bytes of the response.
    pub response_bytes: u64,
    /// `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Arc<str>>,
    /// Trace.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_if_any")]
    pub trace_id: Option<TraceId>,
    /// Span of this end.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_if_any")]
    pub span_id: Option<SpanId>,
    /// SPIFFE ID of the other end of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Arc<str>>,
    /// Serial number of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_serial: Option<Arc<str>>,
    /// Who the request is from, where that is not the peer (an end user, a forwarded caller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<Arc<str>>,
    /// The access rule or policy that let the request in or refused it; `default` where none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_rule: Option<Arc<str>>,
    /// The rule that would have refused it, were it rolled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<Arc<str>>,
    /// The rule that would have let it in, were it rolled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_allow: Option<Arc<str>>,
    /// What answers of checks said besides their verdicts, by the check's name: each a JSON object, bounded where it is
    /// made. Nothing is left out of it because it might be secret.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "by_check")]
    pub check_metadata: Vec<(Arc<str>, Arc<str>)>,
    /// Kind of failure.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_if_any")]
    pub error_type: Option<ErrorKind>,
    /// What the peer was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<String>,
}

impl AccessRecord {
    /// A record of a request that is about to be served or sent: fill in the rest when it has ended.
    pub fn new(time: SystemTime, reporter: Reporter, method: &Method, uri: &Uri) -> Self {
        Self {
            time,
            reporter,
            protocol: None,
            method: method.clone(),
            host: uri.authority().map_or_else(|| Arc::from(""), |authority| Arc::from(authority.as_str())),
            path: uri.path().to_owned(),
            route: None,
            cluster: None,
            endpoint: None,
            listener: None,
            status: 0,
            grpc_status: None,
            flags: Cow::Borrowed("-"),
            duration: Duration::ZERO,
            attempts: None,
            revision: None,
            request_bytes: 0,
            response_bytes: 0,
            request_id: None,
            trace_id: None,
            span_id: None,
            peer: None,
            peer_serial: None,
            principal: None,
            access_rule: None,
            would_deny: None,
            would_allow: None,
            check_metadata: Vec::new(),
            error_type: None,
            error_detail: None,
        }
    }

    /// Says where the request stands in its trace.
    #[must_use]
    pub fn with_trace(mut self, trace: &TraceContext) -> Self {
        self.trace_id = Some(trace.trace_id);
        self.span_id = Some(trace.span_id);
        self
    }

    /// Adds the line, with its end, to `out`.
    pub(super) fn write_line(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Writing to memory does not fail; if a value refused, no torn line is left behind.
        match serde_json::to_writer(&mut *out, self) {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(start),
        }
    }
}

/// UTC to the millisecond. Years before 1 or after 9999 read as the epoch.
fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let nanoseconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(0),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(0),
    };
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, milli) = at.to_hms_milli();
    let month = u8::from(month);
    serializer.collect_str(&format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"))
}

fn reporter<S: Serializer>(reporter: &Reporter, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reporter.as_str())
}

fn shown<S: Serializer, T: std::fmt::Display>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn shown_if_any<S: Serializer, T: std::fmt::Display>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Read here, by the thread that writes lines: requests only pass the text on.
fn by_check<S: Serializer>(told: &[(Arc<str>, Arc<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    serializer.collect_map(told.iter().map(|(check, text)| (check, read(text))))
}

fn without_query<S: Serializer>(path: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.split(['?', '#']).next().unwrap_or_default())
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    const MICROSECONDS_PER_MILLISECOND: f64 = 1000.0;
    serializer.serialize_f64(duration.as_micros() as f64 / MICROSECONDS_PER_MILLISECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names::log;

    fn full() -> AccessRecord {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let uri = Uri::from_static("http://details:9080/details/0?token=secret");
        let some = |text: &str| Some(Arc::from(text));
        let trace = TraceContext::root(&mut fastrand::Rng::with_seed(1), 100.0);
        AccessRecord {
            protocol: Some("tcp"),
            route: some("details"),
            cluster: some("details-a"),
            endpoint: some("127.0.1.11:9080"),
            listener: some("inbound"),
            status: 403,
            grpc_status: Some(7),
            duration: Duration::from_micros(1234),
            attempts: Some(2),
            revision: some("17"),
            request_id: some("r-1"),
            peer: some("spiffe://d/ns/a/sa/b"),
            peer_serial: some("0a"),
            principal: some("jason"),
            access_rule: some("x"),
            would_deny: some("y"),
            would_allow: some("z"),
            check_metadata: vec![(Arc::from("opa"), Arc::from(r#"{"decision_id":7}"#))],
            error_type: Some(ErrorKind::Denied),
            error_detail: Some("rule \"x\"\nsecond line".to_owned()),
            ..AccessRecord::new(at, Reporter::Destination, &Method::GET, &uri).with_trace(&trace)
        }
    }

    fn line(record: &AccessRecord) -> String {
        let mut out = Vec::new();
        record.write_line(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_full_line_has_every_key_once_and_in_order() {
        let line = line(&full());
        let places: Vec<_> = log::ALL.iter().map(|key| line.find(&format!("\"{key}\":"))).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{line}");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json.as_object().unwrap().len(), log::ALL.len());
        assert_eq!(json["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["check_metadata"]["opa"]["decision_id"], 7);
        assert_eq!((&json["reporter"], &json["error_type"]), (&"destination".into(), &"denied".into()));
        assert_eq!((&json["duration_ms"], &json["host"]), (&1.234.into(), &"details:9080".into()));
    }

    #[test]
    fn a_line_never_holds_a_query_or_a_second_line() {
        let mut record = full();
        assert!(!line(&record).contains("secret"));
        record.path = "/a?token=secret".to_owned();
        assert!(!line(&record).contains("secret") && line(&record).contains("\"path\":\"/a\""));
        assert_eq!(line(&record).matches('\n').count(), 1);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = AccessRecord::new(SystemTime::UNIX_EPOCH, Reporter::Source, &Method::GET, &Uri::from_static("/x"));
        assert_eq!(
            line(&record),
            concat!(
                r#"{"time":"1970-01-01T00:00:00.000Z","reporter":"source","method":"GET","path":"/x","status":0,"#,
                r#""flags":"-","duration_ms":0.0,"request_bytes":0,"response_bytes":0}"#,
                "\n"
            )
        );
    }
}
