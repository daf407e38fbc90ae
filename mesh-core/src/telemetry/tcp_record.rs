//! One bare connection, from its beginning to its end, on one side.
//!
//! Decides: what a connection that failed is called. Never: blocks, or counts a connection twice.
//! Invariant: a connection that was opened is closed exactly once, with one line in the access log; one that could
//! not be opened, or was refused, is opened and closed at once (Istio).

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Uri};

use super::access_record::AccessRecord;
use super::names::value;
use super::reporting::Telemetry;
use super::request::Reporter;
use super::tcp::{TcpFacts, TcpSeries};
use crate::error::{Error, ErrorKind};
use crate::time::Clock;

/// A connection that is being opened, or is open. It ends when this is dropped.
pub struct TcpRecord {
    telemetry: Arc<Telemetry>,
    clock: Arc<dyn Clock>,
    started: Instant,
    /// What the metrics say.
    pub facts: TcpFacts,
    /// What the access log says.
    pub line: Box<AccessRecord>,
    series: Option<Arc<TcpSeries>>,
    sent: u64,
    received: u64,
}

impl TcpRecord {
    /// A connection begins.
    pub fn begin(telemetry: &Arc<Telemetry>, clock: &Arc<dyn Clock>, reporter: Reporter) -> Self {
        let mut line = AccessRecord::new(clock.wall(), reporter, &Method::CONNECT, &Uri::default());
        line.protocol = Some(value::TCP);
        line.path.clear();
        line.principal = telemetry.principal();
        Self {
            telemetry: Arc::clone(telemetry),
            clock: Arc::clone(clock),
            started: clock.now(),
            facts: TcpFacts::new(reporter),
            line: Box::new(line),
            series: None,
            sent: 0,
            received: 0,
        }
    }

    /// It is open, and both ends are known as far as they ever will be.
    pub fn opened(&mut self) {
        let series = self.telemetry.registry.tcp_series(&self.facts);
        series.opened.inc();
        self.series = Some(series);
    }

    /// Bytes that this end has read.
    pub fn read(&mut self, bytes: usize) {
        match self.facts.reporter {
            Reporter::Source => self.count_sent(bytes),
            Reporter::Destination => self.count_received(bytes),
        }
    }

    /// Bytes that this end has written.
    pub fn wrote(&mut self, bytes: usize) {
        match self.facts.reporter {
            Reporter::Source => self.count_received(bytes),
            Reporter::Destination => self.count_sent(bytes),
        }
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        if self.facts.reporter == Reporter::Source { self.sent } else { self.received }
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        if self.facts.reporter == Reporter::Source { self.received } else { self.sent }
    }

    /// What went wrong, for metrics and log. The first word counts: what follows is its consequence.
    pub fn failed(&mut self, kind: ErrorKind, detail: String) {
        if self.line.error_type.is_none() {
            self.facts.flags = kind.status().flag;
            self.line.error_type = Some(kind);
            self.line.error_detail = Some(detail);
        }
    }

    /// As [`TcpRecord::failed`], by error.
    pub fn refused(&mut self, error: &Error) {
        self.failed(error.kind(), error.message().to_owned());
    }

    fn count_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if let Some(series) = &self.series {
            series.sent.add(bytes as u64);
        }
    }

    fn count_received(&mut self, bytes: usize) {
        self.received += bytes as u64;
        if let Some(series) = &self.series {
            series.received.add(bytes as u64);
        }
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        if self.series.is_none() {
            self.failed(ErrorKind::Cancelled, "given up before it was open".to_owned());
        }
        let ended = self.telemetry.registry.tcp_series(&self.facts);
        if self.series.is_none() {
            ended.opened.inc();
        }
        ended.closed.inc();
        if self.telemetry.access_log.is_on() {
            self.line.flags = self.facts.flags.into();
            self.line.duration = self.clock.now().saturating_duration_since(self.started);
            self.line.request_bytes = self.received;
            self.line.response_bytes = self.sent;
            self.telemetry.access_log.record(AccessRecord::clone(&self.line));
        }
    }
}
