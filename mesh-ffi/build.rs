//! Gives the shared library its name and forbids unloading it.
//!
//! What it exports is rustc's list: exactly the `#[no_mangle]` functions. A second version script would be
//! an error for GNU ld and without effect for lld, so symbol versions (`mesh.map`) are put on where the
//! library is packaged: `make dist` in `bindings/c` links the static library once more with them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmesh.so.0");
    // Thread-local destructors of the host's threads may still point into the library.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
