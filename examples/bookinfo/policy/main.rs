//! The policy server: who may ask whom for what, over Envoy's `ext_authz` gRPC service.
//!
//! It is a tonic server like any other; that its callers prove who they are, and that its calls are
//! counted (`istio_requests_total` on its admin page), comes from the mesh listener it runs on.

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tonic::{Code, Request, Response, Status};
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = std::env::args().nth(1).ok_or("usage: bookinfo-policy CONFIG")?;
    let mesh = Mesh::from_file(config)?;
    // tonic's server with the mesh's body and error types.
    let server = tower::service_fn(|request: http::Request<Body>| async {
        let Ok(response) = AuthorizationServer::new(Policy).oneshot(request).await;
        Ok::<_, BoxError>(response.map(Body::new))
    });
    let listening = mesh.listen("inbound", server).await?;
    println!("policy on {}", listening.local_addr());
    listening.closed().await;
    Ok(())
}

/// The policy of both clusters.
struct Policy;

#[tonic::async_trait]
impl Authorization for Policy {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        Ok(Response::new(if is_allowed(&Question::of(&attributes)) { allowed() } else { denied() }))
    }
}

/// What the policy reads.
struct Question<'a> {
    /// The caller's SPIFFE ID; empty: somebody outside.
    caller: &'a str,
    path: &'a str,
    user: &'a str,
}

impl<'a> Question<'a> {
    fn of(attributes: &'a AttributeContext) -> Self {
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        Self {
            caller: attributes.source.as_ref().map_or("", |source| &source.principal),
            path: http.map_or("", |http| http.path.split('?').next().unwrap_or_default()),
            user: http.and_then(|http| http.headers.get("end-user")).map_or("", String::as_str),
        }
    }
}

/// A banned user gets nothing; otherwise a caller gets what the table says.
fn is_allowed(question: &Question<'_>) -> bool {
    let service = question.caller.strip_prefix(IDENTITIES).unwrap_or(question.caller);
    !BANNED.contains(&question.user)
        && ALLOWED.iter().any(|(caller, prefix)| *caller == service && question.path.starts_with(prefix))
}

fn allowed() -> CheckResponse {
    CheckResponse { status: Some(RpcStatus::default()), ..CheckResponse::default() }
}

fn denied() -> CheckResponse {
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: 403 }),
        body: "not allowed\n".to_owned(),
        ..DeniedHttpResponse::default()
    };
    CheckResponse {
        status: Some(RpcStatus { code: Code::PermissionDenied as i32, ..RpcStatus::default() }),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        ..CheckResponse::default()
    }
}

/// Where the SPIFFE IDs of the demo begin.
const IDENTITIES: &str = "spiffe://cluster.local/ns/default/sa/";

const BANNED: [&str; 1] = ["mallory"];

/// Who may ask for what.
const ALLOWED: [(&str, &str); 7] = [
    ("", "/productpage"),
    ("ingress-a", "/productpage"),
    ("bookinfo-productpage", "/details/"),
    ("bookinfo-productpage", "/reviews/"),
    ("bookinfo-reviews", "/ratings/"),
    ("ingress-a", "/details/"),
    ("ingress-b", "/details/"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_the_table_says_and_a_banned_user_nothing() {
        let reviews = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
        for (caller, path, user, expected) in [
            ("", "/productpage", "user-1", true),
            ("", "/productpage", "mallory", false),
            ("", "/details/0", "", false),
            (reviews, "/ratings/0", "", true),
            (reviews, "/details/0", "", false),
            ("spiffe://other.example/ns/default/sa/bookinfo-reviews", "/ratings/0", "", false),
        ] {
            assert_eq!(is_allowed(&Question { caller, path, user }), expected, "{caller} {path} {user}");
        }
    }
}
