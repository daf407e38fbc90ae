//! Ports that answer nobody.

use tokio::net::TcpSocket;

/// A port that is taken as long as the tests run, by a socket that does not listen: nobody else gets it.
pub fn closed_port() -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::mem::forget(socket);
    port
}
