//! What the documents say is true: the README's quick starts, taken out of it, run against a real server; the
//! configurations of the guides are taken; the files that ARCHITECTURE.md names exist.
//!
//! The Rust quick start runs with every `cargo test`. The others need libmesh, the Python module or Go:
//! `cargo test --release -p mesh-cli --test docs -- --include-ignored`, after `make build python-module`.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

/// The code block of one language, as written.
fn block(language: &str) -> String {
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let start = format!("```{language}\n");
    let after = readme.split_once(&start).unwrap_or_else(|| panic!("README has no {language} block")).1;
    after.split_once("```").unwrap().0.to_owned()
}

/// A directory with the README's configuration, pointing at a server that answers 200.
fn workplace() -> TempDir {
    let config = block("yaml");
    assert!(config.contains(README_ADDRESS), "the README's upstream is {README_ADDRESS}");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.yaml"), config.replace(README_ADDRESS, &upstream().to_string())).unwrap();
    directory
}

/// A plain server on a thread of its own.
fn upstream() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                let answer = service_fn(|_| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
    });
    address
}

/// What the program prints.
#[track_caller]
fn run(command: &mut Command, directory: &Path) -> String {
    let output = command.current_dir(directory).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text.trim().to_owned()
}

#[test]
fn the_rust_quick_start_runs() {
    let program = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.rs"));
    let (_, program) = program.split_once("\n\n").unwrap();
    assert_eq!(block("rust"), program, "README and mesh-cli/examples/quickstart.rs say the same");
    let directory = workplace();
    assert_eq!(run(&mut Command::new(profile_directory().join("examples/quickstart")), directory.path()), "200 OK");
}

#[test]
#[ignore = "needs libmesh.so and a C compiler"]
fn the_c_quick_start_runs() {
    let directory = workplace();
    let program = directory.path().join("quickstart");
    fs::write(directory.path().join("quickstart.c"), block("c")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "quickstart.c", "-o", "quickstart", "-lmesh"]);
    compiler
        .arg(format!("-I{}", root().join("bindings/c/include").display()))
        .arg(format!("-L{}", profile_directory().display()));
    run(&mut compiler, directory.path());
    assert_eq!(run(Command::new(program).env("LD_LIBRARY_PATH", libraries(directory.path())), directory.path()), "200");
}

#[test]
#[ignore = "needs the Python module in .venv"]
fn the_python_quick_start_runs() {
    let directory = workplace();
    let python = std::env::var_os("PYTHON").map_or_else(|| root().join(".venv/bin/python"), PathBuf::from);
    assert_eq!(run(Command::new(python).args(["-c", &block("python")]), directory.path()), "200 1");
}

#[test]
#[ignore = "needs libmesh.so and Go"]
fn the_go_quick_start_runs() {
    let directory = workplace();
    let package = root().join("bindings/go");
    let module = format!(
        "module quickstart\n\ngo 1.24\n\nrequire libmesh.dev/mesh v0.0.0\n\nreplace libmesh.dev/mesh => {}\n",
        package.display()
    );
    fs::write(directory.path().join("go.mod"), module).unwrap();
    fs::write(directory.path().join("main.go"), block("go")).unwrap();
    let mut go = Command::new("go");
    go.args(["run", "."]).env("LD_LIBRARY_PATH", libraries(directory.path()));
    go.env("CGO_CFLAGS", format!("-I{}", root().join("bindings/c/include").display()));
    go.env("CGO_LDFLAGS", format!("-L{} -lmesh", profile_directory().display()));
    assert_eq!(run(&mut go, directory.path()), "200 OK");
}

/// Each stands for itself, so that who copies one has something that works.
#[test]
fn every_configuration_of_the_guides_is_taken_without_a_word() {
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let files = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for guide in files.filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let name = guide.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(readme.contains(&format!("(docs/{name})")), "README does not lead to {name}");
        let text = fs::read_to_string(&guide).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let configuration = block.split_once("```").unwrap().0;
            let said = check(configuration);
            let is_taken = said.starts_with("mesh.yaml: ok (");
            assert!(is_taken || lacks_rego(&said), "{name}: {said}\n{configuration}");
            count += 1;
        }
    }
    assert!(count >= 7, "{count} configurations");
}

/// What `mesh check` says of a configuration.
fn check(configuration: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.yaml"), configuration).unwrap();
    let mut mesh = Command::new(env!("CARGO_BIN_EXE_mesh"));
    let output = mesh.args(["check", "mesh.yaml"]).current_dir(directory.path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether nothing is wrong but that this build has no Rego.
fn lacks_rego(said: &str) -> bool {
    said.contains("build it with the feature `rego`") && said.ends_with("mesh.yaml: refused, 1 error\n")
}

#[test]
fn every_file_that_the_architecture_page_names_exists() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md"));
    let named: Vec<&str> =
        page.split('`').filter(|word| word.starts_with("mesh-core/") && word.ends_with(".rs")).collect();
    assert!(named.len() > 25, "{named:?}");
    let gone: Vec<_> = named.iter().filter(|file| !root().join(file).is_file()).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

#[test]
fn every_story_is_run_by_the_makefile_and_told_by_its_readme() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap().replace("\\\n", " ");
    let (_, stories) = makefile.split_once("STORIES := ").unwrap();
    let run: Vec<&str> = stories.lines().next().unwrap().split_whitespace().collect();
    let readme = fs::read_to_string(root().join("tests/README.md")).unwrap();
    let files = fs::read_dir(root().join("tests/tests")).unwrap().map(|entry| entry.unwrap().path());
    let stories: Vec<_> = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(stories.len() >= 15, "{stories:?}");
    for story in stories {
        assert!(run.contains(&story.as_str()), "{story} is not among the Makefile's STORIES");
        let is_told = story == "scenarios" || readme.contains(&format!("`{story}.rs`"));
        assert!(is_told, "tests/README.md does not tell {story}.rs");
    }
}

/// Where the loader finds libmesh under its soname.
fn libraries(directory: &Path) -> PathBuf {
    let library = profile_directory().join("libmesh.so");
    assert!(library.is_file(), "{} is missing: run `make build` (or cargo build -p mesh-ffi)", library.display());
    std::os::unix::fs::symlink(&library, directory.join("libmesh.so.0")).unwrap();
    directory.to_path_buf()
}

/// `target/debug` or `target/release`, as this test was built.
fn profile_directory() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_mesh")).parent().unwrap().to_path_buf()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

const README_ADDRESS: &str = "127.0.0.1:8000";
