//! The `mesh` command: what an operator asks before and after a configuration goes live.
//!
//! Decides: how answers are shown. Never: decides anything about a request; `mesh-core` does, and this
//! command runs the same code on the same document.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin;
mod check;
mod explain;
mod live;
mod load;
mod paint;
mod report;
mod request;
mod rule_text;
mod status;
mod table;

/// Check a mesh configuration, explain what it does to a request, look into a running process.
#[derive(Parser)]
#[command(name = "mesh", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say everything that is wrong with a configuration. Exit code 1 if anything is.
    Check {
        /// Configuration files; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Say which rule takes a request, which rules do not and why, and where it would go. With `--live`: what
    /// happened to finished calls of a running process, with every attempt and the reason of every decision.
    Explain {
        /// Ask a running process for its finished calls.
        #[arg(long, conflicts_with_all = ["method", "url", "headers"])]
        live: bool,
        /// With `--live`: its admin endpoint.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", requires = "live")]
        admin: String,
        /// With `--live`: print the JSON as it came.
        #[arg(long, requires = "live")]
        json: bool,
        /// The configuration of the process that sends the request. With `--live`: the `x-request-id` of a call
        /// to show in full; without, the latest calls are listed.
        #[arg(value_name = "FILE | REQUEST ID", required_unless_present = "live")]
        subject: Option<String>,
        /// The method: GET, POST, ...
        #[arg(required_unless_present = "live")]
        method: Option<String>,
        /// The URL as the application writes it: http://reviews/reviews/0
        #[arg(required_unless_present = "live")]
        url: Option<String>,
        /// A header of the request, `name: value`; may be repeated.
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
    },
    /// Show what a running process does: revision, identity, clusters, listeners.
    Status {
        /// Its admin endpoint, for example 127.0.0.1:15000.
        address: String,
        /// Print the JSON as it came.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Check { files, json } => check::run(&files, json),
        Command::Schema => schema(),
        Command::Explain { live: true, admin, json, subject, .. } => live::run(&admin, subject.as_deref(), json),
        Command::Explain { subject, method, url, headers, .. } => {
            let (file, method, url) =
                (subject.unwrap_or_default(), method.unwrap_or_default(), url.unwrap_or_default());
            request::Asked::new(&method, &url, &headers).and_then(|asked| explain::run(file.as_ref(), &asked))
        }
        Command::Status { address, json } => status::run(&address, json),
    };
    match outcome {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("{} {problem}", paint::for_stderr().error("error:"));
            ExitCode::FAILURE
        }
    }
}

fn schema() -> Result<ExitCode, String> {
    paint::print(&format!("{:#}\n", mesh_core::config::json_schema()))
}
