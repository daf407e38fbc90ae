//! The committed header is what the source says. `MESH_BLESS=1 cargo test -p mesh-ffi --test header`
//! rewrites it.

use std::path::Path;

#[test]
fn the_committed_header_is_what_the_source_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut text = Vec::new();
    cbindgen::Builder::new().with_crate(here).with_config(config).generate().expect("a header").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    let path = here.join("../bindings/c/include/mesh.h");
    if std::env::var_os("MESH_BLESS").is_some() {
        std::fs::write(&path, &text).expect("a writable header");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (ours, theirs)) in text.lines().zip(committed.lines()).enumerate() {
        assert_eq!(ours, theirs, "mesh.h line {}: run with MESH_BLESS=1", number + 1);
    }
    assert_eq!(text.lines().count(), committed.lines().count(), "mesh.h: run with MESH_BLESS=1");
}
