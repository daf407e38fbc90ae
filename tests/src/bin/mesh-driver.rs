//! The Rust driver of the scenario corpus: `ServiceClient`.

use mesh_core::Mesh;

fn main() -> Result<(), mesh_core::error::BoxError> {
    mesh_tests::rust_driver::main(Mesh::client, true)
}
