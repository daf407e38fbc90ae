//! The driver protocol.
//!
//! A driver reads one [`Job`] as JSON from stdin, opens the mesh of its `config`, sends the requests group by
//! group (those of a group at once), reads each response to its end, and writes one JSON line for each
//! ([`Outcome`]), in any order, and last of all one line with all metrics (`{"metrics": "..."}`).
//! Bodies are hexadecimal. A driver exits with 0 whatever the outcomes are.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a driver is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Path of the configuration.
    pub config: PathBuf,
    /// In order.
    pub groups: Vec<Group>,
}

/// Requests that are sent at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// Wait before them.
    pub pause_ms: u64,
    /// The requests.
    pub requests: Vec<Call>,
}

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Names its outcome.
    pub id: usize,
    /// Method.
    pub method: String,
    /// Absolute URI.
    pub url: String,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
    /// A body held in memory, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A streamed body, each chunk hexadecimal; absent or empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<String>,
    /// The application's own timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it may be sent twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
}

/// What a request came to: a response (with `status`) or an error (with `error`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// Of the request.
    pub id: usize,
    /// Status of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Kind of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Kind of the error while the body was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_error: Option<String>,
    /// Attempts, the first included; absent only from a driver of parts that do not report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Cluster, as far as one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Address of the last endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Headers of the response.
    pub headers: Vec<(String, String)>,
    /// Body, hexadecimal; what was read of it if it broke off.
    pub body: String,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// Milliseconds from the call to the last byte.
    pub ms: u64,
}

/// All that a driver said.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By id.
    pub outcomes: Vec<Outcome>,
    /// Prometheus text; `None` for a driver of parts that keep none.
    pub metrics: Option<String>,
}

impl Report {
    /// Whether it comes from parts that tell neither metrics nor attempts nor the endpoint: then upstreams are
    /// the witnesses.
    pub fn is_bare(&self) -> bool {
        self.metrics.is_none()
    }
}

/// A program that sends requests through the mesh, in some language.
#[derive(Debug, Clone)]
pub struct Driver {
    /// What it is called.
    pub name: String,
    /// How it is started.
    pub command: Vec<String>,
    /// Environment it needs.
    pub environment: Vec<(String, String)>,
}

impl Driver {
    /// A driver that needs no environment.
    pub fn new(name: &str, command: &[&Path]) -> Self {
        let command = command.iter().map(|part| part.display().to_string()).collect();
        Self { name: name.to_owned(), command, environment: Vec::new() }
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it.
    pub fn run(&self, job: &Job) -> Result<Report, String> {
        let job = serde_json::to_vec(job).map_err(|error| error.to_string())?;
        let output = self.talk(job)?;
        let mut report = Report::default();
        let mut is_complete = false;
        for line in output.lines().filter(|line| !line.trim().is_empty()) {
            let failed = |error| format!("the {} driver wrote {line:?}: {error}", self.name);
            let value: Value = serde_json::from_str(line).map_err(failed)?;
            match value.get("metrics") {
                Some(metrics) => {
                    report.metrics = metrics.as_str().map(str::to_owned);
                    is_complete = true;
                }
                None => report.outcomes.push(serde_json::from_value(value).map_err(failed)?),
            }
        }
        if !is_complete || (report.metrics.is_none() && self.name != LAYERS) {
            return Err(format!("the {} driver told no metrics", self.name));
        }
        report.outcomes.sort_by_key(|outcome| outcome.id);
        Ok(report)
    }

    /// Gives a program that has a protocol of its own its job, and reads the JSON lines it answers.
    pub fn tell(&self, job: &Value) -> Result<Vec<Value>, String> {
        let output = self.talk(job.to_string().into_bytes())?;
        let failed = |error, line| format!("the {} driver wrote {line:?}: {error}", self.name);
        output.lines().map(|line| serde_json::from_str(line).map_err(|error| failed(error, line))).collect()
    }

    fn talk(&self, job: Vec<u8>) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("the {} driver {:?}: {error}", self.name, self.command);
        let (program, arguments) = self.command.split_first().ok_or("a driver needs a command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut input = child.stdin.take().ok_or("no stdin")?;
        let mut output = child.stdout.take().ok_or("no stdout")?;
        let (done, reading) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = output.read_to_string(&mut text).map(|_| text);
            let _ = done.send(read);
        });
        input.write_all(&job).map_err(failed)?;
        drop(input);
        let text = reading.recv_timeout(PATIENCE);
        let status = end(&mut child, text.is_err()).map_err(failed)?;
        let text = text.map_err(|_| format!("the {} driver was not done in {PATIENCE:?}", self.name))?;
        if !status.success() {
            return Err(format!("the {} driver ended with {status}", self.name));
        }
        text.map_err(failed)
    }
}

fn end(child: &mut Child, is_stuck: bool) -> std::io::Result<std::process::ExitStatus> {
    if is_stuck {
        child.kill()?;
    }
    child.wait()
}

/// The driver of stand-alone layers, which keep no metrics of requests.
const LAYERS: &str = "layers";
/// No scenario takes longer, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);
