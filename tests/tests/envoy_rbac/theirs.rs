//! The Envoy of the story: one route for each request, one listener for each connection.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use mesh_tests::process::{Process, wait_for_port};
use mesh_tests::toolchain::envoy;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use super::caller::{Caller, Door};
use super::translate::Translator;
use super::{Authorities, at_port, free_ports, id, is_tcp};

/// Envoy with one route for each request, one listener for each connection.
pub struct Theirs {
    _process: Process,
    port: u16,
    tcp: BTreeMap<String, u16>,
}

impl Theirs {
    pub fn start(cases: &[Value], authorities: &Authorities) -> Self {
        let mut ports = free_ports(1 + cases.iter().filter(|case| is_tcp(case)).count()).into_iter();
        let port = ports.next().unwrap();
        let tls = tls(authorities);
        let routes: Vec<_> = cases.iter().filter(|case| !is_tcp(case)).map(|case| route(case, port)).collect();
        let mut listeners = vec![
            listener(("http", "127.0.0.1", port), &tls, json!([connection_manager(&routes)])),
            listener(("nine", "127.0.0.9", port), &tls, json!([connection_manager(&routes)])),
        ];
        let mut tcp = BTreeMap::new();
        for case in cases.iter().filter(|case| is_tcp(case)) {
            let port = ports.next().unwrap();
            listeners.push(listener((id(case), "127.0.0.1", port), &tls, tcp_filters(case, port)));
            tcp.insert(id(case).to_owned(), port);
        }
        let config = authorities.directory.join("envoy.json");
        std::fs::write(&config, json!({ "static_resources": { "listeners": listeners } }).to_string()).unwrap();
        let mut command = Command::new(envoy().unwrap());
        command.args(["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id", "-c"]).arg(config);
        let process = Process::start(&mut command).unwrap();
        wait_for_port(port).unwrap();
        tcp.values().for_each(|port| wait_for_port(*port).unwrap());
        Self { _process: process, port, tcp }
    }

    /// The verdict, and the rule that Envoy says refused.
    pub async fn verdict(&self, case: &Value, key: Option<&Arc<CertifiedKey>>) -> (&'static str, String) {
        let port = self.tcp.get(id(case)).copied().unwrap_or(self.port);
        Caller { case, tls: Some(key.cloned()) }.ask(Door::Theirs, port).await
    }
}

/// Envoy shows a certificate of its own making: the callers here believe any.
fn tls(authorities: &Authorities) -> Value {
    let own = rcgen::generate_simple_self_signed(vec!["envoy".to_owned()]).unwrap();
    let (certificate, key) = (authorities.directory.join("envoy.pem"), authorities.directory.join("envoy.key"));
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": { "filename": certificate }, "private_key": { "filename": key },
                }],
                "validation_context": { "trusted_ca": { "filename": authorities.bundle() } },
            },
            "require_client_certificate": false,
        },
    })
}

fn listener((name, address, port): (&str, &str, u16), tls: &Value, filters: Value) -> Value {
    json!({
        "name": name,
        "address": { "socket_address": { "address": address, "port_value": port } },
        // Without it no filter knows which server name was asked for.
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" },
        }],
        "filter_chains": [{ "transport_socket": tls, "filters": filters }],
    })
}

/// The header names the case; nothing else tells the routes apart, so that path and host are the case's own.
fn route(case: &Value, port: u16) -> Value {
    let case = at_port(case, port);
    let filters = Translator::new(&case).filters();
    let mut rules = serde_json::Map::new();
    for (name, filter) in [("deny", filters.deny), ("allow", filters.allow)] {
        let per_route = match filter {
            Some(filter) => json!({ "@type": PER_ROUTE, "rbac": { "rules": filter } }),
            None => json!({ "@type": PER_ROUTE }),
        };
        rules.insert(name.to_owned(), per_route);
    }
    json!({
        "match": { "prefix": "/", "headers": [{ "name": "x-case", "string_match": { "exact": id(&case) } }] },
        "direct_response": { "status": 200 },
        "typed_per_filter_config": rules,
    })
}

fn connection_manager(routes: &[Value]) -> Value {
    let rbac = |name| json!({ "name": name, "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC" } });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "rbac",
            // The caller reads to the end; nobody waits for it to close first.
            "delayed_close_timeout": "0s",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
            // The refusal names the policy, for this test to see that it is the right one.
            "local_reply_config": { "body_format": { "text_format_source": { "inline_string": "%RESPONSE_CODE_DETAILS%" } } },
            "http_filters": [rbac("deny"), rbac("allow"), {
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
        },
    })
}

fn tcp_filters(case: &Value, port: u16) -> Value {
    let filters = Translator::new(&at_port(case, port)).filters();
    let mut chain: Vec<_> = [filters.deny, filters.allow]
        .into_iter()
        .flatten()
        .map(|rules| {
            json!({
                "name": "envoy.filters.network.rbac",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                    "rules": rules, "stat_prefix": "tcp.",
                },
            })
        })
        .collect();
    chain.push(json!({
        "name": "envoy.filters.network.echo",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" },
    }));
    Value::Array(chain)
}

const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
