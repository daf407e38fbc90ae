//! Rules that are tried out, rolled out by share and taken back; and what holds where nobody was let in by name.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt};

/// Beyond these lies less than half a millionth of the binomial distribution of 10 000 draws at 5 %, on either side.
const ABOUT_FIVE_PERCENT: std::ops::RangeInclusive<usize> = 397..=610;
const REQUESTS: usize = 10_000;

/// A document by the share that its rule is enforced for.
type Written<'a> = &'a dyn Fn(&str) -> String;

/// How many of so many requests are refused.
async fn refused(mesh: &Mesh, requests: usize) -> usize {
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let service = mesh.server_layer("in").unwrap().layer(answer);
    let mut refused = 0;
    for _ in 0..requests {
        let request = Request::get("/orders").header("host", "a").body(Body::empty()).unwrap();
        match service.clone().oneshot(request).await.unwrap().status().as_u16() {
            200 => {}
            403 => refused += 1,
            other => panic!("{other}"),
        }
    }
    refused
}

fn counted(mesh: &Mesh, rule: &str, outcome: &str) -> usize {
    let page = mesh.metrics_text();
    let of_it = |line: &&str| {
        line.starts_with("libmesh_access_planned_total{")
            && [format!("rule=\"{rule}\""), format!("outcome=\"{outcome}\"")].iter().all(|label| line.contains(label))
    };
    page.lines().find(of_it).map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_deny_for_five_percent_refuses_about_one_request_in_twenty_and_is_taken_back_at_once() {
    let native = |percent: &str| {
        format!(
            "listeners: [{{name: in}}]\npolicy: {{access: {{rules: [{{name: no-orders, action: deny, paths: [/orders], enforce_percent: {percent}}}]}}}}"
        )
    };
    let istio = |percent: &str| {
        format!(
            "listeners: [{{name: in}}]\nnode: {{namespace: shop}}\npolicy: {{authorization: {{policies: [{{metadata: {{name: no-orders, annotations: {{libmesh/enforce-percent: \"{percent}\"}}}}, spec: {{action: DENY, rules: [{{}}]}}}}]}}}}"
        )
    };
    let kinds: [(&str, Written<'_>); 2] = [("no-orders", &native), ("shop/no-orders", &istio)];
    for (rule, document) in kinds {
        let mesh = Mesh::builder().seed(7).from_yaml(&document("5"), "mesh.yaml").unwrap();
        let found = refused(&mesh, REQUESTS).await;
        assert!(ABOUT_FIVE_PERCENT.contains(&found), "{rule}: {found}");
        assert_eq!(counted(&mesh, rule, "would_deny"), REQUESTS - found, "who was spared is counted");
        for (percent, expected) in [("100", 100), ("0", 0)] {
            mesh.reload(&document(percent), "mesh.yaml").unwrap();
            assert_eq!(refused(&mesh, 100).await, expected, "{rule} {percent}");
        }
        assert_eq!(counted(&mesh, rule, "would_deny"), REQUESTS - found + 100);
    }
}

#[tokio::test]
async fn an_allow_rule_in_dry_run_refuses_nobody_and_counts_who_would_be() {
    let document = |dry_run: bool| {
        format!(
            "listeners: [{{name: in}}]\npolicy: {{access: {{rules: [{{name: books, action: allow, paths: [/books], dry_run: {dry_run}}}]}}}}"
        )
    };
    let mesh = Mesh::from_yaml(&document(true), "mesh.yaml").unwrap();
    assert_eq!(refused(&mesh, 10).await, 0);
    assert_eq!(counted(&mesh, "no_allow_rule", "would_deny"), 10);
    mesh.reload(&document(false), "mesh.yaml").unwrap();
    assert_eq!(refused(&mesh, 10).await, 10);
    assert_eq!(counted(&mesh, "no_allow_rule", "would_deny"), 10);
}

#[tokio::test]
async fn the_access_log_names_the_rule_of_every_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let document = |rules: &str| {
        format!(
            "listeners: [{{name: in}}]\npolicy: {{access: {{rules: [{rules}]}}}}\ntelemetry: {{access_log: {{path: \"{}\"}}}}",
            log.display()
        )
    };
    let mesh = Mesh::from_yaml(&document(""), "mesh.yaml").unwrap();
    for rules in [
        "",
        "{name: any, action: allow}",
        "{name: none, action: deny}",
        "{name: soon, action: deny, dry_run: true}, {name: any, action: allow}",
        "{name: late, action: allow, dry_run: true}, {name: books, action: allow, paths: [/books]}",
    ] {
        mesh.reload(&document(rules), "mesh.yaml").unwrap();
        refused(&mesh, 1).await;
    }
    // The last of a log writes what is queued.
    drop(mesh);
    let end = Instant::now() + Duration::from_secs(30);
    let mut lines = String::new();
    while lines.matches('\n').count() < 5 {
        assert!(Instant::now() < end, "waited 30 s for five lines: {lines}");
        lines = std::fs::read_to_string(&log).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let named: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| {
            ["access_rule", "would_deny", "would_allow"].map(|key| line[key].as_str().unwrap_or("-").to_owned())
        })
        .collect();
    assert_eq!(
        named,
        [
            ["default", "-", "-"],
            ["any", "-", "-"],
            ["none", "-", "-"],
            ["any", "soon", "-"],
            ["no_allow_rule", "-", "late"],
        ]
    );
}

#[test]
fn an_annotation_without_a_meaning_is_refused_at_its_place() {
    for (annotations, message) in [
        ("{istio.io/dry-run: \"maybe\"}", "neither \"true\" nor \"false\""),
        ("{libmesh/enforce-percent: \"101\"}", "no number from 0 to 100"),
        ("{libmesh/enforce-percent: \"NaN\"}", "no number from 0 to 100"),
        ("{libmesh/enforce-percent: \"5\", istio.io/dry-run: \"true\"}", "in dry run nothing is enforced"),
    ] {
        let text = format!(
            "policy:\n  authorization:\n    policies:\n      - metadata:\n          name: p\n          annotations: {annotations}\n"
        );
        let refused = Mesh::from_yaml(&text, "mesh.yaml").err().unwrap().to_string();
        assert!(refused.contains("mesh.yaml:6:"), "{refused}");
        assert!(refused.contains("policy.authorization.policies[0].metadata.annotations"), "{refused}");
        assert!(refused.contains(message), "{refused}");
    }
}

const MESH: &str = "default: deny";
const LISTENER: &str = "access_default: deny";

/// A document that is closed for the mesh or for its listeners, with these rules and policies.
fn closed(by: &str, ports: (u16, u16), rules: &str, policies: &str) -> String {
    let (mesh, listener) = if by == MESH { (MESH, "tls: plaintext") } else { ("default: allow", LISTENER) };
    format!(
        "node: {{namespace: shop}}\nlisteners: [{{name: in, {listener}}}, {{name: web, address: \"127.0.0.1:{}\", {listener}}}, {{name: bare, protocol: tcp, address: \"127.0.0.1:{}\", {listener}}}]\n\
         policy: {{access: {{{mesh}, rules: [{rules}]}}, authorization: {{policies: [{policies}]}}}}\n",
        ports.0, ports.1
    )
}

/// What a stranger who speaks is told on that port: an echo, or nothing.
async fn bare(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
}

#[tokio::test]
async fn with_deny_by_default_nobody_passes_who_was_not_let_in_by_name() {
    for by in [MESH, LISTENER] {
        let held: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(held);
        let ports = (ports[0], ports[1]);
        let mesh = Mesh::from_yaml(&closed(by, ports, "", ""), "mesh.yaml").unwrap();
        let connections = mesh.listen_tcp("bare").unwrap();
        tokio::spawn(async move {
            while let Ok(mut stream) = connections.accept().await {
                let mut ping = [0; 4];
                let _ = stream.read_exact(&mut ping).await;
                let _ = stream.write_all(&ping).await;
            }
        });
        let let_in = "{metadata: {name: p}, spec: {rules: [{}]}}";
        let elsewhere = "{metadata: {name: p, namespace: other}, spec: {rules: [{}]}}";
        let tried = "{metadata: {name: p, annotations: {istio.io/dry-run: \"true\"}}, spec: {rules: [{}]}}";
        let refusing = "{metadata: {name: p}, spec: {action: DENY, rules: [{to: [{operation: {paths: [/none]}}]}]}}";
        for (rules, policies, http, tcp) in [
            ("", "", false, false),
            ("{name: any, action: allow}", "", true, true),
            ("{name: any, action: allow, dry_run: true}", "", false, false),
            ("{name: get, action: allow, methods: [GET]}", "", true, false),
            ("{name: bare-only, action: allow, listeners: [bare]}", "", false, true),
            ("{name: d, action: deny, paths: [/none]}", "", false, false),
            ("", let_in, true, true),
            ("", elsewhere, false, false),
            ("", tried, false, false),
            ("", refusing, false, false),
        ] {
            mesh.reload(&closed(by, ports, rules, policies), "mesh.yaml").unwrap();
            assert_eq!(refused(&mesh, 1).await == 0, http, "{by}: {rules} {policies}");
            assert_eq!(bare(ports.1).await, tcp, "{by}, a connection: {rules} {policies}");
        }
        // A document that forgets the listener leaves it the policy it had.
        mesh.reload("node: {namespace: shop}", "mesh.yaml").unwrap();
        assert!(!bare(ports.1).await, "{by}: no policy must never mean no policy");
    }
}

#[tokio::test]
async fn a_condition_decides_and_one_that_cannot_be_evaluated_refuses_and_is_counted() {
    let document = |condition: &str| {
        format!(
            "listeners: [{{name: in}}]\npolicy: {{access: {{rules: [{{name: c, action: deny, condition: \"{condition}\"}}]}}}}"
        )
    };
    let mesh = Mesh::from_yaml(&document("request.path == '/orders' && request.host == 'a'"), "mesh.yaml").unwrap();
    assert_eq!(refused(&mesh, 1).await, 1);
    mesh.reload(&document("request.path == '/books'"), "mesh.yaml").unwrap();
    assert_eq!(refused(&mesh, 1).await, 0);
    mesh.reload(&document("request.headers['x-none'] == 'a'"), "mesh.yaml").unwrap();
    assert_eq!(refused(&mesh, 3).await, 3);
    let failures = "libmesh_access_condition_failures_total{listener=\"in\",rule=\"c\"} 3";
    assert!(mesh.metrics_text().contains(failures), "{}", mesh.metrics_text());
}

#[test]
fn a_condition_with_a_mistake_is_refused_at_its_place() {
    for (condition, message) in [
        ("request.pth == '/a'", "`request.pth` is not known"),
        ("request.path ==", "no CEL"),
        ("size(request.path)", "a condition is true or false"),
    ] {
        // Without a listener, too, as `mesh check` may see it.
        let text = format!(
            "policy:\n  access:\n    rules:\n      - name: c\n        action: deny\n        condition: {condition:?}\n"
        );
        let refused = Mesh::check(&text, "mesh.yaml").unwrap_err().to_string();
        assert!(refused.contains("mesh.yaml:6:"), "{refused}");
        assert!(refused.contains("policy.access.rules[0].condition"), "{refused}");
        assert!(refused.contains(message), "{refused}");
    }
}
