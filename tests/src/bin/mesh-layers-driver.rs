//! The driver of the composed tower layers: the same requests through `mesh_core::layer` alone.

fn main() -> Result<(), mesh_core::error::BoxError> {
    mesh_tests::rust_driver::main(mesh_core::layer::compose, false)
}
