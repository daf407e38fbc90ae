//! One request, from its beginning to the end of its response, on one side.
//!
//! Decides: when a request counts as ended. Never: blocks, or counts a request twice.
//! Invariant: every request that began is recorded exactly once, also when its caller walks away.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::{HeaderMap, Method, Uri, header};

use super::access_record::AccessRecord;
use super::reporting::Telemetry;
use super::request::{Protocol, Reporter, RequestFacts};
use super::trace::TraceContext;
use crate::error::{Error, ErrorKind};
use crate::time::Clock;

/// A request that has begun.
pub struct Record {
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    started: Instant,
    /// What the metrics say.
    pub facts: RequestFacts,
    /// What the access log says.
    pub line: Box<AccessRecord>,
    request_bytes: Arc<AtomicU64>,
    response_bytes: u64,
    is_ended: bool,
}

impl Record {
    /// A request begins. `request_bytes` counts its body as it is read or sent.
    pub fn begin(
        telemetry: &Arc<Telemetry>,
        clock: &Arc<dyn Clock>,
        reporter: Reporter,
        request: (&Method, &Uri, &HeaderMap),
    ) -> Self {
        let (method, uri, headers) = request;
        let mut facts = RequestFacts::new(reporter);
        facts.protocol = if is_grpc(headers) { Protocol::Grpc } else { Protocol::Http };
        Self {
            started: clock.now(),
            facts,
            line: Box::new(AccessRecord::new(clock.wall(), reporter, method, uri)),
            telemetry: Arc::clone(telemetry),
            clock: Arc::clone(clock),
            request_bytes: Arc::default(),
            response_bytes: 0,
            is_ended: false,
        }
    }

    /// The time, on the clock of this record.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Counts request bytes through this.
    pub fn count_request(&mut self, counter: Arc<AtomicU64>) {
        self.request_bytes = counter;
    }

    /// Says where the request stands in its trace.
    pub fn traced(&mut self, trace: &TraceContext) {
        self.line.trace_id = Some(trace.trace_id);
        self.line.span_id = Some(trace.span_id);
    }

    /// The head of the response.
    pub fn answered(&mut self, status: u16, headers: &HeaderMap) {
        self.facts.response_code = status;
        self.grpc_status(headers);
    }

    /// The status in headers or trailers, if the request is gRPC.
    pub fn grpc_status(&mut self, headers: &HeaderMap) {
        if self.facts.protocol == Protocol::Grpc
            && let Some(status) = headers.get("grpc-status").and_then(|value| value.to_str().ok())
        {
            self.facts.grpc_status = status.parse().ok();
        }
    }

    /// Bytes of response body that passed.
    pub fn add_response_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// What went wrong, for metrics and log. The status is that of a local reply unless one was received.
    pub fn failed(&mut self, error: &Error, detail: Option<String>) {
        self.failed_with(error.kind(), detail);
    }

    /// As [`Record::failed`], by kind.
    pub fn failed_with(&mut self, kind: ErrorKind, detail: Option<String>) {
        let status = kind.status();
        if self.facts.response_code == 0 {
            self.facts.response_code = if kind == ErrorKind::Cancelled { 0 } else { status.http };
        }
        if self.facts.protocol == Protocol::Grpc {
            self.facts.grpc_status.get_or_insert(u32::from(status.grpc));
        }
        self.facts.flags = Cow::Borrowed(status.flag);
        self.line.error_type = Some(kind);
        self.line.error_detail = detail;
    }

    /// The request has ended.
    pub fn end(mut self) {
        self.emit();
    }

    fn emit(&mut self) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        self.facts.duration = self.clock.now().saturating_duration_since(self.started);
        self.facts.request_bytes = self.request_bytes.load(Ordering::Relaxed);
        self.facts.response_bytes = self.response_bytes;
        self.telemetry.registry.record_request(&self.facts);
        if self.telemetry.access_log.is_on() {
            self.line.status = self.facts.response_code;
            self.line.grpc_status = self.facts.grpc_status;
            self.line.flags = self.facts.flags.clone();
            self.line.duration = self.facts.duration;
            self.line.request_bytes = self.facts.request_bytes;
            self.line.response_bytes = self.facts.response_bytes;
            self.telemetry.access_log.record(AccessRecord::clone(&self.line));
        }
    }
}

impl Drop for Record {
    /// The caller walked away.
    fn drop(&mut self) {
        if !self.is_ended {
            self.failed_with(ErrorKind::Cancelled, None);
            self.emit();
        }
    }
}

/// Whether a request or response carries gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
