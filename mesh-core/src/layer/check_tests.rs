use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use http_body::Frame;
use tonic::{Code, Status};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::access::{CacheConfig, CheckConfig, Fact};
use crate::identity::SpiffeId;

/// A policy server that approves of everything and remembers what it was told.
#[derive(Default)]
struct Policy(Mutex<Vec<AttributeContext>>);

#[tonic::async_trait]
impl Authorization for Policy {
    async fn check(&self, asked: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        self.0.lock().unwrap().extend(asked.into_inner().attributes);
        let status = RpcStatus { code: Code::Ok as i32, ..RpcStatus::default() };
        Ok(tonic::Response::new(CheckResponse { status: Some(status), ..CheckResponse::default() }))
    }
}

impl Policy {
    fn asked(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> (HttpRequest, Peer) {
        let context = self.0.lock().unwrap().last().cloned().unwrap();
        (context.request.unwrap().http.unwrap(), context.source.unwrap())
    }
}

fn config(max_bytes: usize, allow_partial: bool) -> CheckConfig {
    let minute = Duration::from_secs(60);
    CheckConfig {
        timeout: minute,
        body: Some(BodyTerms { max_bytes, allow_partial, as_bytes: false, timeout: minute }),
        cache: CacheConfig::keyed(vec![Fact::Path], minute, minute),
        ..CheckConfig::default()
    }
}

fn layer(config: CheckConfig, policy: &Arc<Policy>) -> CheckLayer<AuthorizationServer<Policy>> {
    CheckLayer::new(Arc::new(RemoteCheck::new(config)), AuthorizationServer::from_arc(Arc::clone(policy)), "in")
}

/// Sends the request through the layer to a service that answers with the body it got.
async fn send<B>(layer: CheckLayer<AuthorizationServer<Policy>, B>, request: Request<Body>) -> (u16, String)
where
    B: Bodies<Body>,
{
    let echo = service_fn(|request: Request<Body>| async { Ok::<_, BoxError>(Response::new(request.into_body())) });
    let response = layer.layer(echo).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect_up_to(1024).await.unwrap().to_vec()).unwrap())
}

/// A body whose length nobody knows before its end.
async fn streamed(chunks: &[&'static str]) -> Body {
    let (sender, body) = Body::channel(chunks.len().max(1), None);
    for chunk in chunks {
        sender.send(Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).await.unwrap();
    }
    body
}

fn post(body: Body) -> Request<Body> {
    Request::post("/order").body(body).unwrap()
}

#[tokio::test]
async fn as_much_of_a_body_is_told_as_the_check_wants_and_the_service_reads_all_of_it() {
    for (limit, is_partial_fine, told) in [
        (6, false, Some(("abcdef", "false"))),
        (99, false, Some(("abcdef", "false"))),
        (5, false, None),
        (4, true, Some(("abcd", "true"))),
    ] {
        let policy = Arc::default();
        let layer = layer(config(limit, is_partial_fine), &policy).reading_bodies();
        for body in [Body::from("abcdef"), streamed(&["abc", "def"]).await] {
            let before = policy.asked();
            let answer = send(layer.clone(), post(body)).await;
            let Some((told, mark)) = told else {
                assert_eq!((answer.0, policy.asked()), (413, 0), "nobody is asked");
                continue;
            };
            assert_eq!((answer.0, &*answer.1, policy.asked()), (200, "abcdef", before + 1), "no answer is kept");
            let (asked, _) = policy.last();
            assert_eq!((&*asked.body, &*asked.headers["x-envoy-auth-partial-body"]), (told, mark), "{limit}");
        }
    }
}

#[tokio::test]
async fn an_answer_about_no_body_is_kept_and_answers_none_about_one() {
    let policy = Arc::default();
    let layer = layer(config(9, false), &policy).reading_bodies();
    for (body, asked) in [("", 1), ("", 1), ("a", 2), ("", 2), ("b", 3)] {
        assert_eq!(send(layer.clone(), post(body.into())).await, (200, body.to_owned()));
        assert_eq!(policy.asked(), asked, "{body:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_unasked() {
    let policy = Arc::default();
    let (sender, body) = Body::channel(2, None);
    sender.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.unwrap();
    sender.send(Err("gone".into())).await.unwrap();
    let answer = send(layer(config(9, true), &policy).reading_bodies(), post(body)).await;
    assert_eq!((answer.0, policy.asked()), (400, 0));
}

#[tokio::test]
async fn a_layer_that_reads_no_bodies_tells_nothing_of_them() {
    let policy = Arc::default();
    let answer = send(layer(config(2, false), &policy), post("abcdef".into())).await;
    assert_eq!((answer.0, &*answer.1), (200, "abcdef"));
    assert_eq!(policy.last().0.body, "");
}

#[tokio::test]
async fn the_callers_certificate_is_told_where_the_check_includes_it() {
    let peer = |certificate: Option<&[u8]>| PeerIdentity {
        id: SpiffeId::parse("spiffe://test/ns/a/sa/b").unwrap(),
        serial: "7".to_owned(),
        not_after: SystemTime::now() + Duration::from_secs(600),
        certificate: certificate.map(Arc::from),
        server_name: None,
    };
    for (is_included, certificate, is_told) in
        [(true, Some(&b"der"[..]), true), (false, Some(b"der"), false), (true, None, false)]
    {
        let policy = Arc::default();
        let config = CheckConfig { peer_certificate: is_included, ..config(9, false) };
        let mut request = post(Body::empty());
        request.extensions_mut().insert(peer(certificate));
        assert_eq!(send(layer(config, &policy), request).await.0, 200);
        let (_, source) = policy.last();
        assert_eq!(source.principal, "spiffe://test/ns/a/sa/b");
        // "der" in Base64.
        assert_eq!(source.certificate.contains("ZGVy"), is_told, "{}", source.certificate);
    }
}
