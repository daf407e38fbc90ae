//! What a decision costs, without a network: nanoseconds, allocations, instructions.
//!
//! Each subject runs in this process, in rounds that take turns; nanoseconds are the median of the
//! rounds and belong to this machine, ratios of one run travel. Instructions are counted by callgrind,
//! where valgrind is installed, as the difference between a long and a short run of the same process.

use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;

use crate::{Failure, counting};

mod breaker;
mod budget;
mod pick;

/// What to run.
#[derive(Debug, Clone, Args)]
pub struct Task {
    /// Only subjects whose name holds this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Rounds.
    #[arg(long, default_value_t = 7)]
    pub rounds: u32,
    /// Leave out callgrind.
    #[arg(long)]
    pub no_instructions: bool,
    /// Run the one subject of this full name as often as `times` says, and measure nothing.
    #[arg(long, hide = true)]
    pub exactly: Option<String>,
    /// How often `exactly` runs.
    #[arg(long, hide = true, default_value_t = 1)]
    pub times: u32,
}

/// Something that is measured.
pub struct Subject {
    /// `what size`, for example `pick ring_hash 1000`.
    pub name: String,
    /// What it is compared with: the name of another subject.
    pub base: Option<String>,
    /// Whether it may allocate: what is ours may not.
    pub may_allocate: bool,
    /// Sets it up; what it returns runs it as often as it is told.
    pub prepare: Box<dyn Fn() -> Run>,
}

/// Runs a subject.
pub type Run = Box<dyn FnMut(u32)>;

impl Subject {
    fn ours(name: String, base: Option<String>, prepare: impl Fn() -> Run + 'static) -> Self {
        Self { name, base, may_allocate: false, prepare: Box::new(prepare) }
    }

    fn theirs(name: String, prepare: impl Fn() -> Run + 'static) -> Self {
        Self { name, base: None, may_allocate: true, prepare: Box::new(prepare) }
    }
}

/// A row of the table.
struct Row {
    name: String,
    base: Option<String>,
    nanos: f64,
    allocations: f64,
    instructions: Option<f64>,
}

/// Measures and prints.
pub fn run(task: &Task) -> Result<(), Failure> {
    if let Some(name) = &task.exactly {
        let subject = subjects().into_iter().find(|subject| subject.name == *name);
        (subject.ok_or_else(|| format!("no subject is called {name:?}"))?.prepare)()(task.times);
        return Ok(());
    }
    let mut chosen = subjects();
    chosen.retain(|subject| subject.name.contains(&task.only));
    let has_valgrind = !task.no_instructions;
    if has_valgrind && Command::new("valgrind").arg("--version").output().is_err() {
        return Err("valgrind is not installed; without it, ask for --no-instructions".into());
    }
    let mut rows = Vec::new();
    for subject in chosen {
        let row = measure(&subject, task, has_valgrind)?;
        if !subject.may_allocate && row.allocations > 0.0 {
            return Err(format!("{} allocates {} times", row.name, row.allocations).into());
        }
        rows.push(row);
    }
    print!("{}", render(&rows));
    if !has_valgrind {
        println!("(no instructions: left out)");
    }
    Ok(())
}

fn subjects() -> Vec<Subject> {
    let all = [pick::subjects(), breaker::subjects(), budget::subjects()];
    all.into_iter().flatten().collect()
}

fn measure(subject: &Subject, task: &Task, counts_instructions: bool) -> Result<Row, Failure> {
    let mut run = (subject.prepare)();
    run(WARM_UP);
    let times = calibrated(&mut run);
    let mut rounds: Vec<f64> = (0..task.rounds.max(1)).map(|_| nanos(&mut run, times)).collect();
    rounds.sort_by(f64::total_cmp);
    counting::start();
    run(COUNTED);
    let counted = counting::stop();
    drop(run);
    let instructions = if counts_instructions { Some(instructions(&subject.name)?) } else { None };
    Ok(Row {
        name: subject.name.clone(),
        base: subject.base.clone(),
        nanos: rounds[rounds.len() / 2],
        allocations: counted.allocations as f64 / f64::from(COUNTED),
        instructions,
    })
}

/// As often as a round lasts about 20 ms.
fn calibrated(run: &mut Run) -> u32 {
    let once = nanos(run, WARM_UP).max(1.0);
    ((20e6 / once) as u32).clamp(WARM_UP, 10_000_000)
}

fn nanos(run: &mut Run, times: u32) -> f64 {
    let start = Instant::now();
    run(times);
    start.elapsed().as_nanos() as f64 / f64::from(times)
}

/// Instructions of one more time: what a longer run has more than a shorter one.
fn instructions(name: &str) -> Result<f64, Failure> {
    let [short, long] = [LITTLE, LITTLE + COUNTED].map(|times| collected(name, times));
    Ok((long? - short?) / f64::from(COUNTED))
}

fn collected(name: &str, times: u32) -> Result<f64, Failure> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    command.args(["micro", "--exactly", name, "--times", &times.to_string()]);
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim().to_owned());
    let count = line.and_then(|count| count.parse().ok());
    count.ok_or_else(|| format!("callgrind says nothing of {name:?}:\n{text}").into())
}

fn render(rows: &[Row]) -> String {
    let mut text = format!("\n{:<36}{:>10}{:>14}{:>14}{:>12}\n", "", "ns", "instructions", "allocations", "ns ratio");
    for row in rows {
        let base = row.base.as_ref().and_then(|base| rows.iter().find(|other| other.name == *base));
        let ratio = base.map_or_else(String::new, |base| format!("{:.2}x", row.nanos / base.nanos));
        let instructions = row.instructions.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        text += &format!("{:<36}{:>10.1}{instructions:>14}{:>14.1}{ratio:>12}\n", row.name, row.nanos, row.allocations);
    }
    text + "(ns ratio: to the subject of tower that does the same, in this run)\n"
}

/// Until lazily made state is there, and the caches are warm.
const WARM_UP: u32 = 1_000;
/// Runs of which allocations and instructions are counted.
const COUNTED: u32 = 2_000;
/// The shorter of the two runs under callgrind.
const LITTLE: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_decides_without_an_allocation() {
        for subject in subjects().iter().filter(|subject| !subject.may_allocate && !subject.name.ends_with("100000")) {
            let mut run = (subject.prepare)();
            run(WARM_UP);
            counting::start();
            run(COUNTED);
            let counted = counting::stop();
            // Other tests of this process count into the same number; none makes one per decision.
            assert!(counted.allocations < u64::from(COUNTED) / 10, "{}: {counted:?}", subject.name);
        }
    }

    #[test]
    fn every_comparison_names_a_subject() {
        let subjects = subjects();
        for base in subjects.iter().filter_map(|subject| subject.base.as_ref()) {
            assert!(subjects.iter().any(|subject| subject.name == *base), "{base}");
        }
    }
}
