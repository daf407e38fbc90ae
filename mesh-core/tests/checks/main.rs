//! Stories of remote checks over real sockets: bodies, plain HTTP, changes, servers that die or hang.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bodies;
mod changes;
mod claims;
mod log;
mod over_http;
mod own_server;
mod policy;
mod servers;
mod tls;
#[path = "../tokens/mod.rs"]
mod tokens;
mod voids;

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_core::error::BoxError;
use mesh_core::time::{Clock, SystemClock};
use mesh_core::{Body, Mesh, ServiceClient};

/// A server whose listener `in` asks the check, and a client of it over HTTP/2.
pub(crate) struct World {
    server: Mesh,
    client: Mesh,
}

impl World {
    /// `check`: the settings of the check `opa`, whose cluster has these endpoints.
    pub(crate) async fn start(check: &str, policy: &[SocketAddr]) -> Self {
        Self::with(check, policy, "").await
    }

    pub(crate) async fn with(check: &str, policy: &[SocketAddr], more_policy: &str) -> Self {
        Self::of((check, more_policy), policy, ("", Arc::new(SystemClock))).await
    }

    /// With more settings of the listener, whose mesh goes by this clock.
    pub(crate) async fn of_listener(check: &str, policy: &[SocketAddr], listener: (&str, Arc<dyn Clock>)) -> Self {
        Self::of((check, ""), policy, (&format!(", {}", listener.0), listener.1)).await
    }

    async fn of(
        (check, more_policy): (&str, &str),
        policy: &[SocketAddr],
        (listener, clock): (&str, Arc<dyn Clock>),
    ) -> Self {
        let endpoints: Vec<_> = policy.iter().map(|address| format!("{{ address: \"{address}\" }}")).collect();
        let protocol = if check.contains("http:") { "http1" } else { "http2" };
        // Patient, and turn by turn: neither a slow connection nor one slow answer decides who is asked.
        let mut text = format!(
            "version: 1\ndefaults: {{ connect_timeout: 20s, balancer: round_robin }}\nlisteners: [{{ name: in, address: \"127.0.0.1:0\"{listener} }}]\n"
        );
        writeln!(text, "clusters: [{{ name: opa, protocol: {protocol}, endpoints: [{}] }}]", endpoints.join(", "))
            .unwrap();
        // Long enough never to be the reason, unless a story is about it.
        let timeout =
            if check.contains("timeout:") && !check.contains("with_request_body") { "" } else { "timeout: 20s, " };
        writeln!(text, "policy:\n  checks: [{{ name: opa, cluster: opa, {timeout}{check} }}]\n{more_policy}").unwrap();
        let server = Mesh::builder().clock(clock).from_yaml(&text, "server.yaml").unwrap();
        let address = server.listen("in", tower::service_fn(mirror)).await.unwrap().local_addr();
        let text = format!(
            "version: 1
clusters: [{{ name: app, protocol: http2, endpoints: [{{ address: \"{address}\" }}] }}]
routes: [{{ hosts: [app], rules: [{{ backends: [{{ cluster: app }}], retry: {{ attempts: 0 }} }}] }}]
defaults: {{ connect_timeout: 20s }}
"
        );
        let client = Mesh::from_yaml(&text, "client.yaml").unwrap();
        Self { server, client }
    }

    pub(crate) fn client(&self) -> ServiceClient {
        self.client.client()
    }

    /// A GET; the answer's status and head, and what the application saw.
    pub(crate) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, String) {
        let mut request = Request::get(format!("http://app{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, body) = self.client().call(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
        let body = body.collect_up_to(1 << 20).await.unwrap();
        (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Requests that the server has not answered yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.server.status()["requests_in_flight"].as_u64().unwrap()
    }

    /// What the check has counted.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.server.status()["checks"]["opa"][name].as_u64().unwrap()
    }
}

/// Tells what it saw: the target and the headers `x-*` and `cookie`, or, of a POST, body and trailers as they came.
async fn mirror(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    if request.method() == http::Method::POST {
        let collected = request.into_body().collect().await?;
        let end = collected.trailers().and_then(|trailers| trailers.get("x-end")).cloned();
        let mut response = Response::new(Body::from(collected.to_bytes()));
        if let Some(end) = end {
            response.headers_mut().insert("x-end", end);
        }
        return Ok(response);
    }
    let mut seen = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut lines: Vec<_> =
        request.headers().iter().map(|(name, value)| format!("\n{name}: {}", value.to_str().unwrap())).collect();
    lines
        .retain(|line| line.starts_with("\nx-") && !line.starts_with("\nx-request-id") || line.starts_with("\ncookie"));
    lines.retain(|line| !line.starts_with("\nx-mesh") && !line.starts_with("\nx-envoy-expected"));
    lines.sort_unstable();
    seen.extend(lines);
    let mut response = Response::new(Body::from(seen));
    response.headers_mut().insert("x-app", "1".parse()?);
    Ok(response)
}
