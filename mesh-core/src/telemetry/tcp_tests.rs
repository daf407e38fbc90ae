use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::error::ErrorKind;
use crate::telemetry::reporting::Telemetry;
use crate::telemetry::{AccessLog, Memory, Registry, Target, TcpRecord};
use crate::time::{Clock, SystemClock};

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/istio_metrics.json"));

/// Name, labels and value of every sample of the TCP metrics. No label of these tests holds a comma or a quote.
fn samples(registry: &Registry) -> Vec<(String, BTreeMap<String, String>, u64)> {
    let page = registry.render();
    let lines = page.lines().filter(|line| line.starts_with("istio_tcp_"));
    let parsed = lines.map(|line| {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.split_once("} ").unwrap();
        let pairs = labels.split(',').map(|pair| pair.split_once('=').unwrap());
        let labels = pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect();
        (name.to_owned(), labels, value.parse().unwrap())
    });
    parsed.collect()
}

fn peer(json: &Value) -> Arc<Peer> {
    let text = |name: &str| Arc::from(json[name].as_str().unwrap());
    Arc::new(Peer {
        workload: text("workload"),
        namespace: text("namespace"),
        principal: text("principal"),
        app: text("app"),
        version: text("version"),
        canonical_service: text("canonical_service"),
        canonical_revision: text("canonical_revision"),
        cluster: text("cluster"),
    })
}

fn begin(telemetry: &Arc<Telemetry>, reporter: Reporter) -> TcpRecord {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    TcpRecord::begin(telemetry, &clock, reporter)
}

fn silent() -> Arc<Telemetry> {
    Arc::new(Telemetry::new(Peer::default(), AccessLog::off(), true))
}

/// The record of a vector: the peers are those of the first case, whom a connection that failed never met.
fn record(telemetry: &Arc<Telemetry>, facts: &Value, base: &Value) -> TcpRecord {
    let is_client = facts["reporter_side"] == "client";
    let mut record = begin(telemetry, if is_client { Reporter::Source } else { Reporter::Destination });
    let of = |name: &str| Arc::from(base["destination"][name].as_str().unwrap());
    let (host, name, namespace) = (of("service"), of("service_name"), of("service_namespace"));
    record.facts.service = Arc::new(DestinationService { host, name, namespace });
    record.facts.source = peer(&base["source_peer"]);
    if facts["response_flags"] != "UF" {
        record.facts.destination = peer(&base["destination_peer"]);
    }
    record.facts.security = if facts["mutual_tls"] == true { Security::MutualTls } else { Security::None };
    record
}

#[test]
fn a_connection_reads_as_istio_would_write_it() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let base = &cases[0]["facts"];
    let tcp: Vec<_> = cases.iter().filter(|case| case["kind"] == "tcp").collect();
    assert_eq!(tcp.len(), 6);
    for case in tcp {
        let (id, facts, telemetry) = (&case["id"], &case["facts"], silent());
        let mut record = record(&telemetry, facts, base);
        let bytes = |name: &str| facts[name].as_u64().unwrap() as usize;
        match (facts["response_flags"].as_str().unwrap(), bytes("bytes_sent")) {
            ("UF", _) => record.failed(ErrorKind::Connect, String::new()),
            (_, 0) => record.failed(ErrorKind::Denied, String::new()),
            _ => record.opened(),
        }
        let (read, written) = match facts["reporter_side"].as_str().unwrap() {
            "client" => (bytes("bytes_sent"), bytes("bytes_received")),
            _ => (bytes("bytes_received"), bytes("bytes_sent")),
        };
        record.read(read);
        record.wrote(written);
        let open = (facts["phase"] == "periodic").then_some(record);
        let labels: BTreeMap<String, String> = serde_json::from_value(case["expected"]["labels"].clone()).unwrap();
        let samples = samples(&telemetry.registry);
        assert_eq!(samples.len(), 4, "{id}");
        for (name, actual, value) in samples {
            assert_eq!(actual, labels, "{id}: {name}");
            let metrics = case["expected"]["metrics"].as_array().unwrap();
            match metrics.iter().find(|metric| metric["name"] == *name) {
                Some(metric) => assert_eq!(metric["value"], value, "{id}: {name}"),
                // Counted when it was opened, which the case of its end does not repeat.
                None if name.ends_with("opened_total") => assert_eq!(value, 1, "{id}: {name}"),
                None => assert_eq!(value, 0, "{id}: {name}"),
            }
        }
        drop(open);
    }
}

#[test]
fn bytes_are_counted_once_while_the_connection_lives() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let case = vectors["cases"].as_array().unwrap().iter().find(|case| case["kind"] == "tcp_timeline").unwrap();
    let telemetry = silent();
    let mut record = begin(&telemetry, Reporter::Destination);
    let mut total = 0;
    for event in case["events"].as_array().unwrap() {
        if event["opened"] == true {
            record.opened();
            continue;
        }
        let now = event["total_sent"].as_u64().unwrap();
        record.wrote((now - total) as usize);
        total = now;
        let mut after = case["expected"]["counter_after"].as_array().unwrap().iter();
        let wanted = &after.find(|after| after["at_s"] == event["at_s"]).unwrap()["istio_tcp_sent_bytes_total"];
        let sent = samples(&telemetry.registry).into_iter().find(|(name, ..)| name == "istio_tcp_sent_bytes_total");
        assert_eq!(*wanted, sent.unwrap().2);
    }
    assert_eq!((record.bytes_written(), record.bytes_read()), (total, 0));
}

#[test]
fn a_connection_that_breaks_is_closed_under_its_flag_and_logged_once() {
    let memory = Memory::default();
    let log = AccessLog::to(Target::Memory(memory.clone())).unwrap();
    let telemetry = Arc::new(Telemetry::new(Peer::default(), log, true));
    for (reporter, kind) in [(Reporter::Source, ErrorKind::Reset), (Reporter::Destination, ErrorKind::Cancelled)] {
        let mut record = begin(&telemetry, reporter);
        record.opened();
        record.failed(kind, "reset by peer".to_owned());
        record.failed(ErrorKind::Draining, "later".to_owned());
    }
    drop(begin(&telemetry, Reporter::Source));
    telemetry.access_log.close();
    let lines = memory.lines();
    assert_eq!(lines.len(), 3);
    for (line, flag, detail) in
        [(&lines[0], "UR", "reset by peer"), (&lines[1], "DC", "reset by peer"), (&lines[2], "DC", "given up")]
    {
        assert!(line.contains(&format!("\"flags\":\"{flag}\"")) && line.contains(detail), "{line}");
        assert!(line.contains("\"protocol\":\"tcp\",\"method\":\"CONNECT\"") && !line.contains("\"path\""), "{line}");
    }
    let count = |metric: &str, flag: &str| -> u64 {
        let all = samples(&telemetry.registry).into_iter();
        all.filter(|(name, labels, _)| name == metric && labels["response_flags"] == flag)
            .map(|(.., value)| value)
            .sum()
    };
    let [opened, closed] = [metric::TCP_OPENED.name, metric::TCP_CLOSED.name];
    assert_eq!([count(opened, "-"), count(opened, "UR"), count(opened, "DC")], [2, 0, 1]);
    assert_eq!([count(closed, "-"), count(closed, "UR"), count(closed, "DC")], [0, 1, 2]);
}

#[test]
fn what_is_over_the_cap_is_folded_and_counted() {
    let registry = Registry::with_series_limit(1);
    for name in ["a", "b", "c", "a"] {
        let source = Arc::new(Peer { workload: name.into(), ..Peer::default() });
        registry.tcp_series(&TcpFacts { source, ..TcpFacts::new(Reporter::Source) }).opened.inc();
    }
    let opened: Vec<_> = samples(&registry).into_iter().filter(|(name, ..)| name == metric::TCP_OPENED.name).collect();
    let of = |name: &str| opened.iter().find(|(_, labels, _)| labels["source_workload"] == name).map(|found| found.2);
    assert_eq!((of("a"), of(value::OVERFLOW), of("b")), (Some(2), Some(2), None));
    let folded = format!("{}{{metric=\"{}\"}} 2", metric::METRICS_FOLDED.name, metric::TCP_OPENED.name);
    assert!(registry.render().contains(&folded));
}
