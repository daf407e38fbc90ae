//! What a scenario file says.
//!
//! Decides: the format, strictly: an unknown field is an error. Never: runs anything.
//!
//! Text bodies may also be written as `hex:00ff` (bytes) and `size:65536` (that many `x`). In `config` and
//! `files`, `$name` stands for the quoted address of the upstream of that name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One behaviour.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// The behaviour, in one sentence.
    pub about: String,
    /// Servers, by the name that the configuration and the expectations call them.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Upstream>,
    /// The configuration under test.
    pub config: String,
    /// Further files beside the configuration.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What the application does, in order.
    pub steps: Vec<Step>,
    /// What must be true afterwards.
    #[serde(default)]
    pub expect: Afterwards,
    /// Outcomes are drawn by chance, so that drivers are held to the expectations only, not to each other.
    #[serde(default)]
    pub random: bool,
    /// Drivers that cannot run it, and why.
    #[serde(default)]
    pub skip: BTreeMap<String, String>,
}

/// A scripted server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Speaks HTTP/2 with prior knowledge instead of HTTP/1.1.
    #[serde(default)]
    pub http2: bool,
    /// Nobody listens there.
    #[serde(default)]
    pub dead: bool,
    /// One answer for each request that arrives; the last one is repeated. Default: 200 without a body.
    #[serde(default)]
    pub script: Vec<Answer>,
}

/// What an upstream does with one request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// How many requests in a row get it; 0 and 1 are one.
    pub times: usize,
    /// What kind of answer.
    pub act: Act,
    /// Status; 0 is 200.
    pub status: u16,
    /// Header fields, in order; a name may be repeated.
    pub headers: Vec<(String, String)>,
    /// The body, in one piece.
    pub body: String,
    /// The body, in pieces.
    pub chunks: Vec<String>,
    /// Trailers, after the body.
    pub trailers: Vec<(String, String)>,
    /// Wait before the head of the response, in milliseconds.
    pub after_ms: u64,
    /// Wait before each further chunk, in milliseconds.
    pub pause_ms: u64,
}

/// Kinds of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A response as written.
    #[default]
    Answer,
    /// A response whose body is the request's.
    Echo,
    /// The connection is closed without a response.
    Close,
    /// The connection is reset without a response.
    Reset,
    /// Bytes that are no HTTP.
    Garbage,
    /// No response, ever.
    Hang,
    /// HTTP/2: the stream is refused, which proves that the request was not processed.
    Refuse,
    /// A response whose body breaks off.
    Cut,
}

/// One or several requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is sent.
    pub request: Request,
    /// How many times.
    #[serde(default = "one")]
    pub times: usize,
    /// All of them at once, instead of one after the other.
    #[serde(default)]
    pub parallel: bool,
    /// Wait before the step, in milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
    /// What each of them must come to.
    #[serde(default)]
    pub expect: Expect,
    /// How many must come to what: by status or error kind.
    #[serde(default)]
    pub counts: BTreeMap<String, Count>,
}

/// What an application sends.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Method; empty is GET.
    pub method: String,
    /// Absolute URI whose authority is a logical service.
    pub url: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// A body held in memory.
    pub body: Option<String>,
    /// A streamed body, chunk by chunk.
    pub chunks: Vec<String>,
    /// The application's own timeout.
    pub timeout_ms: Option<u64>,
    /// Whether it may be sent twice; absent: as the method says.
    pub idempotent: Option<bool>,
}

/// What a request must come to. What is absent is not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Status of the response.
    pub status: Option<u16>,
    /// Kind of the error there is instead.
    pub error: Option<String>,
    /// Kind of the error while the body was read.
    pub body_error: Option<String>,
    /// Attempts, the first included.
    pub attempts: Option<u32>,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Name of the upstream.
    pub endpoint: Option<String>,
    /// The whole body; `~` starts a regular expression for it.
    pub body: Option<String>,
    /// Response headers; `~` starts a regular expression for the whole value.
    pub headers: BTreeMap<String, String>,
    /// Response headers that must not be there.
    pub absent: Vec<String>,
    /// Trailers.
    pub trailers: BTreeMap<String, String>,
    /// It took at most so long.
    pub within_ms: Option<u64>,
    /// It took at least so long.
    pub at_least_ms: Option<u64>,
}

/// What must be true when all steps are done.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Afterwards {
    /// Requests that reached each upstream; one that is not named must have got none.
    pub hits: BTreeMap<String, Count>,
    /// Connections that each upstream accepted.
    pub connections: BTreeMap<String, Count>,
    /// Requests as upstreams saw them.
    pub seen: Vec<Seen>,
    /// Sums over the series that have these labels.
    pub metrics: Vec<Metric>,
}

/// A request as an upstream saw it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seen {
    /// Which upstream.
    pub at: String,
    /// Which of its requests, from 0.
    pub nth: usize,
    /// Method.
    pub method: Option<String>,
    /// Path and query.
    pub target: Option<String>,
    /// Body.
    pub body: Option<String>,
    /// Headers; `~` starts a regular expression. Of a repeated header, one value must match.
    pub headers: BTreeMap<String, String>,
    /// Headers that must not be there.
    pub absent: Vec<String>,
    /// Headers that must be as in that upstream's first request.
    pub same_as_first: Vec<String>,
    /// A header with a number, at least and at most.
    pub between: BTreeMap<String, (u64, u64)>,
}

/// A sum of a metric.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name of the series.
    pub name: String,
    /// Labels it must have; others are summed over.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The sum.
    pub value: f64,
}

/// A number, or the smallest and the largest that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Count {
    /// Exactly.
    Exactly(usize),
    /// From, to.
    Between(usize, usize),
}

impl Count {
    /// Whether `n` will do.
    pub fn holds(self, n: usize) -> bool {
        match self {
            Self::Exactly(wanted) => n == wanted,
            Self::Between(least, most) => (least..=most).contains(&n),
        }
    }
}

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut scenario: Self =
            serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        scenario.name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match scenario.problem() {
            Some(problem) => Err(format!("{}: {problem}", path.display())),
            None => Ok(scenario),
        }
    }

    /// A scenario that asserts nothing, or of something that is not there, is a mistake.
    fn problem(&self) -> Option<String> {
        for (at, step) in self.steps.iter().enumerate() {
            let says_outcome = step.expect.status.is_some() != step.expect.error.is_some();
            if !says_outcome && step.counts.is_empty() {
                return Some(format!("steps[{at}] expects neither a status nor an error"));
            }
        }
        let named = self.expect.hits.keys().chain(self.expect.connections.keys());
        let named = named.chain(self.expect.seen.iter().map(|seen| &seen.at));
        let named = named.chain(self.steps.iter().filter_map(|step| step.expect.endpoint.as_ref()));
        let mut unknown = named.filter(|name| !self.upstreams.contains_key(*name));
        unknown.next().map(|name| format!("no upstream is called {name:?}"))
    }
}

/// Every scenario of a directory, by name.
pub fn load_all(directory: &Path) -> Result<Vec<Scenario>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    files.iter().map(|path| Scenario::load(path)).collect()
}

/// The bytes that a text of a scenario stands for.
pub fn bytes_of(text: &str) -> Vec<u8> {
    if let Some(hex) = text.strip_prefix("hex:") {
        return from_hex(hex).unwrap_or_default();
    }
    match text.strip_prefix("size:").and_then(|size| size.parse().ok()) {
        Some(size) => vec![b'x'; size],
        None => text.as_bytes().to_vec(),
    }
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits.
pub fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..hex.len()).step_by(2).map(pair).collect()
}

fn one() -> usize {
    1
}
