//! The sidecar: an Envoy that does for the same request what libmesh does by default.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Failure;

/// A running Envoy; ends when dropped.
pub struct Envoy {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Envoy {
    /// Starts `binary` in front of `upstream`, with one worker thread, on the CPUs that `command` pins to.
    pub fn start(mut command: Command, upstream: SocketAddr) -> Result<Self, Failure> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = bootstrap(address, upstream).to_string();
        command.args(["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id", "--config-yaml", &config]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
        let mut envoy = Self { child, address };
        envoy.wait_until_it_listens()?;
        Ok(envoy)
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("Envoy ended at once: {status}").into());
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("Envoy does not listen after {PATIENCE:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary to use: the one named, or the first `envoy` on the path.
pub fn find(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = named {
        return if path.is_file() {
            Ok(Some(path.to_path_buf()))
        } else {
            Err(format!("{} is not a file", path.display()).into())
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::split_paths(&path).map(|directory| directory.join("envoy")).find(|candidate| candidate.is_file()))
}

/// `1.40.0` of `envoy --version`.
pub fn version(binary: &Path) -> Result<String, Failure> {
    let output = Command::new(binary).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_once("version:").and_then(|(_, rest)| rest.split('/').nth(1));
    version.map(str::to_owned).ok_or_else(|| format!("{} --version says {text:?}", binary.display()).into())
}

/// Routing, two retries, a timeout, outlier detection, statistics; no access log, no tracing exporter.
fn bootstrap(address: SocketAddr, upstream: SocketAddr) -> serde_json::Value {
    let socket =
        |at: SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    let route = json!({
        "match": { "prefix": "/" },
        "route": {
            "cluster": "hello",
            "timeout": "15s",
            "retry_policy": { "retry_on": "connect-failure,refused-stream,gateway-error", "num_retries": 2 },
        },
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let connection_manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "sidecar",
        "route_config": { "virtual_hosts": [{ "name": "hello", "domains": ["*"], "routes": [route] }] },
        "http_filters": [router],
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager });
    json!({ "static_resources": {
        "listeners": [{ "name": "outbound", "address": socket(address), "filter_chains": [{ "filters": [filter] }] }],
        "clusters": [{
            "name": "hello",
            "type": "STATIC",
            "connect_timeout": "1s",
            "lb_policy": "LEAST_REQUEST",
            "outlier_detection": {},
            "load_assignment": {
                "cluster_name": "hello",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(upstream) } }] }],
            },
        }],
    } })
}

const PATIENCE: Duration = Duration::from_secs(20);
