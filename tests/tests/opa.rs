//! Open Policy Agent and its Envoy plugin decide for a listener, by `peers/opa/policy.rego`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use mesh_tests::load;
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::{self, tests_directory};

const PAGE: &str = "page";
const STRANGER: &str = "stranger";

struct Opa {
    process: Process,
    port: u16,
}

impl Opa {
    fn start() -> Self {
        let port = free_port().unwrap();
        let mut command = Command::new(toolchain::opa().unwrap());
        // Its HTTP API is of no use here; nor is a look at the newest version, which would leave this machine.
        command.args(["run", "--server", "--addr", "127.0.0.1:0", "--skip-version-check", "--log-level", "error"]);
        for setting in [&format!("addr=127.0.0.1:{port}"), "path=mesh/decision"] {
            command.arg("--set").arg(format!("plugins.envoy_ext_authz_grpc.{setting}"));
        }
        command.arg(tests_directory().join("peers/opa/policy.rego"));
        let process = Process::start(&mut command).unwrap();
        wait_for_port(port).unwrap();
        Self { process, port }
    }
}

fn identity(ca: &Path, name: &str) -> String {
    let directory = ca.display();
    format!(
        "identity: {{ spiffe_id: \"spiffe://shop.test/ns/shop/sa/{name}\", dev_ca: {{ directory: \"{directory}\" }} }}"
    )
}

/// A listener that asks OPA, and callers of it by mutual TLS.
struct World {
    ca: tempfile::TempDir,
    server: Mesh,
    address: String,
}

impl World {
    /// A listener that asks these.
    async fn start(opas: &[&Opa], check: &str) -> Self {
        let endpoints: Vec<_> = opas.iter().map(|opa| format!("{{ address: \"127.0.0.1:{}\" }}", opa.port)).collect();
        let cluster =
            format!("name: opa, protocol: http2, tls: {{ mode: plaintext }}, endpoints: [{}]", endpoints.join(", "));
        Self::answered(&format!("[{{ {cluster} }}]"), &format!("cluster: opa, {check}")).await
    }

    /// A listener that asks nobody: the same policy decides in its process.
    async fn deciding(check: &str) -> Self {
        let policy = std::fs::read_to_string(tests_directory().join("peers/opa/policy.rego")).unwrap();
        let policy = serde_json::to_string(&policy).unwrap();
        Self::answered("[]", &format!("rego: {{ policy: {policy}, decision: data.mesh.decision }}, {check}")).await
    }

    async fn answered(clusters: &str, check: &str) -> Self {
        let ca = tempfile::tempdir().unwrap();
        let text = format!(
            "version: 1
{defaults}
{identity}
listeners: [{{ name: in, address: \"127.0.0.1:0\" }}]
clusters: {clusters}
policy: {{ checks: [{{ name: opa, {check} }}] }}
",
            defaults = load::PATIENT,
            identity = identity(ca.path(), "books"),
        );
        let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
        let address = server.listen("in", tower::service_fn(mirror)).await.unwrap().local_addr().to_string();
        Self { ca, server, address }
    }

    fn caller(&self, name: &str) -> Mesh {
        let text = format!(
            "version: 1
{defaults}
{identity}
clusters: [{{ name: books, tls: {{ server_ids: [\"spiffe://shop.test/ns/shop/sa/books\"] }}, endpoints: [{{ address: \"{address}\" }}] }}]
routes: [{{ hosts: [books], rules: [{{ backends: [{{ cluster: books }}], retry: {{ attempts: 0 }} }}] }}]
",
            defaults = load::PATIENT,
            identity = identity(self.ca.path(), name),
            address = self.address
        );
        Mesh::from_yaml(&text, "client.yaml").unwrap()
    }

    /// Questions that OPA was asked, and requests that a kept answer decided.
    fn counts(&self) -> (u64, u64) {
        (self.counter("calls"), self.counter("hits"))
    }

    fn counter(&self, name: &str) -> u64 {
        self.server.status()["checks"]["opa"][name].as_u64().unwrap()
    }
}

/// Answers with the target and what there is of the headers that the policy is about; to a POST, with its body.
async fn mirror(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    if request.method() == http::Method::POST {
        return Ok(Response::new(request.into_body()));
    }
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let values = |name: &str| {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().join("+")
    };
    let seen = format!("{target} role={} groups={} token={}", values("x-role"), values("x-groups"), values("x-token"));
    Ok(Response::new(Body::from(seen)))
}

async fn send(caller: &Mesh, request: Request<Body>) -> (u16, HeaderMap, String) {
    let (head, body) = caller.client().call(request).await.unwrap().into_parts();
    let body = body.collect_up_to(1 << 20).await.unwrap();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(caller: &Mesh, target: &str, user: Option<&str>) -> (u16, HeaderMap, String) {
    let mut request =
        Request::get(format!("http://books{target}")).header("x-token", "secret").header("x-role", "mine");
    if let Some(user) = user {
        request = request.header("x-user", user);
    }
    send(caller, request.body(Body::empty()).unwrap()).await
}

const PATIENT: &str = "timeout: 20s, status_on_error: 418";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_header_changes_and_replies_are_those_of_the_policy() {
    let opa = Opa::start();
    let world = World::start(&[&opa], PATIENT).await;
    let (page, stranger) = (world.caller(PAGE), world.caller(STRANGER));
    let (status, headers, seen) = get(&page, "/books/7?debug=1&q=2", Some("ada")).await;
    assert_eq!((status, seen.as_str()), (200, "/books/7?q=2&role=admin role=admin groups=ops+dev token="));
    assert_eq!(headers["x-decided-by"], "opa");
    let (status, headers, body) = get(&page, "/books/7", Some("eve")).await;
    assert_eq!(
        (status, body.as_str(), &headers["x-reason"]),
        (423, "eve may not see /books/7", &"secret".parse().unwrap())
    );
    assert_eq!(get(&page, "/books/7", Some("bob")).await.0, 403, "nothing says yes");
    assert_eq!(get(&page, "/peer", None).await.0, 200, "a bare boolean about who TLS proved the caller to be");
    assert_eq!(get(&stranger, "/peer", None).await.0, 403);
    assert_eq!(world.counter("fail_closed"), 0);
    for path in ["/confused", "/unheard"] {
        assert_eq!(get(&page, path, None).await.0, 418, "{path}: a decision that is none is a failure");
    }
    assert_eq!(world.counter("fail_closed"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_used_again_as_the_policy_hints() {
    let opa = Opa::start();
    let world = World::start(&[&opa], PATIENT).await;
    let (page, stranger) = (world.caller(PAGE), world.caller(STRANGER));
    for _ in 0..5 {
        assert_eq!(get(&page, "/books/1", Some("ada")).await.2, "/books/1?role=admin role=admin groups=ops+dev token=");
    }
    assert_eq!(
        world.counts(),
        (1, 4),
        "path and user were read, and both are the same; changes come from the cache, too"
    );
    assert_eq!(get(&page, "/books/2", Some("ada")).await.0, 200);
    assert_eq!(world.counts(), (2, 4), "another path");
    assert_eq!(get(&stranger, "/books/1", Some("ada")).await.0, 200);
    assert_eq!(world.counts(), (3, 4), "another caller, though the policy did not say that it matters");
    for _ in 0..3 {
        assert_eq!(get(&page, "/books/1", Some("eve")).await.0, 423);
    }
    assert_eq!(world.counts(), (4, 6), "refusals are kept as they are hinted");
    for _ in 0..6 {
        assert_eq!(get(&page, "/open/a", None).await.0, 200);
    }
    assert_eq!(world.counts(), (6, 10), "each answer serves two more requests");
    assert_eq!(get(&page, "/open/a", Some("bob")).await.0, 403, "what was said of nobody is not said of bob");
    assert_eq!(world.counts(), (7, 10));
    for _ in 0..2 {
        assert_eq!(get(&page, "/books/1", Some("bob")).await.0, 403);
    }
    assert_eq!(world.counts(), (9, 10), "an answer without hints is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_reads_the_body_and_the_application_gets_it_whole() {
    let opa = Opa::start();
    let world = World::start(&[&opa], &format!("{PATIENT}, with_request_body: {{ max_request_bytes: 64 }}")).await;
    let page = world.caller(PAGE);
    let long = format!("{{\"amount\": 1, \"note\": \"{}\"}}", "x".repeat(64));
    for (body, expected) in
        [("{\"amount\": 7}", 200), ("{\"amount\": 700}", 403), (long.as_str(), 413), ("{\"amount\": 8}", 200)]
    {
        let request = Request::post("http://books/orders").header("content-type", "application/json");
        let (status, _, answer) = send(&page, request.body(Body::from(body.to_owned())).unwrap()).await;
        assert_eq!(status, expected, "{body}");
        let said = if expected == 403 { "too much" } else { body };
        assert!(expected == 413 || answer == said, "{body}: {answer}");
    }
    assert_eq!(world.counts(), (3, 0), "nobody is asked about what is too long, and nothing is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_policy_decides_the_same_in_this_process_and_keeps_as_much() {
    let opa = Opa::start();
    let settings = format!("{PATIENT}, with_request_body: {{ max_request_bytes: 64 }}");
    let worlds = [World::start(&[&opa], &settings).await, World::deciding(&settings).await];
    let mut seen = Vec::new();
    for world in &worlds {
        let mut answers = Vec::new();
        for name in [PAGE, STRANGER] {
            let caller = world.caller(name);
            for path in [
                "/books/7?debug=1&q=2",
                "/books/8",
                "/open/a",
                "/peer",
                "/confused",
                "/unheard",
                "/elsewhere",
                "/books/%37",
                "/",
            ] {
                // Failures in a row open the breaker of a server; here there is none.
                let users: &[_] = match path {
                    "/confused" | "/unheard" => &[None],
                    _ => &[None, Some("ada"), Some("eve"), Some("bob"), Some("ada")],
                };
                for &user in users {
                    let (status, headers, body) = get(&caller, path, user).await;
                    let headers = ["x-decided-by", "x-reason"].map(|name| headers.get(name).cloned());
                    answers.push((name, path, user, status, headers, body));
                }
            }
            for body in ["{\"amount\": 7}", "{\"amount\": 700}", "{\"amount\": \"many\"}", "no json", "{"] {
                let request = Request::post("http://books/orders").header("content-type", "application/json");
                let (status, _, answer) = send(&caller, request.body(Body::from(body)).unwrap()).await;
                // Why it cannot be read, each says in words of its own.
                let answer = answer.split_inclusive("request_parse_error:").next().unwrap_or_default().to_owned();
                answers.push((name, "/orders", Some(body), status, [None, None], answer));
            }
        }
        seen.push((answers, world.counts(), world.counter("fail_closed")));
    }
    let [here, there] = [seen.remove(1), seen.remove(0)];
    assert!(there.0.iter().any(|answer| answer.3 == 200) && there.0.iter().any(|answer| answer.3 == 423));
    for (here, there) in here.0.iter().zip(&there.0) {
        assert_eq!(here, there);
    }
    assert_eq!((here.1, here.2), (there.1, there.2), "questions, hits and failures");
}

/// Requests before a server dies, and again so many after it.
const REQUESTS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_servers_is_killed_under_load_and_no_request_fails() {
    let (mut doomed, second, third) = (Opa::start(), Opa::start(), Opa::start());
    let world = World::start(&[&doomed, &second, &third], "timeout: 20s").await;
    let page = Arc::new(world.caller(PAGE));
    let (next, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (page, next, failed) = (Arc::clone(&page), Arc::clone(&next), Arc::clone(&failed));
            let last = Arc::clone(&last);
            tokio::spawn(async move {
                let mut sent = 0_usize;
                loop {
                    let nth = next.fetch_add(1, Ordering::SeqCst);
                    if nth > last.load(Ordering::SeqCst) {
                        return sent;
                    }
                    sent += 1;
                    // No two questions are the same.
                    let is_answered = get(&page, &format!("/books/{nth}"), Some("ada")).await.0 == 200;
                    failed.fetch_add(usize::from(!is_answered), Ordering::SeqCst);
                }
            })
        })
        .collect();
    let reached = Arc::clone(&next);
    tokio::task::spawn_blocking(move || wait_until("a load", || reached.load(Ordering::SeqCst) > REQUESTS))
        .await
        .unwrap()
        .unwrap();
    // The callers go on until it is dead, however long this thread is kept from its turn.
    doomed.process.kill();
    last.store(next.load(Ordering::SeqCst) + REQUESTS, Ordering::SeqCst);
    let mut sent = 0_usize;
    for caller in callers {
        sent += caller.await.unwrap();
    }
    assert!(sent > 2 * REQUESTS, "{sent} requests");
    assert_eq!((failed.load(Ordering::SeqCst), world.counter("fail_closed")), (0, 0));
    assert_eq!(world.counts(), (sent as u64, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_the_timeout_and_then_the_failure_mode_decides() {
    let opa = Opa::start();
    opa.process.freeze();
    for (failure, expected) in [("closed", 418), ("open", 200)] {
        let settings = format!("timeout: 300ms, status_on_error: 418, failure: {failure}");
        let world = World::start(&[&opa], &settings).await;
        assert_eq!(get(&world.caller(PAGE), "/books/1", Some("eve")).await.0, expected);
        assert_eq!(world.counter("fail_open") + world.counter("fail_closed"), 1);
    }
    opa.process.thaw();
    let world = World::start(&[&opa], PATIENT).await;
    assert_eq!(get(&world.caller(PAGE), "/books/1", Some("eve")).await.0, 423, "it answers again");
}
