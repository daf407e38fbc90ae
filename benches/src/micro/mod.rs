//! What a decision costs, without a network: nanoseconds, allocations, instructions.
//!
//! Each subject runs in this process; nanoseconds are the median of its rounds and belong to this machine,
//! ratios of one run travel. Instructions are counted by callgrind, as the difference between a long and a
//! short run of the same process, so that what is set up cancels out.
//!
//! A row with `tower`, `moka`, `cel` or `governor` in its name is what that crate has for the row that follows it. `benches/README.md` says what
//! is done once in each.
//!
//! # What fails
//! A subject of ours has a bound on its allocations: the number it had when the bound was written, which for
//! a decision is none. One more allocation a request, and the run fails. No time decides anything.

use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;

use crate::{Failure, counting};

mod access;
mod breaker;
mod budget;
mod cache;
mod hedge;
mod pick;
mod retry;
mod service;
mod stack;

/// What to run.
#[derive(Debug, Clone, Args)]
pub struct Task {
    /// Only subjects whose name holds this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Rounds.
    #[arg(long, default_value_t = 7)]
    pub rounds: u32,
    /// Count no instructions: for machines without valgrind, or in a hurry.
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
    /// How often it may allocate each time; `None`: as often as it likes, it is not ours.
    pub most_allocations: Option<u32>,
    /// Whether valgrind would need minutes, or would run its threads one after the other: no instructions then.
    pub is_large: bool,
    /// Sets it up; what it returns runs it as often as it is told.
    pub prepare: Box<dyn Fn() -> Run>,
}

/// Runs a subject.
pub type Run = Box<dyn FnMut(u32)>;

impl Subject {
    /// A decision: it never allocates.
    fn ours(name: String, base: Option<String>, prepare: impl Fn() -> Run + 'static) -> Self {
        Self::at_most(0, name, base, prepare)
    }

    fn at_most(allocations: u32, name: String, base: Option<String>, prepare: impl Fn() -> Run + 'static) -> Self {
        Self { name, base, most_allocations: Some(allocations), is_large: false, prepare: Box::new(prepare) }
    }

    fn theirs(name: String, prepare: impl Fn() -> Run + 'static) -> Self {
        Self { name, base: None, most_allocations: None, is_large: false, prepare: Box::new(prepare) }
    }

    /// Fails where it allocates more often than it may.
    fn check(&self, allocations: f64) -> Result<(), Failure> {
        match self.most_allocations {
            Some(most) if allocations > f64::from(most) => {
                Err(format!("{} allocates {allocations} times, and may {most} times", self.name).into())
            }
            _ => Ok(()),
        }
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
        subject.check(row.allocations)?;
        rows.push(row);
    }
    print!("{}", render(&rows));
    if !has_valgrind {
        println!("(no instructions: left out)");
    }
    Ok(())
}

fn subjects() -> Vec<Subject> {
    let decisions = [pick::subjects(), breaker::subjects(), budget::subjects(), cache::subjects(), access::subjects()];
    let requests = [stack::request(), retry::subjects(), hedge::subjects(), stack::subjects()];
    decisions.into_iter().chain(requests).flatten().collect()
}

fn measure(subject: &Subject, task: &Task, counts_instructions: bool) -> Result<Row, Failure> {
    let mut run = (subject.prepare)();
    run(WARM_UP);
    let times = calibrated(&mut run);
    let mut rounds: Vec<f64> = (0..task.rounds.max(1)).map(|_| nanos(&mut run, times)).collect();
    rounds.sort_by(f64::total_cmp);
    let count = counting::start_here();
    run(COUNTED);
    let counted = count.stop();
    drop(run);
    let instructions = if counts_instructions && !subject.is_large { Some(instructions(&subject.name)?) } else { None };
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
    let titles = ["ns", "instructions", "allocations", "ns ratio", "instr. ratio"];
    let mut text = line("", titles.map(str::to_owned));
    for row in rows {
        let base = row.base.as_ref().and_then(|base| rows.iter().find(|other| other.name == *base));
        let ratio = |of: fn(&Row) -> Option<f64>| {
            let quotient = base.and_then(|base| Some(of(row)? / of(base)?));
            quotient.map_or_else(String::new, |quotient| format!("{quotient:.2}x"))
        };
        let instructions = row.instructions.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        let [nanos, allocations] = [row.nanos, row.allocations].map(|number| format!("{number:.1}"));
        let ratios = [ratio(|row| Some(row.nanos)), ratio(|row| row.instructions)];
        let [by_nanos, by_instructions] = ratios;
        text += &line(&row.name, [nanos, instructions, allocations, by_nanos, by_instructions]);
    }
    format!(
        "\n{text}(ratios: to the peer that does the same in this run; for two threads, to one: 0.50x scales fully)\n"
    )
}

fn line(name: &str, cells: [String; 5]) -> String {
    let cells: String = cells.iter().map(|cell| format!("{cell:>14}")).collect();
    format!("{}\n", format!("{name:<36}{cells}").trim_end())
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
    fn what_is_ours_allocates_no_more_often_than_it_may() {
        for subject in subjects().iter().filter(|subject| !subject.is_large && !subject.name.ends_with("100000")) {
            let Some(most) = subject.most_allocations else { continue };
            let mut run = (subject.prepare)();
            run(WARM_UP);
            let count = counting::start_here();
            run(COUNTED);
            let counted = count.stop();
            assert!(counted.allocations <= u64::from(COUNTED) * u64::from(most), "{}: {counted:?}", subject.name);
        }
    }

    #[test]
    fn one_allocation_more_than_a_subject_may_make_fails_the_run() {
        let subject = Subject::at_most(2, "boxes".to_owned(), None, || Box::new(|_| {}));
        assert!(subject.check(2.0).is_ok());
        assert!(
            subject.check(2.5).is_err_and(|error| error.to_string() == "boxes allocates 2.5 times, and may 2 times")
        );
        assert!(Subject::theirs("tower's".to_owned(), || Box::new(|_| {})).check(99.0).is_ok());
    }

    #[test]
    fn a_row_is_compared_with_its_base_by_time_and_by_instructions() {
        let row = |name: &str, base: Option<&str>, nanos, instructions| Row {
            name: name.to_owned(),
            base: base.map(str::to_owned),
            nanos,
            allocations: 0.0,
            instructions,
        };
        let text = render(&[row("theirs", None, 200.0, Some(1000.0)), row("ours", Some("theirs"), 50.0, Some(300.0))]);
        let ours = text.lines().find(|line| line.starts_with("ours")).unwrap_or_default();
        assert_eq!(ours.split_whitespace().collect::<Vec<_>>(), ["ours", "50.0", "300", "0.0", "0.25x", "0.30x"]);
        let text = render(&[row("theirs", None, 200.0, None), row("ours", Some("theirs"), 50.0, None)]);
        let ours = text.lines().find(|line| line.starts_with("ours")).unwrap_or_default();
        assert_eq!(ours.split_whitespace().collect::<Vec<_>>(), ["ours", "50.0", "-", "0.0", "0.25x"]);
    }

    #[test]
    fn every_comparison_names_a_subject() {
        let subjects = subjects();
        for base in subjects.iter().filter_map(|subject| subject.base.as_ref()) {
            assert!(subjects.iter().any(|subject| subject.name == *base), "{base}");
        }
    }
}
