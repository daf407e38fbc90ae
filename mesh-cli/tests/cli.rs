//! The `mesh` command, run as a user runs it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use mesh_core::Mesh;
use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = r#"version: 1
node: { service: productpage, namespace: default }
identity: { spiffe_id: "spiffe://cluster.local/ns/default/sa/productpage", dev_ca: { directory: ./ca, ttl: 12h } }
clusters:
  - name: details-a
    endpoints: [{ address: "127.0.1.11:9080", locality: { region: r1, zone: z1 } }]
    tls: { server_ids: ["spiffe://cluster.local/ns/default/sa/details"] }
  - name: details-b
    endpoints_file: b.yaml
    tls: { mode: plaintext }
    balancer: round_robin
routes:
  - name: details
    hosts: [details, "*.details.example"]
    rules:
      - name: testers
        match: [{ path: { prefix: /details }, headers: [{ name: end-user, exact: jason }] }]
        backends: [{ cluster: details-b }]
        rewrite: { host: details.b, prefix: /v2 }
        retry: { attempts: 0 }
      - name: split
        match: { methods: [GET, POST], query: [{ name: debug, present: false }] }
        backends: [{ cluster: details-a, weight: 90 }, { cluster: details-b, weight: 10 }]
        timeout: 3s
        attempt_timeout: 1s
"#;

/// A directory with the good configuration in `mesh.yaml`.
fn workplace() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.yaml"), GOOD).unwrap();
    fs::write(directory.path().join("b.yaml"), "- { address: \"127.0.2.11:9080\", weight: 3 }\n").unwrap();
    directory
}

fn mesh(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh")).args(arguments).current_dir(directory).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn assert_shows(output: &Output, wanted: &[&str]) {
    let text = stdout(output) + &String::from_utf8_lossy(&output.stderr);
    for line in wanted {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn check_says_ok_and_how_much_it_read() {
    let directory = workplace();
    let output = mesh(directory.path(), &["check", "mesh.yaml"]);
    assert_eq!(stdout(&output), "mesh.yaml: ok (2 clusters, 1 route, 0 listeners)\n");
    assert_eq!(output.status.code(), Some(0));
    assert!(!directory.path().join("ca").exists(), "a check must not create anything");
}

#[test]
fn check_shows_every_error_with_its_line_and_what_to_write_instead() {
    let directory = workplace();
    let bad = GOOD.replace("details-b, weight: 10", "details-b, wieght: 10").replace("timeout: 3s", "timeout: 3");
    fs::write(directory.path().join("bad.yaml"), &bad).unwrap();
    let output = mesh(directory.path(), &["check", "mesh.yaml", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let line = bad.lines().position(|line| line.contains("wieght")).unwrap() + 1;
    let column = bad.lines().nth(line - 1).unwrap().find("wieght").unwrap() + 1;
    let place = format!(" --> bad.yaml:{line}:{column}");
    assert_shows(
        &output,
        &[
            "mesh.yaml: ok",
            "error: unknown field `wieght`",
            &place,
            "^^^^^^\n",
            "= field: routes[0].rules[1].backends[1].wieght",
            "= help: did you mean `weight`?",
            "= field: routes[0].rules[1].timeout",
            "bad.yaml: refused, 2 errors",
        ],
    );
    assert!(!stdout(&output).contains('\x1b'), "no colour where no person reads");
}

#[test]
fn check_finds_what_only_compilation_can_see() {
    let directory = workplace();
    fs::remove_file(directory.path().join("b.yaml")).unwrap();
    let output = mesh(directory.path(), &["check", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_shows(&output, &["cannot read", "b.yaml", "= field: clusters[1]", "mesh.yaml:8:"]);
}

#[test]
fn check_of_a_file_that_is_not_there_is_an_error_and_not_a_crash() {
    let directory = workplace();
    let output = mesh(directory.path(), &["check", "gone.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_shows(&output, &["error: cannot read the file", "gone.yaml: refused, 1 error"]);
}

#[test]
fn check_speaks_json_to_machines() {
    let directory = workplace();
    fs::write(directory.path().join("bad.yaml"), "version: 1\nclusters: [{ name: a, endpoints: [], x: 1 }]\n").unwrap();
    let output = mesh(directory.path(), &["check", "--json", "mesh.yaml", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"][0]["accepted"], true);
    assert_eq!(report["files"][1]["accepted"], false);
    let found = &report["diagnostics"][0];
    assert_eq!(found["file"], "bad.yaml");
    assert_eq!(found["line"], 2);
    assert_eq!(found["path"], "clusters[0].x");
    assert_eq!(found["severity"], "error");
}

#[test]
fn the_schema_describes_every_section() {
    let output = mesh(Path::new("."), &["schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    for section in ["clusters", "routes", "listeners", "identity", "policy", "telemetry", "defaults", "node", "version"]
    {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn explain_says_which_rule_takes_a_request_and_what_happens_to_it() {
    let directory = workplace();
    let arguments = ["explain", "mesh.yaml", "GET", "http://details:9080/details/0?x=1", "-H", "end-user: jason"];
    let output = mesh(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(0));
    assert_shows(
        &output,
        &[
            "route details (hosts details, *.details.example)",
            "yes  testers  takes path under /details, header end-user = jason",
            "-    split    not tried: the first match wins",
            "retry     never",
            "rewrite   sent as GET http://details.b/v2/0?x=1",
            "backend   details-b: weight 1, 100.0 %",
            "round_robin, plaintext",
            "127.0.2.11:9080  weight 3",
        ],
    );
}

#[test]
fn explain_says_why_a_rule_does_not_take_a_request() {
    let directory = workplace();
    let output = mesh(directory.path(), &["explain", "mesh.yaml", "POST", "http://a.details.example/details/0"]);
    assert_eq!(output.status.code(), Some(0));
    assert_shows(
        &output,
        &[
            "no   testers  not met: header end-user",
            "yes  split",
            "timeout   3s for the whole request, 1s for each attempt",
            "up to 2 more on connect-failure, refused-stream, gateway-error",
            "POST only if the endpoint provably did not process it",
            "backend   details-a: weight 90, 90.0 %",
            "mutual TLS with spiffe://cluster.local/ns/default/sa/details",
            "127.0.1.11:9080  weight 1  r1/z1",
            "backend   details-b: weight 10, 10.0 %",
        ],
    );
    assert!(!directory.path().join("ca").exists(), "explaining must not create anything");
}

#[test]
fn explain_fails_when_no_rule_takes_the_request() {
    let directory = workplace();
    for (method, url, wanted) in [
        ("GET", "http://nobody/", "no route is for host `nobody`"),
        ("GET", "http://nobody/", "the hosts are details, *.details.example"),
        ("PUT", "http://details/", "no   split    not met: method"),
        ("PUT", "http://details/", "no rule of this route matches"),
    ] {
        let output = mesh(directory.path(), &["explain", "mesh.yaml", method, url]);
        assert_eq!(output.status.code(), Some(1), "{method} {url}");
        assert_shows(&output, &[wanted]);
    }
}

#[test]
fn explain_refuses_a_configuration_that_a_process_would_refuse() {
    let directory = workplace();
    fs::write(
        directory.path().join("bad.yaml"),
        "version: 1\nroutes: [{ hosts: [a], rules: [{ backends: [{ cluster: b }] }] }]\n",
    )
    .unwrap();
    let output = mesh(directory.path(), &["explain", "bad.yaml", "GET", "http://a/"]);
    assert_eq!(output.status.code(), Some(1));
    assert_shows(&output, &["bad.yaml:2:", "unknown cluster", "mesh check bad.yaml"]);
}

#[test]
fn status_reads_a_running_process() {
    let directory = workplace();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config =
        format!("{GOOD}guards: [{{ name: inventory }}]\ntelemetry: {{ admin: {{ address: \"127.0.0.1:{port}\" }} }}\n");
    fs::write(directory.path().join("mesh.yaml"), config).unwrap();
    let process = Mesh::from_file(directory.path().join("mesh.yaml")).unwrap();
    process.start().unwrap();
    assert!(process.reload("version: 2\n", "bad.yaml").is_err());

    let address = format!("127.0.0.1:{port}");
    let output = mesh(directory.path(), &["status", &address]);
    assert_eq!(output.status.code(), Some(0));
    assert_shows(
        &output,
        &[
            &format!("{address}  ready, serving, 0 requests in flight"),
            "revision   1 of ",
            "(1 accepted, 1 refused)",
            "refused: bad.yaml:1:",
            "identity   spiffe://cluster.local/ns/default/sa/productpage, expires in 1",
            "listeners  none",
            "CLUSTER    ENDPOINT         HEALTH  EJECTIONS  IN FLIGHT",
            "details-a                   1/1                0/1024",
            "           127.0.1.11:9080  ok",
            "GUARD      BREAKER  IN FLIGHT  ATTEMPTS  RETRIES  BUDGET",
            "inventory  closed   0/1024     0         0        100",
        ],
    );
    let json = mesh(directory.path(), &["status", "--json", &address]);
    let status: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(status["revision"], 1);
    process.close(std::time::Duration::from_secs(2));
}

#[test]
fn explain_live_shows_why_a_finished_call_went_as_it_did() {
    let directory = workplace();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Bound and not listening: who connects is refused, and nobody else gets the port.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = dead.local_addr().unwrap().port();
    let config = format!(
        "version: 1\nclusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{nobody}\" }}] }}]\n\
         routes: [{{ hosts: [a], rules: [{{ name: all, backends: [{{ cluster: a }}] }}] }}]\n\
         telemetry: {{ admin: {{ address: \"127.0.0.1:{admin}\" }} }}\n"
    );
    let process = Mesh::from_yaml(&config, "mesh.yaml").unwrap();
    process.start().unwrap();
    let request =
        http::Request::get("http://a/x?secret").header("x-request-id", "the-one").body(mesh_core::Body::empty());
    let call = process.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { call.call(request.unwrap()).await }).unwrap_err();

    let address = format!("127.0.0.1:{admin}");
    let output = mesh(directory.path(), &["explain", "--live", "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_shows(&output, &["REQUEST ID", "the-one", "GET http://a/x ", "connect"]);
    let output = mesh(directory.path(), &["explain", "--live", "--admin", &address, "the-one"]);
    assert_eq!(output.status.code(), Some(0));
    let endpoint = format!("to 127.0.0.1:{nobody} at");
    assert_shows(
        &output,
        &[
            "rule              all",
            "cluster           a (drawn by weight 1 of 1)",
            "retry budget      100 before, 98 after",
            "attempt 1 first",
            &endpoint,
            "sent: never; then: retry after",
            "attempt 3 retry",
            "then: attempts_exhausted",
        ],
    );
    assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"));
    let output = mesh(directory.path(), &["explain", "--live", "--admin", &address, "another"]);
    assert_eq!(output.status.code(), Some(1));
    assert_shows(&output, &["has kept no call with the request id another"]);
    process.close(std::time::Duration::from_secs(2));
}

#[test]
fn status_of_a_process_that_is_not_there_fails_with_the_reason() {
    let output = mesh(Path::new("."), &["status", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_shows(&output, &["error: cannot read http://127.0.0.1:1/status", "refused"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script = format!("{} schema | head -n 1", env!("CARGO_BIN_EXE_mesh"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn check_warns_of_a_deny_that_another_spelling_may_dodge_and_takes_the_file() {
    let directory = workplace();
    let text = "listeners: [{ name: in, judged_paths: as_handed_on }]
policy:
  access:
    rules:
      - { name: no-admin, action: deny, paths: [\"/admin*\"] }
";
    fs::write(directory.path().join("open.yaml"), text).unwrap();
    let output = mesh(directory.path(), &["check", "open.yaml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_shows(
        &output,
        &[
            "warning: on the listener `in` another spelling may dodge it",
            "open.yaml:5:",
            "policy.access.rules[0].paths",
        ],
    );
}

#[test]
fn explain_shows_templates_sources_and_copies() {
    let directory = workplace();
    let text = "clusters: [{ name: a, endpoints: [{ address: \"127.0.2.11:80\" }] }]
routes:
  - hosts: [a]
    rules:
      - { match: { source: { namespaces: [web] } }, backends: [{ cluster: a }] }
      - match: { path: { template: \"/v1/{id}/{rest=**}\" } }
        rewrite: { template: \"/v2/{rest}/{id}\" }
        backends: [{ cluster: a }]
        mirror: [{ cluster: a, percent: 5 }]
";
    fs::write(directory.path().join("rules.yaml"), text).unwrap();
    let output = mesh(directory.path(), &["explain", "rules.yaml", "GET", "http://a/v1/7/x/y?q"]);
    assert_eq!(output.status.code(), Some(0));
    assert_shows(
        &output,
        &["not met: source", "fits /v1/{id}/{rest=**}", "sent as GET http://a/v2/x/y/7?q", "mirror    5 % to a"],
    );
}
