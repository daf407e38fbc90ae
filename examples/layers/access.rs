//! Only access rules, around an axum router: who is allowed gets in, nobody gets around a rule by spelling a path
//! another way. The layer is outside of the router, so that both see the one spelling.

use std::time::SystemTime;

use axum::routing::get;
use axum::{Extension, Router};
use http::Request;
use mesh_core::access::rbac::{Effect, Pattern, Rule, Rules};
use mesh_core::error::BoxError;
use mesh_core::identity::SpiffeId;
use mesh_core::layer::AccessLayer;
use mesh_core::{Body, PeerIdentity};
use tower::{Layer, ServiceExt};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let rule = |name: &str, action| Rule { name: name.to_owned(), action, ..Rule::default() };
    let rules = vec![
        Rule { principals: vec![Pattern::parse(PAGE)], ..rule("the page", Effect::Allow) },
        Rule { paths: vec![Pattern::parse("/admin*")], ..rule("no admin", Effect::Deny) },
    ];
    let router = Router::new()
        .route("/books/{*which}", get(|Extension(peer): Extension<PeerIdentity>| async move { peer.id.to_string() }))
        .route("/admin/{*what}", get(|| async { "secret" }));
    let app = AccessLayer::new(Rules::new(Effect::Deny, rules), "inbound").layer(router);

    for (caller, path, expected) in [
        (Some(PAGE), "/books/7", (200, PAGE)),
        (Some(PAGE), "/admin/x", (403, "")),
        (Some(PAGE), "/books/%2e%2e/admin/x", (403, "")),
        (Some(PAGE), "/admin/../books/7", (200, PAGE)),
        (Some(STRANGER), "/books/7", (403, "")),
        (None, "/books/7", (403, "")),
    ] {
        let mut request = Request::get(path).body(Body::empty())?;
        if let Some(caller) = caller {
            // The server that ended the TLS connection puts it there.
            let id = SpiffeId::parse(caller)?;
            let not_after = SystemTime::now();
            let peer = PeerIdentity { id, serial: "7".to_owned(), not_after, certificate: None, server_name: None };
            request.extensions_mut().insert(peer);
        }
        let response = app.clone().oneshot(request).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect_up_to(1024).await?.to_vec())?;
        println!("{} {path}: {status} {text}", caller.unwrap_or("nobody"));
        assert_eq!((status.as_u16(), &*text), expected);
    }
    Ok(())
}

const PAGE: &str = "spiffe://shop/ns/default/sa/page";
const STRANGER: &str = "spiffe://shop/ns/default/sa/stranger";
