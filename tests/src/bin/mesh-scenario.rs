//! Runs scenarios: `mesh-scenario [--driver name] [file.yaml ...]`.
//!
//! Without files, the whole corpus; without a driver, all of them. Exit code 1 if anything differs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mesh_tests::{run, scenario, toolchain};

fn main() -> ExitCode {
    match start(std::env::args().skip(1).collect()) {
        Ok(found) if found.is_empty() => ExitCode::SUCCESS,
        Ok(found) => {
            println!("{} differences:\n{}", found.len(), found.join("\n"));
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut arguments: Vec<String>) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = toolchain::DRIVERS.iter().map(|name| (*name).to_owned()).collect();
    if arguments.first().is_some_and(|first| first == "--driver") {
        names = vec![arguments.get(1).cloned().ok_or("--driver needs a name")?];
        arguments.drain(..2);
    }
    let drivers = names.iter().map(|name| toolchain::driver(name)).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<PathBuf> = arguments.iter().map(PathBuf::from).collect();
    let scenarios = if files.is_empty() {
        scenario::load_all(&toolchain::tests_directory().join("scenarios"))?
    } else {
        files.iter().map(|file: &PathBuf| scenario::Scenario::load(Path::new(file))).collect::<Result<_, _>>()?
    };
    println!("{} scenarios, drivers: {}", scenarios.len(), names.join(", "));
    run::run_all(&scenarios, &drivers)
}
