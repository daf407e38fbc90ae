//! Gives the shared library its name, hides everything but `mesh_*`, and forbids unloading.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=mesh.map");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmesh.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--version-script={here}/mesh.map");
    // Thread-local destructors of the host's threads may still point into the library.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
