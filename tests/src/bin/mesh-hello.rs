//! The Rust server of the stories: `mesh-hello mesh.yaml` serves the listener `inbound` and says hello to the peer.

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh, PeerIdentity};

fn main() -> Result<(), BoxError> {
    let path = std::env::args().nth(1).ok_or("usage: mesh-hello mesh.yaml")?;
    let mesh = Mesh::from_file(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let hello = tower::service_fn(|request: Request<Body>| async move {
            let peer = request.extensions().get::<PeerIdentity>().map(|peer| peer.id.to_string());
            Ok::<_, BoxError>(Response::new(Body::from(format!("hello {}", peer.unwrap_or_default()))))
        });
        mesh.listen("inbound", hello).await?.closed().await;
        Ok(())
    })
}
