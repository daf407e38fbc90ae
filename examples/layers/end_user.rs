//! Only end users, around an axum router: who brings a token proves who he is, or is turned away; rules below read it.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use http::Request;
use mesh_core::access::jwt::{EndUsers, Issuer, KeySet, KeySource, Location, Origin, Terms};
use mesh_core::error::BoxError;
use mesh_core::layer::EndUserLayer;
use mesh_core::{Body, EndUser};
use tower::{Layer, ServiceExt};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let who = |user: Option<Extension<EndUser>>| async move {
        user.and_then(|user| user.principal()).unwrap_or_else(|| "nobody".to_owned())
    };
    let keys = KeySource::new(Origin::Inline(KEYS.to_owned()));
    keys.publish(KeySet::read(KEYS.as_bytes())?);
    let issuer = Issuer {
        name: "test".into(),
        terms: Terms {
            issuer: "test".to_owned(),
            audiences: Vec::new(),
            clock_skew: Duration::from_secs(60),
            // The token below never ends, so that this program runs for ever.
            requires_expiry: false,
        },
        locations: vec![Location::bearer()],
        is_required: false,
        forwards_token: false,
        claim_headers: Vec::new(),
        keys: Arc::new(keys),
    };
    let app = EndUserLayer::new(EndUsers::new(vec![Arc::new(issuer)])).layer(Router::new().route("/", get(who)));

    for (token, expected) in [
        (None, (200, "nobody")),
        (Some(TOKEN.to_owned()), (200, "test/alice")),
        (Some(TOKEN.replace("eyJpc3MiOiJ0ZXN0", "eyJpc3MiOiJib3Nz")), (401, "")),
        // {"alg":"none"}
        (Some(TOKEN.replace("eyJhbGciOiJFZERTQSJ9", "eyJhbGciOiJub25lIn0")), (401, "")),
    ] {
        let mut request = Request::get("/").body(Body::empty())?;
        if let Some(token) = &token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        let response = app.clone().oneshot(request).await?;
        let status = response.status();
        let text = String::from_utf8(response.into_body().collect_up_to(1024).await?.to_vec())?;
        println!("{}: {status} {text}", if token.is_some() { "a token" } else { "no token" });
        assert_eq!((status.as_u16(), &*text), expected);
    }
    Ok(())
}

/// The key that RFC 8037 A.1 publishes.
const KEYS: &str =
    r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// Signed with it: `{"iss":"test","sub":"alice","roles":["buyer"]}`.
const TOKEN: &str = concat!(
    "eyJhbGciOiJFZERTQSJ9.",
    "eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ.",
    "qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6BA"
);
