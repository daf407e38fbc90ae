//! The same metrics from every language, on both sides.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use mesh_tests::driver::{Call, Group, Job};
use mesh_tests::metrics::{self, Sample};
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::{LANGUAGES, driver, server};

fn identity(directory: &Path, name: &str) -> String {
    format!(
        "node: {{ service: {name}, namespace: shop, workload: {name}-v1, version: v1, cluster: A }}\nidentity: {{ spiffe_id: \"spiffe://shop.example/ns/shop/sa/{name}\", dev_ca: {{ directory: \"{}\" }} }}\n",
        directory.join("ca").display()
    )
}

fn page(admin: u16) -> Vec<Sample> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    metrics::parse(answer.split_once("\r\n\r\n").unwrap().1)
}

fn call_once(language: &str, config: &Path) -> Vec<Sample> {
    let call = Call {
        id: 0,
        method: "POST".to_owned(),
        url: "http://server/path".to_owned(),
        headers: Vec::new(),
        body: Some("6162".to_owned()),
        chunks: Vec::new(),
        timeout_ms: None,
        idempotent: None,
    };
    let job = Job { config: config.to_owned(), groups: vec![Group { pause_ms: 0, requests: vec![call] }] };
    let report = driver(language).unwrap().run(&job).unwrap();
    assert_eq!(report.outcomes[0].status, Some(200), "{language}: {:?}", report.outcomes);
    metrics::parse(&report.metrics.unwrap())
}

/// The labels of a request, without what must differ: the reporter.
fn request_labels(samples: &[Sample]) -> BTreeSet<Vec<(String, String)>> {
    let requests = samples.iter().filter(|sample| sample.name == "istio_requests_total");
    let labels = |sample: &Sample| {
        sample
            .labels
            .iter()
            .filter(|(name, _)| *name != "reporter")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    requests.map(labels).collect()
}

#[test]
fn a_request_counts_once_on_each_side_with_the_same_labels_in_every_language() {
    let mut names: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for language in LANGUAGES {
        let directory = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port().unwrap(), free_port().unwrap());
        let own = directory.path().join("server.yaml");
        let text = format!(
            "version: 1\n{}listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]\ntelemetry: {{ admin: {{ address: \"127.0.0.1:{admin}\" }} }}\n",
            identity(directory.path(), "server")
        );
        std::fs::write(&own, text).unwrap();
        let program = server(language).unwrap();
        let mut command = Command::new(&program.command[0]);
        command.args(&program.command[1..]).arg(&own).envs(program.environment.iter().cloned());
        let _process = Process::start(&mut command).unwrap();
        wait_for_port(port).unwrap();
        wait_for_port(admin).unwrap();
        let config = directory.path().join("client.yaml");
        let text = format!(
            "version: 1\n{}defaults: {{ connect_timeout: 20s }}\nclusters: [{{ name: server, service: {{ namespace: shop }}, tls: {{ server_ids: [\"spiffe://shop.example/ns/shop/sa/server\"] }}, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]\nroutes: [{{ hosts: [server], rules: [{{ backends: [{{ cluster: server }}] }}] }}]\n",
            identity(directory.path(), "client")
        );
        std::fs::write(&config, text).unwrap();
        for (before, caller) in LANGUAGES.into_iter().enumerate() {
            let source = call_once(caller, &config);
            assert_eq!(metrics::sum(&source, "istio_requests_total", [("reporter", "source")]), 1.0, "{caller}");
            assert_eq!(metrics::sum(&source, "istio_requests_total", []), 1.0, "{caller}");
            let wanted = before as f64 + 1.0;
            let count = |page: &[Sample]| metrics::sum(page, "istio_requests_total", [("reporter", "destination")]);
            wait_until("the request to be counted", || count(&page(admin)) >= wanted).unwrap();
            let destination = page(admin);
            assert_eq!(metrics::sum(&destination, "istio_requests_total", []), wanted, "{caller} to {language}");
            let without_policy = |labels: BTreeSet<Vec<(String, String)>>| -> BTreeSet<Vec<(String, String)>> {
                // Istio's source cannot know the policy of the connection as the destination sees it.
                let keep = |labels: Vec<(String, String)>| {
                    labels.into_iter().filter(|(name, _)| name != "connection_security_policy").collect()
                };
                labels.into_iter().map(keep).collect()
            };
            assert_eq!(
                without_policy(request_labels(&source)),
                without_policy(request_labels(&destination)),
                "{caller} to {language}"
            );
            names.insert(format!("source {caller}"), metrics::label_names(&source, "istio_"));
            names.insert(format!("destination {language}"), metrics::label_names(&destination, "istio_"));
        }
    }
    let (first, reference) = names.first_key_value().unwrap();
    assert!(reference["istio_requests_total"].len() == 25, "{reference:?}");
    assert!(reference.len() >= 8, "{reference:?}");
    for (other, labels) in &names {
        assert_eq!(labels, reference, "{other} against {first}");
    }
}

#[test]
fn labels_may_hold_what_separates_them() {
    let samples = metrics::parse("# HELP a b\na{x=\"1,\\\"}=\",y=\"2\"} 3\nb 0.5\n");
    assert_eq!(samples.len(), 2);
    assert!(samples[0].has([("x", "1,\"}="), ("y", "2")]));
    assert_eq!((samples[0].value, samples[1].value), (3.0, 0.5));
    assert_eq!(metrics::sum(&samples, "a", [("y", "2")]), 3.0);
}
