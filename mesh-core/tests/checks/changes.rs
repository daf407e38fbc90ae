//! What policies say of a request that the provider of a CUSTOM policy has changed.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, OkHttpResponse};
use tonic::Code;

use crate::World;
use crate::policy::{Policy, status};

/// `/as/<role>` is asked in this role, whatever the caller said; `/none` in none.
fn role_of(path: &str) -> Option<CheckResponse> {
    let mut ok = OkHttpResponse::default();
    if let Some(role) = path.strip_prefix("/as/") {
        ok.headers.push(HeaderValueOption {
            header: Some(HeaderValue { key: "x-role".into(), value: role.into(), ..HeaderValue::default() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        });
    } else if path == "/none" {
        ok.headers_to_remove.push("x-role".into());
    }
    Some(CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..status(Code::Ok) })
}

fn policies(verdict: &str) -> String {
    format!(
        "  authorization:
    policies:
    - {{ metadata: {{ name: ask }}, spec: {{ action: CUSTOM, provider: {{ name: opa }}, rules: [{{}}] }} }}
    - {{ metadata: {{ name: roles }}, spec: {{ action: {verdict}, rules: [{{ when: [{{ key: \"request.headers[x-role]\", values: [admin] }}] }}] }} }}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_and_deny_are_judged_of_the_request_as_its_provider_leaves_it() {
    let policy = Policy::start(|request| role_of(&request.path));
    for (verdict, path, sent, expected) in [
        // A role that the caller made up is no role.
        ("ALLOW", "/as/user", Some("admin"), 403),
        ("ALLOW", "/none", Some("admin"), 403),
        ("ALLOW", "/as/admin", None, 200),
        ("ALLOW", "/as/admin", Some("user"), 200),
        ("ALLOW", "/", Some("admin"), 200),
        ("ALLOW", "/", None, 403),
        ("DENY", "/as/admin", None, 403),
        ("DENY", "/as/user", Some("admin"), 200),
        ("DENY", "/none", Some("admin"), 200),
        ("DENY", "/", Some("admin"), 403),
        ("DENY", "/", None, 200),
    ] {
        let world = World::with("provider_only: true, failure: closed", &[policy.address], &policies(verdict)).await;
        let headers: Vec<_> = sent.map(|role| ("x-role", role)).into_iter().collect();
        assert_eq!(world.get(path, &headers).await.0, expected, "{verdict} {path} {sent:?}");
    }
}

/// A rule that keeps callers from saying what only a check may say would otherwise refuse everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_rules_speak_of_the_request_as_it_came() {
    let policy = Policy::start(|request| role_of(&request.path));
    let rules = "  access: { rules: [{ name: made-up, action: deny, headers: [{ name: x-role, present: true }] }] }\n";
    let more = policies("ALLOW") + rules;
    let world = World::with("provider_only: true, failure: closed", &[policy.address], &more).await;
    let before = policy.asked().len();
    assert_eq!(world.get("/as/admin", &[("x-role", "admin")]).await.0, 403);
    assert_eq!(policy.asked().len(), before, "what a rule refuses is asked of nobody");
    assert_eq!(world.get("/as/admin", &[]).await.0, 200);
    assert_eq!(world.get("/as/user", &[]).await.0, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_for_what_no_provider_changes_is_asked_of_nobody() {
    let policy = Policy::start(|request| role_of(&request.path));
    let by_path = policies("DENY").replace(
        "when: [{ key: \"request.headers[x-role]\", values: [admin] }]",
        "to: [{ operation: { paths: [/as/admin] } }]",
    );
    // A policy on headers beside it holds up nobody whom the one on paths refuses.
    let both =
        by_path.clone() + &policies("DENY").lines().skip(3).collect::<Vec<_>>().join("\n").replace("roles", "more");
    for policies in [by_path, both] {
        let world = World::with("provider_only: true, failure: closed", &[policy.address], &policies).await;
        let before = policy.asked().len();
        assert_eq!(world.get("/as/admin", &[]).await.0, 403);
        assert_eq!(world.get("//as/admin", &[]).await.0, 403);
        assert_eq!(policy.asked().len(), before, "{policies}");
        assert_eq!(world.get("/as/user", &[]).await.0, 200);
    }
}
