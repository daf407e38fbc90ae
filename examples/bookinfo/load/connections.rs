//! Kept-alive HTTP/1.1 connections, as a browser's or an outside proxy's would be.
//!
//! Never: retries. A connection that broke is an error of the request that met it.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::BoxError;

/// Connections to one address.
pub struct Connections {
    target: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Connections {
    /// None open yet.
    pub fn new(target: SocketAddr) -> Self {
        Self { target, idle: Mutex::default() }
    }

    /// An idle connection, or a new one.
    pub async fn take(&self) -> Result<SendRequest<Empty<Bytes>>, BoxError> {
        let idle = self.lock().pop();
        if let Some(sender) = idle {
            return Ok(sender);
        }
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Keeps a connection whose response was read to its end, unless the server said it would close it.
    pub fn put_back(&self, sender: SendRequest<Empty<Bytes>>) {
        if !sender.is_closed() {
            self.lock().push(sender);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Empty<Bytes>>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
