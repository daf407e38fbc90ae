//! What every call leaves behind.
//!
//! Decides: the names, labels and shapes of metrics, trace headers and access-log lines, the same in
//! every language. Never: blocks a request, or does anything a caller has to wait for.
//! Invariant: memory is bounded. Series are capped, log lines queue up to a limit, and whatever is
//! folded or dropped is counted.
//!
//! | module | what it holds |
//! |---|---|
//! | [`names`] | every metric, label, header, span and log key |
//! | [`metrics`] | [`Registry`]: counters, gauges, histograms, Istio's standard request metrics |
//! | [`request`] | [`RequestFacts`]: what is recorded when a request ends |
//! | [`tcp`] | [`TcpFacts`](tcp::TcpFacts): what is recorded of a bare connection |
//! | [`peer`] | [`Peer`]: the two ends of a request, and how one tells the other who it is |
//! | [`trace`] | [`TraceContext`]: W3C trace context; [`baggage`] beside it |
//! | [`access_log`] | [`AccessLog`]: one JSON line a request and side |

pub mod access_log;
pub mod access_record;
pub mod baggage;
pub(crate) mod cells;
pub mod explained;
pub mod exposition;
pub mod histogram;
mod log_writer;
pub mod metrics;
pub mod names;
pub mod peer;
pub mod record;
pub mod reporting;
pub mod request;
mod request_table;
pub mod tcp;
pub mod tcp_record;
pub mod trace;

pub use access_log::{AccessLog, Memory, Target};
pub use access_record::AccessRecord;
pub use baggage::Baggage;
pub use explained::Explained;
pub use histogram::Histogram;
pub use metrics::{Counter, Gauge, Registry};
pub use names::Metric;
pub use peer::Peer;
pub use request::{DestinationService, Messages, Protocol, Reporter, RequestFacts, RequestSeries, Security};
pub use tcp_record::TcpRecord;
pub use trace::TraceContext;
