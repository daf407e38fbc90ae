//! The admin endpoint of a running process, asked once.
//!
//! Never: waits longer than a person would.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What `GET path` answers at `address`.
pub fn ask(address: &str, path: &str) -> Result<Value, String> {
    let address = bare(address);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, read(address, path)).await });
    let text = answer.map_err(|_| format!("{address} did not answer within {PATIENCE:?}"))??;
    serde_json::from_slice(&text).map_err(|error| format!("{address} is no admin endpoint of a mesh: {error}"))
}

/// The address alone, if it was written as a URL.
pub fn bare(address: &str) -> &str {
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/')
}

async fn read(address: &str, path: &str) -> Result<Bytes, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read http://{address}{path}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let request =
        Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::OK {
        return Err(failed(&response.status()));
    }
    Ok(response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes())
}

/// A process that does not answer this long is not well.
const PATIENCE: Duration = Duration::from_secs(5);
