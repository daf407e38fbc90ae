//! An ingress: one cluster's way in. Its listeners take requests and the mesh routes them by host.
//!
//! Everything else is configuration: which listener speaks plaintext to the outside, which demands a
//! certificate of the other cluster, who may ask for what, where it goes.

use mesh_core::Mesh;
use mesh_core::error::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().ok_or("usage: bookinfo-ingress CONFIG LISTENER...")?;
    let mesh = Mesh::from_file(config)?;
    let mut open = Vec::new();
    for listener in arguments {
        let listening = mesh.forward(&listener).await?;
        println!("{listener} on {}", listening.local_addr());
        open.push(listening);
    }
    for listening in open {
        listening.closed().await;
    }
    Ok(())
}
