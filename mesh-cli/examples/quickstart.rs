//! The Rust quick start of the README, without this line.

use mesh_core::{Body, Mesh};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mesh = Mesh::from_file("mesh.yaml")?;
    let request = http::Request::get("http://hello/").body(Body::empty())?;
    let response = mesh.client().call(request).await?;
    println!("{}", response.status());
    Ok(())
}
