use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::telemetry::peer::trusted;
use crate::telemetry::{DestinationService, Messages, Peer, Protocol, Reporter, Security};

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/istio_metrics.json"));
/// Queries need a Prometheus.
const OUT_OF_SCOPE: [&str; 1] = ["promql"];

fn cases(kind: &str, count: usize) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let all = vectors["cases"].as_array().unwrap();
    let known = ["request", "histogram", "label_set", "gauge", "cardinality", "rule", "tcp", "tcp_timeline"];
    for case in all {
        let kind = case["kind"].as_str().unwrap();
        assert!(known.contains(&kind) || OUT_OF_SCOPE.contains(&kind), "{kind} is neither tested nor left out");
    }
    let cases: Vec<Value> = all.iter().filter(|case| case["kind"] == kind).cloned().collect();
    assert_eq!(cases.len(), count);
    cases
}

/// One line of a page, read back.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    fn has(&self, name: &str, value: &str) -> bool {
        self.labels.get(name).is_some_and(|v| v == value)
    }
}

/// Reads a page by the rules of the format, written apart from the code that makes one.
fn parse(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#')).map(parse_line).collect()
}

fn parse_line(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"").unwrap();
            let (mut value, mut chars) = (String::new(), after.char_indices());
            rest = loop {
                match chars.next().unwrap() {
                    (at, '"') => break &after[at + 1..],
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("no such escape: {c}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
        }
        rest = &rest[1..];
    }
    Sample { name: name.to_owned(), labels, value: rest.strip_prefix(' ').unwrap().parse().unwrap() }
}

fn peer(json: &Value) -> Arc<Peer> {
    let mut peer = Peer::default();
    for (key, value) in json.as_object().into_iter().flatten() {
        let value = Arc::from(value.as_str().unwrap());
        match key.as_str() {
            "workload" => peer.workload = value,
            "namespace" => peer.namespace = value,
            "principal" => peer.principal = value,
            "app" => peer.app = value,
            "version" => peer.version = value,
            "canonical_service" => peer.canonical_service = value,
            "canonical_revision" => peer.canonical_revision = value,
            "cluster" => peer.cluster = value,
            other => panic!("unknown peer fact {other}"),
        }
    }
    Arc::new(peer)
}

fn facts(json: &Value) -> RequestFacts {
    let text = |value: &Value| Arc::<str>::from(value.as_str().unwrap());
    let service = &json["destination"];
    RequestFacts {
        reporter: if json["reporter_side"] == "client" { Reporter::Source } else { Reporter::Destination },
        source: peer(&json["source_peer"]),
        destination: peer(&json["destination_peer"]),
        service: Arc::new(DestinationService {
            host: text(&service["service"]),
            name: text(&service["service_name"]),
            namespace: text(&service["service_namespace"]),
        }),
        protocol: if json["protocol"] == "grpc" { Protocol::Grpc } else { Protocol::Http },
        response_code: u16::try_from(json["response_code"].as_u64().unwrap()).unwrap(),
        grpc_status: json["grpc_status"].as_str().map(|status| status.parse().unwrap()),
        flags: json["response_flags"].as_str().unwrap().to_owned().into(),
        security: if json["mutual_tls"] == true { Security::MutualTls } else { Security::None },
        duration: Duration::from_millis(json["duration_ms"].as_u64().unwrap()),
        request_bytes: json["request_wire_bytes"].as_u64().unwrap(),
        response_bytes: json["response_wire_bytes"].as_u64().unwrap(),
        messages: json.get("messages").map(|messages| Messages {
            request: messages["request"].as_u64().unwrap(),
            response: messages["response"].as_u64().unwrap(),
        }),
    }
}

#[test]
fn a_request_reads_as_istio_would_write_it() {
    for case in cases("request", 56) {
        let (id, expected) = (&case["id"], &case["expected"]);
        let registry = Registry::default();
        registry.record_request(&facts(&case["facts"]));
        let samples = parse(&registry.render());
        let labels: BTreeMap<String, String> = serde_json::from_value(expected["labels"].clone()).unwrap();
        let metrics = expected["metrics"].as_array().unwrap();
        for metric in metrics {
            let name = metric["name"].as_str().unwrap();
            let sample = |suffix: &str| {
                let name = format!("{name}{suffix}");
                let found: Vec<_> = samples.iter().filter(|sample| sample.name == name).collect();
                assert_eq!(found.len(), 1, "{id}: {name}");
                assert_eq!(found[0].labels, labels, "{id}: {name}");
                found[0].value
            };
            match metric["type"].as_str().unwrap() {
                "counter" => assert_eq!(metric["value"].as_f64(), Some(sample("")), "{id}: {name}"),
                "histogram" => {
                    assert_eq!(metric["observed"].as_f64(), Some(sample("_sum")), "{id}: {name}");
                    assert_eq!(sample("_count"), 1.0, "{id}: {name}");
                }
                other => panic!("{id}: {other}"),
            }
        }
        let names: std::collections::BTreeSet<_> = metrics.iter().map(|m| m["name"].as_str().unwrap()).collect();
        for sample in samples.iter().filter(|sample| sample.name != metric::BUILD.name) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.name.strip_suffix(end));
            assert!(names.contains(base.unwrap_or(&sample.name)), "{id}: {} was not expected", sample.name);
        }
    }
}

#[test]
fn requests_and_connections_carry_exactly_istios_labels() {
    let [http, tcp] = &cases("label_set", 2)[..] else { unreachable!() };
    let mut ours = label::REQUEST.to_vec();
    ours.sort_unstable();
    assert_eq!(http["expected"]["labels"], serde_json::json!(ours));
    let mut ours = label::CONNECTION.to_vec();
    ours.sort_unstable();
    assert_eq!(tcp["expected"]["labels"], serde_json::json!(ours));
}

#[test]
fn the_build_says_who_we_are() {
    let case = &cases("gauge", 1)[0]["expected"];
    let samples = parse(&Registry::default().render());
    let build = samples.iter().find(|sample| case["name"] == *sample.name).unwrap();
    assert!(build.has("component", case["labels"]["component"].as_str().unwrap()));
    assert!(build.has("tag", env!("CARGO_PKG_VERSION")) && build.labels.len() == 2);
    assert_eq!(case["value"].as_f64(), Some(build.value));
}

#[test]
fn many_clients_of_one_workload_make_no_new_series() {
    let case = &cases("cardinality", 1)[0];
    let registry = Registry::default();
    let base = facts(&cases("request", 56)[0]["facts"]);
    registry.record_request(&base);
    let before = parse(&registry.render()).len();
    for client in 0..10_000u64 {
        // An address or a path has no place to go: only numbers differ, and peers made anew.
        let source = Arc::new(Peer::clone(&base.source));
        registry.record_request(&RequestFacts { source, request_bytes: client, ..base.clone() });
    }
    let growth = parse(&registry.render()).len() - before;
    assert_eq!(case["expected"]["series_growth"], growth);
}

#[test]
fn the_certificates_namespace_wins_over_the_metadata() {
    let case = &cases("rule", 1)[0];
    let principal = format!("spiffe://cluster.local/ns/{}/sa/x", case["facts"]["san_namespace"].as_str().unwrap());
    let claimed = Peer {
        namespace: case["facts"]["metadata_namespace"].as_str().unwrap().into(),
        workload: "claimed".into(),
        ..Peer::default()
    };
    let peer = trusted(Some(claimed), Some(&principal));
    assert_eq!(case["expected"]["source_workload_namespace"], *peer.namespace);
    assert_eq!(case["expected"]["metadata_used"], &*peer.workload == "claimed");
}

#[test]
fn what_is_over_the_cap_is_folded_and_counted() {
    let registry = Registry::with_series_limit(2);
    let base = facts(&cases("request", 56)[0]["facts"]);
    let codes = [200, 201, 202, 204, 503, 200, 0];
    codes.iter().for_each(|code| registry.record_request(&RequestFacts { response_code: *code, ..base.clone() }));
    let samples = parse(&registry.render());
    let requests: BTreeMap<(&str, &str), f64> = samples
        .iter()
        .filter(|sample| sample.name == metric::REQUESTS.name)
        .map(|s| ((&*s.labels["response_code"], &*s.labels["source_workload"]), s.value))
        .collect();
    let (own, overflow) = ("productpage-v1", value::OVERFLOW);
    let expected = [
        (("200", own), 2.0),
        (("201", own), 1.0),
        (("2xx", overflow), 2.0),
        (("5xx", overflow), 1.0),
        (("0", overflow), 1.0),
    ];
    assert_eq!(requests, BTreeMap::from(expected));
    let folded = samples.iter().find(|sample| sample.name == metric::METRICS_FOLDED.name).unwrap();
    assert!(folded.has("metric", metric::REQUESTS.name) && folded.value == 4.0);
    let series = registry.request_series(&RequestFacts { response_code: 201, ..base });
    assert_eq!(series.requests.value(), 1, "a known series is found though the metric is full");
}

#[test]
fn labels_over_the_cap_share_one_series() {
    const THING: Metric = Metric::new("thing_total", "Things.");
    let registry = Registry::with_series_limit(1);
    for name in ["a", "b", "c", "a"] {
        registry.counter(&THING, &[("name", name)]).inc();
    }
    let samples = parse(&registry.render());
    let value = |name: &str| samples.iter().find(|s| s.name == THING.name && s.has("name", name)).map(|s| s.value);
    assert_eq!((value("a"), value("overflow"), value("b")), (Some(2.0), Some(2.0), None));
    assert!(
        samples.iter().any(|s| s.name == metric::METRICS_FOLDED.name && s.has("metric", THING.name) && s.value == 2.0)
    );
}

#[test]
fn a_page_reads_as_it_should() {
    const DEPTH: Metric = Metric::new("b_depth", "Depth, in \\ and\nlines.");
    const SEEN: Metric = Metric::new("a_seen_total", "Seen.");
    const TOOK: Metric = Metric::new("c_took", "Took.");
    let registry = Registry::default();
    registry.gauge(&DEPTH, &[("z", "1"), ("a", "q\"\\\n")]).set(-1.5);
    registry.gauge(&DEPTH, &[("a", "p"), ("z", "1")]).add(2.0);
    registry.counter(&SEEN, &[]).add(3);
    registry.histogram(&TOOK, &[]).observe(2_000_000.0);
    registry.histogram(&TOOK, &[]).observe(0.25);
    let page = registry.render();
    let (start, buckets) = page.split_once("# HELP c_took").unwrap();
    let (ours, build) = start.split_once("# HELP istio_build").unwrap_or((start, ""));
    assert!(build.is_empty(), "families are in the order of their names");
    assert_eq!(
        ours,
        concat!(
            "# HELP a_seen_total Seen.\n# TYPE a_seen_total counter\na_seen_total 3\n",
            "# HELP b_depth Depth, in \\\\ and\\nlines.\n# TYPE b_depth gauge\n",
            "b_depth{a=\"p\",z=\"1\"} 2\nb_depth{a=\"q\\\"\\\\\\n\",z=\"1\"} -1.5\n",
        )
    );
    assert!(
        buckets
            .starts_with(" Took.\n# TYPE c_took histogram\nc_took_bucket{le=\"0.5\"} 1\nc_took_bucket{le=\"1\"} 1\n")
    );
    let end = concat!(
        "c_took_bucket{le=\"1800000\"} 1\nc_took_bucket{le=\"3600000\"} 2\nc_took_bucket{le=\"+Inf\"} 2\n",
        "c_took_sum 2000000.25\nc_took_count 2\n",
        "# HELP istio_build Component and version; always 1.\n# TYPE istio_build gauge\n",
        "istio_build{component=\"libmesh\",tag=\""
    );
    assert!(buckets.contains(end), "{buckets}");
    assert_eq!(page, registry.render());
}

#[test]
fn a_question_is_asked_at_each_page_until_its_thing_is_gone() {
    const OPEN: Metric = Metric::new("open", "Open.");
    const LOST: Metric = Metric::new("lost_total", "Lost.");
    let registry = Registry::default();
    let thing = Arc::new(AtomicU64::new(7));
    let weak = Arc::downgrade(&thing);
    registry.gauge_fn(&OPEN, &[], move || weak.upgrade().map(|thing| thing.load(Relaxed) as f64));
    registry.counter_fn(&LOST, &[], || Some(1));
    registry.counter_fn(&LOST, &[], || Some(2));
    assert!(registry.render().contains("\nopen 7\n"));
    assert!(registry.render().contains("\nlost_total 2\n"), "the later question replaces the earlier");
    drop(thing);
    assert!(!registry.render().contains("open"));
    registry.gauge_fn(&OPEN, &[], || Some(f64::INFINITY));
    assert!(registry.render().contains("\nopen +Inf\n"));
}

#[test]
fn a_removed_cluster_leaves_the_page() {
    let registry = Registry::default();
    let kept = registry.counter(&metric::RETRIES, &[(label::CLUSTER, "a")]);
    registry.counter(&metric::RETRIES, &[(label::CLUSTER, "b")]).inc();
    kept.inc();
    registry.forget(label::CLUSTER, "b");
    let page = registry.render();
    assert!(page.contains("{cluster=\"a\"} 1") && !page.contains("cluster=\"b\""));
}

#[test]
fn a_metric_asked_for_as_two_kinds_stays_what_it_was() {
    let registry = Registry::default();
    registry.counter(&metric::RETRIES, &[]).inc();
    registry.gauge(&metric::RETRIES, &[]).set(9.0);
    assert!(registry.render().contains("\nlibmesh_retries_total 1\n"));
}

#[test]
fn threads_that_meet_a_new_label_set_share_one_series() {
    let registry = Registry::default();
    let base = RequestFacts::new(Reporter::Source);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for code in 200..250 {
                    registry.record_request(&RequestFacts { response_code: code, ..base.clone() });
                }
            });
        }
    });
    let samples = parse(&registry.render());
    let requests: Vec<_> = samples.iter().filter(|sample| sample.name == metric::REQUESTS.name).collect();
    assert_eq!(requests.len(), 50);
    assert!(requests.iter().all(|sample| sample.value == 4.0));
}

proptest! {
    #[test]
    fn a_page_parses_back_to_what_was_recorded(
        values in proptest::collection::btree_map((any::<String>(), "\\PC{0,8}"), any::<u32>(), 0..20),
        level in any::<f64>(),
    ) {
        const SEEN: Metric = Metric::new("seen_total", "Seen.");
        const LEVEL: Metric = Metric::new("level", "Level.");
        let registry = Registry::default();
        registry.gauge(&LEVEL, &[]).set(level);
        for ((first, second), count) in &values {
            registry.counter(&SEEN, &[("first", first), ("second", second)]).add(u64::from(*count));
        }
        // Lines end at LF alone; the format knows no other line end.
        let page = registry.render();
        let samples: Vec<Sample> =
            page.split_terminator('\n').filter(|line| !line.starts_with('#')).map(parse_line).collect();
        let read: BTreeMap<(String, String), u32> = samples
            .iter()
            .filter(|sample| sample.name == SEEN.name)
            .map(|sample| ((sample.labels["first"].clone(), sample.labels["second"].clone()), sample.value as u32))
            .collect();
        prop_assert_eq!(read, values);
        let read = samples.iter().find(|sample| sample.name == LEVEL.name).unwrap().value;
        prop_assert!(read == level || (read.is_nan() && level.is_nan()));
    }
}
