//! What a listener listens on: a TCP port or a Unix socket.
//!
//! Decides: that the socket file of a process that is gone may be replaced. Never: takes the place of one that
//! answers. Invariant: a Unix socket's file goes with its listener.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::ConnectionAddress;

/// A bound socket.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An accepted connection.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// The prefix of a Unix socket's address.
const UNIX: &str = "unix:";

impl Socket {
    /// The socket belongs to the mesh's runtime, whichever runtime asks for it.
    pub(super) fn bind(address: &str, runtime: &tokio::runtime::Handle) -> io::Result<Self> {
        let _entered = runtime.enter();
        if let Some(path) = address.strip_prefix(UNIX) {
            let path = PathBuf::from(path);
            remove_abandoned(&path);
            return Ok(Self::Unix(UnixListener::bind(&path)?, path));
        }
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address names no socket");
        let address = std::net::ToSocketAddrs::to_socket_addrs(address)?.next().ok_or_else(none)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self::Tcp(socket.listen(BACKLOG)?))
    }

    /// The TCP address it is bound to.
    pub(super) fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Some),
            Self::Unix(..) => Ok(None),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => socket.accept().await.map(|(stream, remote)| Accepted::Tcp(stream, remote)),
            Self::Unix(socket, _) => socket.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }

    /// Closes the socket. Whoever is in the queue may have sent a request already; closing the socket would reset
    /// him, and he could not know that nobody read it. Asked of the kernel, because the event loop may not have
    /// heard of him yet.
    pub(super) fn close(self) -> Vec<Accepted> {
        match self {
            Self::Tcp(socket) => {
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                let adopt = |(stream, remote): (std::net::TcpStream, SocketAddr)| {
                    let adopted = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    adopted.ok().map(|stream| Accepted::Tcp(stream, remote))
                };
                std::iter::from_fn(|| socket.accept().ok()).filter_map(adopt).collect()
            }
            Self::Unix(socket, path) => {
                // First the file, so that nobody knocks while the queue is emptied.
                let _ = std::fs::remove_file(path);
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                let adopt = |(stream, _): (std::os::unix::net::UnixStream, _)| {
                    let adopted = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
                    adopted.ok().map(Accepted::Unix)
                };
                std::iter::from_fn(|| socket.accept().ok()).filter_map(adopt).collect()
            }
        }
    }
}

impl Accepted {
    /// Both ends; a Unix socket has none worth a name.
    pub(super) fn addresses(&self) -> Option<ConnectionAddress> {
        match self {
            Self::Tcp(stream, remote) => {
                Some(ConnectionAddress { local: stream.local_addr().unwrap_or(*remote), remote: *remote })
            }
            Self::Unix(_) => None,
        }
    }
}

/// A process that was killed leaves its file behind; nobody answers there.
fn remove_abandoned(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let is_abandoned = || {
        let knocked = std::os::unix::net::UnixStream::connect(path);
        knocked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_abandoned() {
        let _ = std::fs::remove_file(path);
    }
}

/// Connections that may wait to be accepted: Linux's own ceiling (net.core.somaxconn) since 5.4. With the
/// customary 128 a burst of clients is left to retransmit for a second.
const BACKLOG: u32 = 4096;
