//! Load reports on responses.
//!
//! Decides: whether a response carries one, and in which form. A request asks by the header
//! `endpoint-load-metrics-format` (TEXT, JSON or BIN), as our clients do where they balance by reports; other
//! servers always tell once told to, which is `load_reports: always` here. Where callers can prove who they are, only
//! those that did are told by default: how loaded we are is no stranger's business.
//! Never: replaces a report that the application wrote itself. Invariant: a gRPC call is told in its trailers
//! (gRFC A51), everything else in the head.

use std::sync::Arc;

use http::header::{Entry, HeaderName};
use http::{HeaderMap, HeaderValue, Response};

use crate::core::Core;
use crate::load_report::{Form, HEADER, TRAILER};
use crate::policy::verdict::Verdict;
use crate::snapshot::LoadReports;
use crate::telemetry::names::header::LOAD_FORMAT;

/// What is said on one response.
pub(super) struct Reporting {
    core: Arc<Core>,
    form: Option<Form>,
    is_grpc: bool,
}

impl Reporting {
    /// What a request gets to know.
    pub(super) fn of(
        core: &Arc<Core>,
        mode: LoadReports,
        request: &HeaderMap,
        (is_grpc, is_peer): (bool, bool),
    ) -> Self {
        let asked = request.get(LOAD_FORMAT).and_then(|format| format.to_str().ok()).and_then(Form::named);
        let form = match mode {
            LoadReports::Off => None,
            LoadReports::ToPeers if !is_peer => None,
            LoadReports::OnRequest | LoadReports::ToPeers => asked,
            LoadReports::Always => asked.or(Some(Form::Text)),
        };
        Self { core: Arc::clone(core), form, is_grpc }
    }

    /// Counts the answer, and reports in its head unless that is for the trailers.
    pub(super) fn head(&self, status: u16, headers: &mut HeaderMap) {
        let over = grpc_status(headers).filter(|_| self.is_grpc);
        self.core.load.served(is_error(status, over), self.core.clock.now());
        match self.form {
            // A trailers-only response has no other trailers.
            Some(_) if self.is_grpc && over.is_some() => self.put(headers, TRAILER, Form::Binary),
            Some(form) if !self.is_grpc => self.put(headers, HEADER, form),
            _ => {}
        }
    }

    /// Counts a late failure, and reports in the trailers of a gRPC call.
    pub(super) fn trailers(&self, trailers: &mut HeaderMap) {
        if !self.is_grpc {
            return;
        }
        if is_error(200, grpc_status(trailers)) {
            self.core.load.failed_late(self.core.clock.now());
        }
        if self.form.is_some() {
            self.put(trailers, TRAILER, Form::Binary);
        }
    }

    fn put(&self, headers: &mut HeaderMap, name: &'static str, form: Form) {
        let Entry::Vacant(place) = headers.entry(HeaderName::from_static(name)) else { return };
        let report = self.core.load.report(self.core.drain.requests(), self.core.clock.now());
        let value = if name == TRAILER { report.to_trailer() } else { report.to_header_as(form) };
        place.insert(value);
    }
}

/// Whether the response, as far as it is known, is a failure of the server's.
pub(super) fn is_failure<B>(response: &Response<B>, is_grpc: bool) -> bool {
    is_error(response.status().as_u16(), grpc_status(response.headers()).filter(|_| is_grpc))
}

fn is_error(status: u16, grpc_status: Option<u16>) -> bool {
    matches!(Verdict::of_response(status, grpc_status), Verdict::ServerError | Verdict::GatewayError)
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status").and_then(|value: &HeaderValue| value.to_str().ok()).and_then(|text| text.parse().ok())
}
