//! The module graph of DESIGN.md, held by a test: a module may use those below it, never those above.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. A module uses itself and the layers below.
const LAYERS: &[&[&str]] = &[
    &["error", "load_report", "time"],
    &["config", "telemetry", "body", "runtime", "drain", "own_load"],
    &["policy", "route", "identity"],
    &["context", "access", "endpoint"],
    &["cluster", "stream"],
    &["snapshot"],
    &["compile"],
    &["discovery"],
    &["core"],
    &["outbound"],
    &["inbound", "admin", "guard"],
    &["background"],
    &["mesh"],
    &["layer"],
];

#[test]
fn modules_use_only_what_is_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rank: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(rank, layer)| layer.iter().map(move |module| (*module, rank))).collect();
    let mut broken = Vec::new();
    let mut files = 0;
    for file in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let own = *rank.get(module).unwrap_or_else(|| panic!("{module} has no place in the module graph"));
        files += 1;
        let text = fs::read_to_string(&file).unwrap();
        // Tests may reach anywhere.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for used in code.split("crate::").skip(1).map(first_word) {
            if used != module && rank.get(used).is_some_and(|other| *other >= own) {
                broken.push(format!("{}: {module} uses {used}", relative.display()));
            }
        }
    }
    assert!(files > 30, "found only {files} source files");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
