//! Runs a scenario with a driver.
//!
//! Decides: the order of things: upstreams first, then the driver, then the judgement. Each run has its own
//! upstreams, ports and directory, so that runs cannot disturb each other.

use std::path::{Path, PathBuf};

use tokio::runtime::Runtime;

use crate::driver::{Call, Driver, Group, Job};
use crate::judge;
use crate::scenario::{Request, Scenario, Step, bytes_of, to_hex};
use crate::upstream::Upstreams;

/// Plays upstreams.
pub struct Runner {
    runtime: Runtime,
}

/// What came of one scenario with one driver.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Differences from what the scenario expects; empty is a pass.
    pub differences: Vec<String>,
    /// The outcomes in a form that is equal between drivers: what the caller got, and how.
    pub comparable: Vec<(String, String)>,
    /// The driver does not tell how.
    pub is_bare: bool,
}

impl Verdict {
    /// Where another driver's outcomes are not the same.
    fn against(&self, other: &Self) -> Vec<String> {
        let is_bare = self.is_bare || other.is_bare;
        let differs = |(ours, theirs): &(&(String, String), &(String, String))| {
            ours.0 != theirs.0 || (!is_bare && ours.1 != theirs.1)
        };
        let pairs = self.comparable.iter().zip(&other.comparable).filter(differs);
        pairs.map(|(ours, theirs)| format!("{} {}\n    not {} {}", ours.0, ours.1, theirs.0, theirs.1)).collect()
    }
}

impl Runner {
    /// A runner with its own threads.
    pub fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime })
    }

    /// One scenario, one driver.
    pub fn run(&self, scenario: &Scenario, driver: &Driver) -> Result<Verdict, String> {
        let text = |error: std::io::Error| error.to_string();
        let upstreams = self.runtime.block_on(Upstreams::start(&scenario.upstreams)).map_err(text)?;
        let directory = tempfile::tempdir().map_err(text)?;
        let config = write(directory.path(), scenario, &upstreams).map_err(text)?;
        let report = driver.run(&job(scenario, config))?;
        Ok(Verdict {
            differences: judge::differences(scenario, &report, &upstreams),
            comparable: judge::comparable(&report, &upstreams),
            is_bare: report.is_bare(),
        })
    }
}

/// All scenarios with all drivers: the differences, and where drivers do not agree.
pub fn run_all(scenarios: &[Scenario], drivers: &[Driver]) -> Result<Vec<String>, String> {
    let runner = Runner::new().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for scenario in scenarios {
        let mut first: Option<(&str, Verdict)> = None;
        for driver in drivers.iter().filter(|driver| !scenario.skip.contains_key(&driver.name)) {
            let name = format!("{} ({})", scenario.name, driver.name);
            let verdict = match runner.run(scenario, driver) {
                Ok(verdict) => verdict,
                Err(problem) => {
                    found.push(format!("{name}: {problem}"));
                    continue;
                }
            };
            found.extend(verdict.differences.iter().map(|difference| format!("{name}: {difference}")));
            match &first {
                None => first = Some((&driver.name, verdict)),
                Some((other, theirs)) if !scenario.random => {
                    let differing = verdict.against(theirs);
                    found.extend(differing.iter().map(|differing| format!("{name}, against {other}: {differing}")));
                }
                Some(_) => {}
            }
        }
    }
    Ok(found)
}

fn write(directory: &Path, scenario: &Scenario, upstreams: &Upstreams) -> std::io::Result<PathBuf> {
    for (name, text) in &scenario.files {
        std::fs::write(directory.join(name), upstreams.fill_in(text))?;
    }
    let config = directory.join("mesh.yaml");
    std::fs::write(&config, upstreams.fill_in(&scenario.config))?;
    Ok(config)
}

fn job(scenario: &Scenario, config: PathBuf) -> Job {
    let mut groups = Vec::new();
    let mut id = 0;
    for step in &scenario.steps {
        let calls: Vec<Call> = (0..step.times).map(|nth| call(&step.request, id + nth)).collect();
        id += step.times;
        groups.extend(groups_of(step, calls));
    }
    Job { config, groups }
}

fn groups_of(step: &Step, calls: Vec<Call>) -> Vec<Group> {
    if step.parallel {
        return vec![Group { pause_ms: step.pause_ms, requests: calls }];
    }
    let one = |(nth, call)| Group { pause_ms: if nth == 0 { step.pause_ms } else { 0 }, requests: vec![call] };
    calls.into_iter().enumerate().map(one).collect()
}

fn call(request: &Request, id: usize) -> Call {
    Call {
        id,
        method: if request.method.is_empty() { "GET".to_owned() } else { request.method.clone() },
        url: request.url.clone(),
        headers: request.headers.clone(),
        body: request.body.as_deref().map(|body| to_hex(&bytes_of(body))),
        chunks: request.chunks.iter().map(|chunk| to_hex(&bytes_of(chunk))).collect(),
        timeout_ms: request.timeout_ms,
        idempotent: request.idempotent,
    }
}
