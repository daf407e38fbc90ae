//! `mesh check`: is this a configuration?

use std::path::PathBuf;
use std::process::ExitCode;

use mesh_core::config::Diagnostic;
use mesh_core::config::document::Document;
use serde_json::json;

use crate::load::{Loaded, load};
use crate::paint::{self, Paint};
use crate::report;

/// Checks every file, prints every finding. Exit code 1 if any file is refused.
pub fn run(files: &[PathBuf], is_json: bool) -> Result<ExitCode, String> {
    let loaded: Vec<Loaded> = files.iter().map(|file| load(file)).collect();
    let text =
        if is_json { as_json(&loaded) } else { loaded.iter().map(|one| as_text(one, paint::for_stdout())).collect() };
    paint::print(&text)?;
    let is_refused = loaded.iter().any(|one| one.snapshot.is_none());
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_text(loaded: &Loaded, paint: Paint) -> String {
    let findings = loaded.findings.iter().map(|finding| report::render(finding, &loaded.text, paint) + "\n");
    let mut text: String = findings.collect();
    let count = report::count(&loaded.findings);
    text += &match &loaded.snapshot {
        Some(snapshot) if count.is_empty() => {
            format!("{}: {} ({})\n", loaded.origin, paint.good("ok"), size(&snapshot.document))
        }
        Some(snapshot) => format!("{}: {} ({}), {count}\n", loaded.origin, paint.good("ok"), size(&snapshot.document)),
        None => format!("{}: {}, {count}\n", loaded.origin, paint.error("refused")),
    };
    text
}

fn size(document: &Document) -> String {
    let parts = [
        (document.clusters.len(), "cluster"),
        (document.routes.len(), "route"),
        (document.listeners.len(), "listener"),
    ];
    parts.map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" })).join(", ")
}

fn as_json(loaded: &[Loaded]) -> String {
    let files = loaded.iter().map(|one| json!({ "file": one.origin, "accepted": one.snapshot.is_some() }));
    let findings: Vec<&Diagnostic> = loaded.iter().flat_map(|one| &one.findings).collect();
    format!("{:#}\n", json!({ "files": files.collect::<Vec<_>>(), "diagnostics": findings }))
}
