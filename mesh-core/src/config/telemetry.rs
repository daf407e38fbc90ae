//! Telemetry settings, as they are written.
//!
//! Decides: what can be switched. Never: logs or counts. Invariant: everything off is valid.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{AddressText, Percent, TextValue, ValueError, text_serde};

/// What is logged, counted and traced.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// One line per request. Absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Istio's standard metrics.
    pub metrics: Metrics,
    /// W3C trace context.
    pub tracing: Tracing,
    /// Which finished calls can be looked up on the admin page. Absent: the defaults, where there is an admin page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
    /// The admin page: configuration, clusters, metrics. Absent: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
}

/// One line per request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr` or a file; relative to this file.
    pub path: LogTarget,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

impl TextValue for LogTarget {
    const FORMAT: &'static str = "log-target";
    const EXPECTED: &'static str = "stdout, stderr or the path of a file";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "" => Err(ValueError::new("the path is empty")),
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

text_serde!(LogTarget);

/// Istio's standard metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether both ends tell each other who they are (Istio's peer metadata headers). Default: true.
    pub peer_metadata: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { peer_metadata: true }
    }
}

/// W3C trace context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// Share of the new traces that are sampled; a caller's decision is kept. Default: 100 (Envoy; Istio: 1).
    pub sample_percent: Percent,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { sample_percent: Percent(100.0) }
    }
}

/// Which finished calls can be looked up, with every pick, attempt and decision. No header value is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explain {
    /// The latest this many of the calls that failed and those that were sampled, in one ring; 0 = off. Default: 256.
    #[schemars(range(max = 65536))]
    pub keep: u32,
    /// Share of the other calls that is kept, too. Default: 1 (one in a hundred).
    pub sample_percent: Percent,
    /// Whether a request with `x-mesh-explain: 1` is kept. Default: false.
    pub by_header: bool,
}

impl Default for Explain {
    fn default() -> Self {
        Self { keep: 256, sample_percent: Percent(1.0), by_header: false }
    }
}

/// The admin page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens: a loopback address unless `allow_remote`.
    pub address: AddressText,
    /// Whether other machines may reach it; it has no authentication. Default: false.
    #[serde(default)]
    pub allow_remote: bool,
}
