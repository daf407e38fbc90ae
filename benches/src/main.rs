//! What a request costs: through bare hyper, through libmesh, and through an Envoy sidecar.
//!
//! One run measures all of them, in rounds that take turns, and prints ratios: absolute numbers belong
//! to one machine on one day, ratios of one run travel. Every case runs in a process of its own, so that
//! CPU and memory are its own; the upstream runs in a further one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod allocations;
mod case;
mod counting;
mod envoy;
mod host;
mod load;
mod micro;
mod sidecar;
mod table;
mod trace;
mod upstream;
mod usage;
mod worker;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Any error, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The same request through bare hyper, libmesh and an Envoy sidecar, as ratios of one run.
#[derive(Parser, Clone)]
#[command(name = "mesh-bench", version)]
pub struct Options {
    /// Rounds; each runs every case once.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds measured per case and round, after one of warm-up.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Requests in flight; one table for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    pub in_flight: Vec<usize>,
    /// The Envoy binary. Default: `envoy` on the path; without one, that row is left out.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Let the scheduler choose the CPUs, instead of giving the client (and its sidecar) one and the upstream another.
    #[arg(long)]
    pub no_pin: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a child process of the bench is.
#[derive(Subcommand, Clone)]
enum Role {
    /// What single decisions cost, without a network.
    Micro(micro::Task),
    /// How often a policy server is asked: an hour of the reference workload, in compressed time.
    Trace(trace::Task),
    /// The upstream: prints its address, serves until its input ends.
    #[command(hide = true)]
    Upstream,
    /// One case, one round: prints a sample as JSON.
    #[command(hide = true)]
    Worker(worker::Task),
    /// Counts allocations of one case: prints them as JSON.
    #[command(hide = true)]
    Allocations(worker::Task),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.role.clone() {
        None => sidecar::run(&options),
        Some(Role::Micro(task)) => micro::run(&task),
        Some(Role::Trace(task)) => trace::run(&task),
        Some(Role::Upstream) => upstream::run(),
        Some(Role::Worker(task)) => worker::run(&task),
        Some(Role::Allocations(task)) => allocations::run(&task),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn instructions_can_be_left_out_and_the_help_says_so() {
        let options = Options::try_parse_from(["mesh-bench", "micro", "--no-instructions"]);
        assert!(matches!(options.map(|options| options.role), Ok(Some(Role::Micro(task))) if task.no_instructions));
        let mut command = Options::command();
        command.build();
        let help = command.find_subcommand_mut("micro").map(|micro| micro.render_help().to_string());
        assert!(help.is_some_and(|help| help.contains("--no-instructions")));
    }
}
