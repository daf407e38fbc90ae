//! End users over the inbound side: hostile tokens, what the application sees, rules about claims, keys that change.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tokens;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use mesh_core::error::BoxError;
use mesh_core::time::ManualClock;
use mesh_core::{Body, EndUser, Mesh};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};

use tokens::hostile::{PARTNER, SHOP, World, claims, with};
use tokens::{Signer, set};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What came back: the status, the challenge, and what the application saw, if it was asked.
struct Answer {
    status: u16,
    challenge: Option<String>,
    seen: Option<Value>,
}

/// The application tells what it saw.
async fn tell(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let user = request.extensions().get::<EndUser>();
    let headers: Vec<_> =
        request.headers().iter().map(|(name, value)| json!([name.as_str(), value.to_str().unwrap()])).collect();
    let seen = json!({
        "claims": user.map(EndUser::claims_json),
        "issuer": user.map(EndUser::issuer),
        "uri": request.uri().to_string(),
        "headers": headers,
    });
    Ok(Response::new(Body::from(seen.to_string())))
}

async fn ask(mesh: &Mesh, target: &str, headers: &[(&'static str, String)]) -> Answer {
    let mut request = Request::get(format!("http://shop{target}")).body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let service = mesh.server_layer("in").unwrap().layer(tower::service_fn(tell));
    let (head, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect_up_to(1 << 20).await.unwrap();
    let header = |headers: &HeaderMap| headers.get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    Answer {
        status: head.status.as_u16(),
        challenge: header(&head.headers),
        seen: (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap()),
    }
}

fn bearer(token: String) -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {token}"))]
}

async fn status(mesh: &Mesh, token: &str) -> u16 {
    ask(mesh, "/", &bearer(token.to_owned())).await.status
}

fn inline(keys: &str) -> String {
    format!("{{inline: '{keys}'}}")
}

/// The shop's issuer, and the partner's if `world` is given.
fn document(jwks: &str, extra: &str, further: &str) -> String {
    format!(
        "listeners: [{{name: in}}]
policy:
  end_users:
    - {{name: shop, issuer: \"{SHOP}\", audiences: [shop], jwks: {jwks}{extra}}}
{further}"
    )
}

fn mesh(text: &str) -> Mesh {
    Mesh::from_yaml(text, "server.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < end, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hostile_token_never_reaches_the_application_and_leaves_no_trace_but_a_reason() {
    let world = World::new();
    let partner = format!(
        "    - {{name: partner, issuer: \"{PARTNER}\", jwks: {}, from_headers: [{{name: x-partner-token}}], from_cookies: [partner]}}\n",
        inline(&world.partner_keys())
    );
    let mesh = mesh(&document(&inline(&world.shop_keys()), "", &partner));
    let mut refused = 0;
    for case in world.cases(now()) {
        let answer = ask(&mesh, "/", &case.headers).await;
        let seen = answer.seen.map(|seen| seen["claims"].as_str().map(str::to_owned));
        match case.expected {
            Ok(claims) => assert_eq!((answer.status, seen), (200, Some(claims)), "{}", case.name),
            Err(_) => {
                refused += 1;
                assert_eq!((answer.status, seen), (401, None), "{}", case.name);
                assert_eq!(answer.challenge.as_deref(), Some("Bearer error=\"invalid_token\""), "{}", case.name);
            }
        }
    }
    let text = mesh.metrics_text();
    let counted = |line: &str| text.contains(line);
    assert!(
        counted(&format!("libmesh_access_decisions_total{{listener=\"in\",outcome=\"unauthenticated\"}} {refused}")),
        "{text}"
    );
    for line in [
        "libmesh_end_user_tokens_total{issuer=\"shop\",listener=\"in\",outcome=\"expired\"} 2",
        "libmesh_end_user_tokens_total{issuer=\"unknown\",listener=\"in\",outcome=\"several_tokens\"} 5",
        "libmesh_end_user_tokens_total{issuer=\"partner\",listener=\"in\",outcome=\"verified\"} 2",
    ] {
        assert!(counted(line), "{line}\n{text}");
    }
    assert!(!text.contains("evil") && !text.contains("alice") && !text.contains("eyJ"), "{text}");
}

#[tokio::test]
async fn the_application_sees_the_user_and_not_the_token_and_nobody_writes_the_users_headers() {
    let world = World::new();
    let extra = ", from_headers: [{name: authorization, prefix: \"Bearer \"}], from_params: [token], \
                 claim_to_headers: [{header: x-user, claim: sub}, {header: x-role, claim: \"[realm][role]\"}]";
    let shop = mesh(&document(&inline(&world.shop_keys()), extra, ""));
    let token = world.ed.token("EdDSA", &with(&claims(now()), "realm", json!({"role": "buyer"})));
    let forged = ("x-user", "root".to_owned());
    let both = [forged.clone(), bearer(token.clone())[0].clone()];
    let seen = ask(&shop, "/a?x=1", &both).await.seen.unwrap();
    assert_eq!((seen["issuer"].as_str(), seen["uri"].as_str()), (Some("shop"), Some("http://shop/a?x=1")));
    let headers = seen["headers"].to_string();
    assert!(headers.contains(r#"["x-user","alice"]"#) && headers.contains(r#"["x-role","buyer"]"#), "{headers}");
    assert!(!headers.contains("authorization") && !headers.contains("root"), "{headers}");

    let seen = ask(&shop, &format!("/a?x=1&token={token}&y"), &[]).await.seen.unwrap();
    assert_eq!((seen["issuer"].as_str(), seen["uri"].as_str()), (Some("shop"), Some("http://shop/a?x=1&y")));
    let seen = ask(&shop, &format!("/a?token={token}"), &[]).await.seen.unwrap();
    assert_eq!(seen["uri"], "http://shop/a");

    let cookies = mesh(&document(&inline(&world.shop_keys()), ", from_cookies: [at, __Host-at]", ""));
    let [of_page, of_user] = ["theme=dark".to_owned(), format!("__Host-at={token}; lang=en")];
    let seen = ask(&cookies, "/", &[("cookie", of_page), ("cookie", of_user)]).await.seen.unwrap();
    let headers = seen["headers"].to_string();
    assert_eq!(seen["issuer"].as_str(), Some("shop"));
    assert!(
        headers.contains(r#"["cookie","theme=dark"],["cookie","lang=en"]"#) && !headers.contains("eyJ"),
        "{headers}"
    );
    assert_eq!(ask(&cookies, "/", &[("cookie", format!("at={token}; at=x"))]).await.status, 401);

    let seen = ask(&shop, "/", &[forged]).await.seen.unwrap();
    assert!(seen["claims"].is_null() && !seen["headers"].to_string().contains("root"), "{seen}");

    let forwarding = mesh(&document(&inline(&world.shop_keys()), ", forward_original_token: true", ""));
    let seen = ask(&forwarding, "/", &bearer(token)).await.seen.unwrap();
    assert!(seen["headers"].to_string().contains("authorization"), "{seen}");
}

#[tokio::test]
async fn two_issuers_may_share_a_place_however_it_is_written() {
    let world = World::new();
    let partner = format!(
        "    - {{name: partner, issuer: \"{PARTNER}\", jwks: {}, from_headers: [{{name: Authorization, prefix: \"bearer \"}}]}}\n",
        inline(&world.partner_keys())
    );
    let mesh = mesh(&document(&inline(&world.shop_keys()), "", &partner));
    let of_partner = with(&claims(now()), "iss", PARTNER.into());
    assert_eq!(status(&mesh, &world.ed.token("EdDSA", &claims(now()))).await, 200);
    assert_eq!(status(&mesh, &world.partner.token("ES256", &of_partner)).await, 200);
    assert_eq!(status(&mesh, &world.ed.token("EdDSA", &of_partner)).await, 401, "each with its own keys");
}

#[tokio::test]
async fn a_rate_limit_counts_by_user() {
    let world = World::new();
    let limit = "  rate_limits: [{name: each, by: [request.auth.principal, \"claim:role\"], max_tokens: 1, fill_interval: 1h}]\n";
    let mesh = mesh(&document(&inline(&world.shop_keys()), "", limit));
    let token = |claim: &str, value: &str| world.ed.token("EdDSA", &with(&claims(now()), claim, value.into()));
    for (token, expected) in [
        (token("sub", "alice"), 200),
        (token("jti", "another token of hers"), 429),
        (token("sub", "bob"), 200),
        (token("role", "seller"), 200),
        (token("role", "buyer"), 429),
    ] {
        assert_eq!(status(&mesh, &token).await, expected);
    }
}

#[tokio::test]
async fn istios_policies_read_claims_and_a_token_may_be_required() {
    let world = World::new();
    let policies = "  authorization:
    policies:
      - metadata: {name: buyers, namespace: unknown}
        spec:
          rules:
            - to: [{operation: {paths: [/open]}}]
            - from: [{source: {requestPrincipals: [\"https://login.shop.example/*\"]}}]
              to: [{operation: {paths: [/mine]}}]
            - when: [{key: \"request.auth.claims[role]\", values: [seller]}]
";
    let mesh_ = mesh(&document(&inline(&world.shop_keys()), "", policies));
    let buyer = bearer(world.ed.token("EdDSA", &claims(now())));
    let seller = bearer(world.ed.token("EdDSA", &with(&claims(now()), "role", json!(["x", "seller"]))));
    let expired = bearer(world.ed.token("EdDSA", &with(&claims(now()), "exp", 1.into())));
    for (path, headers, expected) in [
        ("/open", &[][..], 200),
        ("/mine", &[], 403),
        ("/other", &[], 403),
        ("/open", &buyer, 200),
        ("/mine", &buyer, 200),
        ("/other", &buyer, 403),
        ("/other", &seller, 200),
        // Who brings a token that is no good is not let in as if he brought none.
        ("/open", &expired, 401),
    ] {
        assert_eq!(ask(&mesh_, path, headers).await.status, expected, "{path} {}", headers.len());
    }
    let required = mesh(&document(&inline(&world.shop_keys()), ", required: true", ""));
    let answer = ask(&required, "/", &[]).await;
    assert_eq!((answer.status, answer.challenge.as_deref()), (401, Some("Bearer")));
    assert_eq!(ask(&required, "/", &buyer).await.status, 200);
    let mut grpc =
        Request::post("http://shop/a.B/C").header("content-type", "application/grpc").body(Body::empty()).unwrap();
    grpc.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
    let service = required.server_layer("in").unwrap().layer(tower::service_fn(tell));
    let answer = service.oneshot(grpc).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].to_str().unwrap()), (200, "16"));
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn keys_in_a_file_follow_it_and_a_bad_file_leaves_the_last_good_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let (old, new) = (Signer::new("Ed25519", "old"), Signer::new("Ed25519", "new"));
    write(&path, &set(&[&old]));
    let text = document("{file: keys.json}", "", "");
    let mesh = Mesh::from_yaml(&text, directory.path().join("server.yaml").to_str().unwrap()).unwrap();
    let (by_old, by_new) = (old.token("EdDSA", &claims(now())), new.token("EdDSA", &claims(now())));
    assert_eq!((status(&mesh, &by_old).await, status(&mesh, &by_new).await), (200, 401));
    write(&path, "{\"keys\": []}");
    eventually("the bad file to be counted", async || {
        mesh.metrics_text().contains("libmesh_jwks_loads_total{issuer=\"shop\",outcome=\"failed\"} 1")
    })
    .await;
    assert_eq!(status(&mesh, &by_old).await, 200, "the last good keys stay");
    // Another document with the same file: keys are carried over, whatever the file holds.
    mesh.reload(&format!("{text}telemetry: {{tracing: {{sample_percent: 1}}}}\n"), "server.yaml").unwrap();
    assert_eq!(status(&mesh, &by_old).await, 200);
    write(&path, &set(&[&new]));
    eventually("the new keys", async || status(&mesh, &by_new).await == 200).await;
    assert_eq!(status(&mesh, &by_old).await, 401, "a token that was verified ends with its key");
    write(&path, "{}");
    let refused = Mesh::from_yaml(&text, directory.path().join("server.yaml").to_str().unwrap()).err().unwrap();
    assert!(refused.to_string().contains("policy.end_users[0].jwks: file:"), "{refused}");
}

/// A service that tells keys: what it answers, and how often it was asked.
struct KeyServer {
    address: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    _mesh: Mesh,
}

async fn key_server(status: u16, keys: &str) -> KeyServer {
    let mesh = mesh("listeners: [{name: keys, address: \"127.0.0.1:0\"}]");
    let (answer, asked) = (Arc::new(Mutex::new((status, keys.to_owned()))), Arc::new(AtomicUsize::new(0)));
    let told = (Arc::clone(&answer), Arc::clone(&asked));
    let serve = tower::service_fn(move |request: Request<Body>| {
        let (answer, asked) = told.clone();
        async move {
            assert_eq!(request.uri().path(), "/keys");
            asked.fetch_add(1, Ordering::SeqCst);
            let (status, text) = answer.lock().unwrap().clone();
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status.try_into()?;
            Ok::<_, BoxError>(response)
        }
    });
    let address = mesh.listen("keys", serve).await.unwrap().local_addr().to_string();
    KeyServer { address, answer, asked, _mesh: mesh }
}

fn remote(server: &KeyServer, extra: &str) -> String {
    let clusters = format!(
        "clusters: [{{name: login, endpoints: [{{address: \"{}\"}}], circuit_breaker: {{consecutive_failures: 0}}}}]\ndefaults: {{retry: {{attempts: 0}}}}\n",
        server.address
    );
    clusters + &document(&format!("{{cluster: login, path: /keys{extra}}}"), "", "")
}

#[tokio::test]
async fn keys_of_a_service_are_asked_for_again_and_the_last_good_ones_stay() {
    let (old, new) = (Signer::new("Ed25519", "old"), Signer::new("Ed25519", "new"));
    let server = key_server(500, "").await;
    let clock = ManualClock::new();
    let mesh = Mesh::builder()
        .clock(Arc::new(clock.clone()))
        .from_yaml(&remote(&server, ", interval: 10m"), "server.yaml")
        .unwrap();
    let (by_old, by_new) = (old.token("EdDSA", &claims(now())), new.token("EdDSA", &claims(now())));
    assert_eq!(status(&mesh, &by_old).await, 401, "nobody is let in before the keys are here");
    assert!(mesh.metrics_text().contains("issuer=\"shop\",listener=\"in\",outcome=\"no_keys\"} 1"));
    mesh.start().unwrap();
    let failed = |n: usize| format!("libmesh_jwks_loads_total{{issuer=\"shop\",outcome=\"failed\"}} {n}");
    eventually("the first failure", async || mesh.metrics_text().contains(&failed(1))).await;
    assert_eq!(status(&mesh, &by_old).await, 401);
    *server.answer.lock().unwrap() = (200, set(&[&old]));
    clock.advance(Duration::from_secs(1));
    eventually("the keys", async || status(&mesh, &by_old).await == 200).await;

    // A token names a new key: asked once, early, however many such tokens come.
    *server.answer.lock().unwrap() = (200, set(&[&old, &new]));
    let before = server.asked.load(Ordering::SeqCst);
    assert_eq!(status(&mesh, &by_new).await, 401);
    clock.advance(Duration::from_secs(30));
    eventually("the new keys", async || status(&mesh, &by_new).await == 200).await;
    let unknown = Signer::new("Ed25519", "unknown").token("EdDSA", &claims(now()));
    for _ in 0..100 {
        assert_eq!(status(&mesh, &unknown).await, 401);
    }
    clock.advance(Duration::from_secs(30));
    eventually("one more question", async || server.asked.load(Ordering::SeqCst) == before + 2).await;

    // It answers nonsense at the next turn: what was good stays.
    *server.answer.lock().unwrap() = (200, "<html>".to_owned());
    let late_by = AtomicUsize::new(61);
    // Its turn is counted from when the answer before was read, which may be after the first of these minutes.
    eventually("the second failure", async || {
        if !mesh.metrics_text().contains(&failed(2)) {
            clock.advance(Duration::from_secs(60));
            late_by.fetch_add(60, Ordering::SeqCst);
        }
        mesh.metrics_text().contains(&failed(2))
    })
    .await;
    let late = old.token("EdDSA", &claims(now() + late_by.into_inner() as u64));
    assert_eq!(status(&mesh, &late).await, 200);
    assert_eq!(mesh.status()["end_users"]["shop"]["keys"], 2);
}

/// Says yes to whatever a check asks, and how often it was asked.
async fn policy_server() -> (Mesh, String, Arc<AtomicUsize>) {
    let mesh = mesh("listeners: [{name: opa, address: \"127.0.0.1:0\"}]");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let allow = tower::service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            // CheckResponse { status: { code: 0 } }, and the trailer that says it was no failure.
            let frames = [Frame::data(vec![0, 0, 0, 0, 2, 0x0a, 0].into()), Frame::trailers(trailers())];
            let body = Body::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, BoxError>))));
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", "application/grpc".parse()?);
            Ok::<_, BoxError>(response)
        }
    });
    let address = mesh.listen("opa", allow).await.unwrap().local_addr().to_string();
    (mesh, address, asked)
}

fn trailers() -> HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())].into_iter().collect()
}

#[tokio::test]
async fn an_answer_about_a_user_is_nobody_elses_and_ends_with_his_token() {
    let world = World::new();
    let (_opa, address, asked) = policy_server().await;
    let clock = ManualClock::new();
    let text = format!(
        "clusters: [{{name: opa, protocol: http2, endpoints: [{{address: \"{address}\"}}]}}]\n{}",
        document(
            &inline(&world.shop_keys()),
            "",
            "  checks: [{name: opa, cluster: opa, timeout: 10s, cache: {key: [method], ttl: 1h}}]\n"
        )
    );
    let mesh = Mesh::builder().clock(Arc::new(clock.clone())).from_yaml(&text, "server.yaml").unwrap();
    let alice = world.ed.token("EdDSA", &claims(now()));
    let again = world.ed.token("EdDSA", &with(&claims(now()), "jti", "2".into()));
    let bob = world.ed.token("EdDSA", &with(&claims(now()), "sub", "bob".into()));
    for (token, questions, about) in [
        (Some(&alice), 1, "she is asked about"),
        (Some(&alice), 1, "an answer is there"),
        (Some(&again), 1, "another token of hers"),
        (Some(&bob), 2, "somebody else"),
        (None, 3, "nobody"),
        (None, 3, "nobody, again"),
    ] {
        let headers: Vec<_> = token.map(|token| bearer(token.clone())[0].clone()).into_iter().collect();
        assert_eq!(ask(&mesh, "/", &headers).await.status, 200, "{about}");
        assert_eq!(asked.load(Ordering::SeqCst), questions, "{about}");
    }
    // The token has ended. Its minute of slack is the issuer's clock's; the answer has none.
    clock.advance(Duration::from_secs(605));
    assert_eq!(status(&mesh, &alice).await, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "an answer outlived the token");
    assert_eq!(ask(&mesh, "/", &[]).await.status, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "without a token it lasts its hour");
    clock.advance(Duration::from_secs(60));
    assert_eq!(status(&mesh, &alice).await, 401);
}

#[tokio::test]
async fn a_document_that_names_the_same_service_keeps_its_keys() {
    let key = Signer::new("Ed25519", "a");
    let server = key_server(200, &set(&[&key])).await;
    let text = remote(&server, "");
    let mesh = mesh(&text);
    let token = key.token("EdDSA", &claims(now()));
    eventually("the keys", async || status(&mesh, &token).await == 200).await;
    *server.answer.lock().unwrap() = (500, String::new());
    mesh.reload(&format!("{text}telemetry: {{tracing: {{sample_percent: 1}}}}\n"), "server.yaml").unwrap();
    assert_eq!(status(&mesh, &token).await, 200);
    mesh.reload(&text.replace("[shop]", "[other]"), "server.yaml").unwrap();
    assert_eq!(status(&mesh, &token).await, 401, "other terms hold at once");
    mesh.reload(&text.replace("path: /keys", "path: /keys?other"), "server.yaml").unwrap();
    assert_eq!(status(&mesh, &token).await, 401, "other keys are other keys");
}
