//! Local rate limits over real sockets: who shares tokens, what a refusal looks like, what a reload keeps.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};

/// A service behind `rate_limits`, asked through its server layer.
async fn ask(mesh: &Mesh, path: &str, client: Option<&str>) -> (u16, HeaderMap) {
    use tower::{Layer, ServiceExt};
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let service = mesh.server_layer("in").unwrap().layer(answer);
    let mut request = Request::get(format!("http://shop{path}")).body(Body::empty()).unwrap();
    if let Some(client) = client {
        request.headers_mut().insert("client", client.parse().unwrap());
    }
    let response = service.oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

fn document(limits: &str) -> String {
    format!("listeners: [{{name: in}}]\npolicy: {{rate_limits: [{limits}]}}\n")
}

fn mesh(limits: &str) -> Mesh {
    Mesh::from_yaml(&document(limits), "limits.yaml").unwrap()
}

/// Intervals of an hour: no token comes back while a test runs.
#[tokio::test]
async fn requests_pass_while_there_are_tokens_and_are_told_when_to_come_back() {
    for (extra, expected) in [
        ("", [200, 200, 200, 429, 429]),
        (", status: 503", [200, 200, 200, 503, 503]),
        (", enforce_percent: 0", [200, 200, 200, 200, 200]),
        (", response_headers: {x-local-rate-limit: \"true\"}", [200, 200, 200, 429, 429]),
    ] {
        let mesh = mesh(&format!("{{name: all, max_tokens: 3, fill_interval: 1h{extra}}}"));
        let mut statuses = Vec::new();
        for _ in 0..5 {
            let (status, headers) = ask(&mesh, "/", None).await;
            statuses.push(status);
            if status != 200 {
                let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((3000..=3600).contains(&wait), "{wait}");
                assert_eq!(headers.contains_key("x-local-rate-limit"), extra.contains("x-local"));
            }
        }
        assert_eq!(statuses, expected, "{extra}");
        let outcome = if extra.contains("enforce") { "passed" } else { "refused" };
        let line = format!("libmesh_rate_limited_total{{limit=\"all\",listener=\"in\",outcome=\"{outcome}\"}} 2");
        assert!(mesh.metrics_text().contains(&line), "{}", mesh.metrics_text());
    }
    let refused = Mesh::from_yaml(&document("{name: a, max_tokens: 1, status: 200}"), "limits.yaml").err().unwrap();
    assert!(refused.to_string().contains("policy.rate_limits[0].status"), "{refused}");
}

/// Envoy's question of one default and one special bucket, asked as two limits; every one that matches counts.
#[tokio::test]
async fn o43_a_request_needs_a_token_of_every_limit_that_matches_it() {
    let special = "{name: a, match: {headers: [{name: client, exact: a}]}, max_tokens: 2, fill_interval: 1h}";
    let all = "{name: all, max_tokens: 3, fill_interval: 1h}";
    let others = "{name: rest, match: {headers: [{name: client, exact: b}]}, max_tokens: 3, fill_interval: 1h}";
    for (limits, clients, expected) in [
        (format!("{special}, {all}"), "aaaa", vec![200, 200, 429, 429]),
        (format!("{special}, {all}"), "aabbb", vec![200, 200, 200, 429, 429]),
        // The third is refused by its own limit, and takes the last token of the other all the same.
        (format!("{special}, {all}"), "aaabb", vec![200, 200, 429, 429, 429]),
        (format!("{special}, {all}"), "bbbb", vec![200, 200, 200, 429]),
        (format!("{special}, {others}"), "aabbbb", vec![200, 200, 200, 200, 200, 429]),
    ] {
        let mesh = mesh(&limits);
        let mut statuses = Vec::new();
        for client in clients.chars() {
            statuses.push(ask(&mesh, "/", Some(&client.to_string())).await.0);
        }
        assert_eq!(statuses, expected, "{clients} under {limits}");
    }
}

#[tokio::test]
async fn each_value_has_its_own_tokens_and_a_reload_keeps_what_is_left() {
    let limit = "{name: each, by: [\"header:client\", path], max_tokens: 1, fill_interval: 1h}";
    let mesh = mesh(limit);
    for (path, client, expected) in [
        ("/", Some("a"), 200),
        ("/", Some("a"), 429),
        ("/", Some("b"), 200),
        ("/x", Some("a"), 200),
        ("/", None, 200),
        ("/", None, 429),
        ("/", Some(""), 200),
    ] {
        assert_eq!(ask(&mesh, path, client).await.0, expected, "{path} {client:?}");
    }
    mesh.reload(&document(&limit.replace("1h", "1h, status: 430")), "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", Some("a")).await.0, 430, "the tokens stay spent");
    mesh.reload(&document(&limit.replace("max_tokens: 1", "max_tokens: 2")), "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", Some("a")).await.0, 200, "other numbers, other buckets");
}

/// Whoever gets `//login` may read it as `/login`: it is counted as both.
#[tokio::test]
async fn no_spelling_of_a_path_dodges_the_limit_that_counts_it() {
    let mesh = mesh("{name: logins, match: {path: {exact: /login}}, max_tokens: 1, fill_interval: 1h}");
    assert_eq!(ask(&mesh, "/login", None).await.0, 200);
    for path in ["/login", "//login", "/x/..%2flogin", "/login;v=1", "/%6cogin"] {
        assert_eq!(ask(&mesh, path, None).await.0, 429, "{path}");
    }
    for path in ["/logins", "/x/login", "//x"] {
        assert_eq!(ask(&mesh, path, None).await.0, 200, "{path}");
    }
}

/// The path that a request is counted by is one, too: no spelling has tokens of its own.
#[tokio::test]
async fn no_spelling_of_a_path_has_a_bucket_of_its_own() {
    for by in ["path", "\"prefix(path, 1)\"", "\"path_template(path, /{page})\"", "\"lower(path)\""] {
        let mesh = mesh(&format!("{{name: pages, by: [{by}], max_tokens: 1, fill_interval: 1h}}"));
        assert_eq!(ask(&mesh, "/login", None).await.0, 200);
        for path in ["//login", "/login;v=1", "/login;v=2", "/x/..%2flogin", "/%6cogin", "/..;/login", "/%5clogin"] {
            assert_eq!(ask(&mesh, path, None).await.0, 429, "{path} by {by}");
        }
    }
    let mesh = mesh("{name: pages, by: [path], max_tokens: 1, fill_interval: 1h}");
    // The first to come may be spelled oddly; its tokens are those of the path.
    for (path, expected) in [("//login", 200), ("/login", 429), ("/logins", 200), ("/a%20b", 200), ("/a%20b", 429)] {
        assert_eq!(ask(&mesh, path, None).await.0, expected, "{path}");
    }
}

/// Whoever says that the application reads paths as they are handed on, is taken at his word.
#[tokio::test]
async fn paths_judged_as_handed_on_are_counted_as_handed_on() {
    let limits = document("{name: pages, by: [path], max_tokens: 1, fill_interval: 1h}");
    let text = limits.replace("{name: in}", "{name: in, judged_paths: as_handed_on}");
    let mesh = Mesh::from_yaml(&text, "limits.yaml").unwrap();
    for (path, expected) in [("/login", 200), ("//login", 200), ("//login", 429), ("/login", 429)] {
        assert_eq!(ask(&mesh, path, None).await.0, expected, "{path}");
    }
}
