//! Broken configurations, each with every finding it must give, and good ones that must give none.
//!
//! A broken file starts with one `# expect: <line>:<field path>: <part of the message>` per finding.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::config::tree::Node;
use mesh_core::config::{self, Diagnostic, Document};
use proptest::prelude::*;
use serde_json::Value as Json;

struct Expected {
    line: u32,
    path: String,
    message: String,
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expectations(text: &str) -> Vec<Expected> {
    let lines = text.lines().map_while(|line| line.strip_prefix("# expect: "));
    let parsed = lines.map(|line| {
        let mut parts = line.splitn(3, ':');
        let (line, path, message) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        Expected { line: line.parse().unwrap(), path: path.to_owned(), message: message.trim_start().to_owned() }
    });
    parsed.collect()
}

fn differs(found: &[Diagnostic], expected: &[Expected]) -> bool {
    let same = |(found, expected): (&Diagnostic, &Expected)| {
        found.line == expected.line && found.path == expected.path && found.message.contains(&expected.message)
    };
    found.len() != expected.len() || !found.iter().zip(expected).all(same)
}

#[test]
fn every_broken_configuration_is_refused_at_its_line_and_field() {
    let mut failures = Vec::new();
    let mut count = 0;
    for path in files("broken") {
        let text = read(&path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = expectations(&text);
        assert!(!expected.is_empty(), "{name} expects nothing");
        match config::parse(&text, &name) {
            Ok(_) => failures.push(format!("{name}: taken")),
            Err(found) if differs(&found, &expected) => {
                failures
                    .extend(expected.iter().map(|e| format!("{name}: expected {}:{}: {}", e.line, e.path, e.message)));
                failures.extend(found.iter().map(|found| format!("{name}: found    {found}")));
            }
            Err(_) => count += 1,
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(count >= 100, "only {count} broken configurations");
}

#[test]
fn every_good_configuration_is_taken_without_a_warning_and_reads_back_as_itself() {
    let files = files("good");
    for path in &files {
        let text = read(path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let parsed = config::parse(&text, &name).unwrap_or_else(|found| panic!("{}", shown(&found)));
        assert!(parsed.warnings.is_empty(), "{}", shown(&parsed.warnings));
        let written = serde_json::to_string(&parsed.document).unwrap();
        let again = config::parse(&written, &name).unwrap_or_else(|found| panic!("{written}\n{}", shown(&found)));
        assert_eq!(again.document, parsed.document, "{name}");
    }
    assert!(files.len() >= 5, "only {} good configurations", files.len());
}

/// The fields that documents have, each with the type that the schema says it belongs to.
struct Fields<'s> {
    schema: &'s Json,
    met: BTreeSet<(String, String)>,
}

impl Fields<'_> {
    fn walk(&mut self, schema: &Json, of: &str, value: &Json) {
        if let Some(name) = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/")) {
            let root = self.schema;
            self.walk(&root["$defs"][name], name, value);
        }
        for alternatives in ["anyOf", "oneOf", "allOf"].map(|key| schema[key].as_array()) {
            alternatives.into_iter().flatten().for_each(|one| self.walk(one, of, value));
        }
        match value {
            Json::Object(fields) => {
                for (key, inner) in fields {
                    let Some(field) = schema["properties"].get(key) else { continue };
                    self.met.insert((of.to_owned(), key.clone()));
                    self.walk(field, of, inner);
                }
            }
            Json::Array(items) => items.iter().for_each(|item| self.walk(&schema["items"], of, item)),
            _ => {}
        }
    }
}

#[test]
fn the_document_of_everything_has_every_field_of_the_schema() {
    let schema = config::json_schema();
    let root = (&"Document".to_owned(), &schema);
    let mut wanted = BTreeSet::new();
    // An override has the fields of what it overrides.
    let types = schema["$defs"].as_object().unwrap().iter().filter(|(name, _)| !name.ends_with("Override"));
    for (name, of) in types.chain([root]) {
        let fields = of["properties"].as_object().into_iter().flatten();
        wanted.extend(fields.map(|(field, _)| (name.clone(), field.clone())));
    }
    assert!(wanted.len() > 500, "{}", wanted.len());
    let mut fields = Fields { schema: &schema, met: BTreeSet::new() };
    for name in ["everything.yaml", "server.yaml"] {
        let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good").join(name));
        fields.walk(&schema, "Document", &Node::read(&text, name).unwrap().to_json());
    }
    let missing: Vec<_> = wanted.difference(&fields.met).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn an_empty_configuration_is_the_default_document() {
    for text in
        ["", "\n", "# nothing yet\n", "---\n", "version: 1\n", "version: 1\nroutes:\ndefaults:\nidentity:\n", "{}"]
    {
        let parsed = config::parse(text, "mesh.yaml").unwrap_or_else(|found| panic!("{text:?}: {}", shown(&found)));
        assert_eq!(parsed.document, Document::default(), "{text:?}");
    }
}

#[test]
fn a_warning_does_not_refuse() {
    for (text, path) in [
        ("clusters: [{ name: a, endpoints: [] }]", "clusters[0].endpoints"),
        ("policy: { access: { default: deny } }", "policy.access.default"),
        (
            "listeners: [{ name: a }]\npolicy: { access: { rules: [{ name: a, action: allow, principals: ['*'] }] } }",
            "policy.access.rules[0].principals",
        ),
        (
            "clusters: [{ name: a, endpoints: [{ address: a:80 }] }, { name: b, endpoints: [{ address: b:80 }] }]\n\
             routes: [{ hosts: [a], rules: [{ session: { header: x-at }, backends: [{ cluster: a }, { cluster: b }] }] }]",
            "routes[0].rules[0].backends",
        ),
    ] {
        let parsed = config::parse(text, "mesh.yaml").unwrap_or_else(|found| panic!("{text}: {}", shown(&found)));
        let paths: Vec<&str> = parsed.warnings.iter().map(|warning| warning.path.as_str()).collect();
        assert_eq!(paths, [path], "{text}");
    }
}

#[test]
fn a_file_of_endpoints_is_read_like_the_list_inside_a_cluster() {
    let text = "- address: 127.0.0.1:80\n- { address: '[::1]:81', weight: 3, labels: { version: v2 } }\n";
    let endpoints = config::parse_endpoints(text, "e.yaml").unwrap();
    assert_eq!(endpoints.len(), 2);
    assert_eq!((endpoints[0].weight.0, endpoints[1].weight.0), (1, 3));
    assert_eq!(config::parse_endpoints("", "e.yaml").unwrap(), []);
    for (text, line, path) in [
        ("- address: a:80\n- address: a\n", 2, "[1].address"),
        ("- address: a:80\n- address: a:80\n", 2, "[1].address"),
        ("- address: a:80\n  wait: 1\n", 2, "[0].wait"),
        ("- address: a:80\n  weight: 0\n", 1, ""),
        ("endpoints: []\n", 1, ""),
    ] {
        let found = config::parse_endpoints(text, "e.yaml").unwrap_err();
        assert_eq!((found.len(), found[0].line, found[0].path.as_str()), (1, line, path), "{}", shown(&found));
    }
}

#[test]
fn a_text_may_be_too_long() {
    let rule = |length: usize| {
        format!("routes: [{{hosts: [a], rules: [{{direct_response: {{status: 404, body: {}}}}}]}}]", "x".repeat(length))
    };
    config::parse(&rule(4096), "mesh.yaml").unwrap_or_else(|found| panic!("{}", shown(&found)));
    let found = shown(&config::parse(&rule(4097), "mesh.yaml").unwrap_err());
    assert!(found.contains("direct_response.body") && found.contains("at most 4096"), "{found}");
}

#[test]
fn a_finding_says_what_to_write_instead() {
    let text = "clusters:\n  - name: details\n    endpoints: []\nroutes:\n  - hosts: [a]\n    rules:\n      - backends: [{ cluster: detials }]\n";
    let found = config::parse(text, "mesh.yaml").unwrap_err();
    let line = "mesh.yaml:7:31: routes[0].rules[0].backends[0].cluster: unknown cluster `detials` \
                (expected one of details; did you mean `details`?)";
    assert_eq!(found[0].to_string(), line);
}

#[test]
fn an_override_keeps_the_defaults_that_it_does_not_name() {
    let text = "defaults: { retry: { attempts: 4, base: 50ms } }\nclusters: [{ name: a, endpoints_file: a.yaml }]\n\
                routes: [{ hosts: ['*'], rules: [{ backends: [{ cluster: a }], retry: { attempts: 1 } }] }]\n";
    let document = config::parse(text, "mesh.yaml").unwrap().document;
    let retry = document.routes[0].rules[0].retry.as_ref().unwrap().over(&document.defaults.retry);
    assert_eq!(
        (retry.attempts, retry.base, retry.max),
        (1, config::TimeSpan::millis(50), config::TimeSpan::millis(250))
    );
}

#[test]
fn checking_a_document_opens_nothing_that_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let text = format!("telemetry: {{ access_log: {{ path: \"{}\" }} }}\n", log.display());
    mesh_core::Mesh::check(&text, "mesh.yaml").unwrap();
    assert!(!log.exists());
    mesh_core::Mesh::from_yaml(&text, "mesh.yaml").unwrap();
    assert!(log.exists(), "the log of a mesh that is opened");
    assert!(mesh_core::Mesh::check("telemetry: { access: 1 }", "mesh.yaml").is_err());
}

#[test]
fn ten_thousand_endpoints_are_read_in_one_go() {
    let entries: Vec<String> = (0..10_000).map(|n| format!("- address: 10.0.{}.{}:80\n", n / 250, n % 250)).collect();
    assert_eq!(config::parse_endpoints(&entries.concat(), "e.yaml").unwrap().len(), 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = config::parse(&text, "x");
        let _ = config::parse_endpoints(&text, "x");
    }

    #[test]
    fn no_text_of_yaml_signs_makes_the_parser_panic(text in "[ \\n\\t:,\\-\\[\\]{}&*!|>'\"%@#?a0~.]{0,120}") {
        let _ = config::parse(&text, "x");
        let _ = config::parse_endpoints(&text, "x");
    }

    #[test]
    fn a_damaged_good_configuration_is_taken_or_explained(cut in 0usize..4000, sign in "[:\\-\\[{}'\"a0 \\n*&]") {
        for path in files("good") {
            let text = read(&path);
            let at = text.char_indices().map(|(at, _)| at).nth(cut % text.len().max(1)).unwrap_or(0);
            let damaged = format!("{}{sign}{}", &text[..at], text[at..].chars().skip(1).collect::<String>());
            if let Err(found) = config::parse(&damaged, "x") {
                prop_assert!(!found.is_empty());
                let lines = damaged.lines().count() as u32 + 1;
                prop_assert!(found.iter().all(|d| d.line >= 1 && d.line <= lines && d.column >= 1), "{}", shown(&found));
            }
        }
    }
}

fn shown(found: &[Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
