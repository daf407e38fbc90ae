//! Every program here does what its first lines say; every public layer has a program and a tested example in its
//! documentation; the README's snippet is one of the programs'.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

macro_rules! programs {
    ($($name:ident),* $(,)?) => {
        #[path = ".."]
        mod programs {
            $(pub mod $name;)*
        }

        /// Each asserts what it promises.
        mod does_what_it_says {
            $(#[test]
            fn $name() {
                super::programs::$name::main().unwrap();
            })*
        }

        const PROGRAMS: &[&str] = &[$(stringify!($name)),*];
    };
}

programs! {
    access, axum_listener, axum_server, balance, check, circuit_breaker, compose, concurrency, end_user, endpoint,
    grpc_client, grpc_mesh, hedge, retry, shed, timeout, trace,
}

#[test]
fn every_program_is_run_built_and_told() {
    let files = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")).collect();
    let names: BTreeSet<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from_iter(PROGRAMS.iter().copied()));
    let (manifest, readme) = (read("Cargo.toml"), read("README.md"));
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{name}.rs\"\n")), "{name} is no example");
        assert!(readme.contains(&format!("[`{name}`]({name}.rs)")), "README.md does not tell {name}.rs");
    }
}

#[test]
fn every_public_layer_has_a_program_and_a_tested_example_in_its_documentation() {
    let programs: String = PROGRAMS.iter().map(|name| read(&format!("{name}.rs"))).collect();
    let public: Vec<_> = layers();
    assert!(public.len() >= 12, "{public:?}");
    for (module, name) in public {
        assert!(programs.contains(&name), "no program uses {name}");
        let source = read(&format!("../../mesh-core/src/layer/{module}.rs"));
        let own = source.split_once("#[cfg(test)]").map_or(source.as_str(), |(own, _)| own);
        assert!(own.contains("/// ```\n"), "{module} documents {name} without an example");
        assert!(!own.contains("```no_run") && !own.contains("```ignore"), "{module}: an example is not run");
    }
}

/// What `mesh_core::layer` offers to be taken alone, with its module.
fn layers() -> Vec<(String, String)> {
    let source = read("../../mesh-core/src/layer/mod.rs");
    let exports = source.lines().filter_map(|line| line.strip_prefix("pub use ")?.strip_suffix(';')?.split_once("::"));
    exports
        .filter(|(module, _)| *module != "request_body" && *module != "crate")
        .map(|(module, names)| {
            let names: Vec<_> = names.trim_matches(['{', '}']).split(", ").collect();
            let layer = names.iter().find(|name| name.ends_with("Layer") || **name == "compose").unwrap_or(&names[0]);
            (module.to_owned(), (*layer).to_owned())
        })
        .collect()
}

#[test]
fn the_snippet_of_the_main_readme_is_taken_from_a_program() {
    let readme = read("../../README.md");
    let (_, section) = readme.split_once("## Only one layer").unwrap();
    let (_, snippet) = section.split_once("```rust\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    let lines = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    assert!(snippet.lines().count() > 5, "{snippet}");
    assert!(lines(&read("grpc_client.rs")).contains(lines(snippet).trim()), "{snippet}");
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
