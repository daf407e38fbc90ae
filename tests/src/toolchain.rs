//! Finds or builds the programs in other languages.
//!
//! Decides: where they are: Rust programs and libmesh in cargo's directory, C and Go are compiled on first use,
//! Python is the repository's virtual environment. Never: skips a language that is missing; it says what to run.
//! The environment may override: `MESH_CC`, `MESH_GO`, `MESH_PYTHON`, `MESH_ENVOY`, `MESH_OPA`, `MESH_RATELIMIT`,
//! `MESH_REDIS`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::driver::Driver;

/// Every driver, the reference first.
pub const DRIVERS: [&str; 5] = ["rust", "layers", "c", "go", "python"];
/// Languages in which an application can be a client and a server.
pub const LANGUAGES: [&str; 4] = ["rust", "c", "go", "python"];

/// The driver of that name, built if need be.
pub fn driver(name: &str) -> Result<Driver, String> {
    match name {
        "rust" => Ok(Driver::new(name, &[&cargo_binary("mesh-driver")?])),
        "layers" => Ok(Driver::new(name, &[&cargo_binary("mesh-layers-driver")?])),
        "python" => Ok(Driver::new(name, &[&python()?, &sources().join("python/driver.py")])),
        _ => foreign(name, "driver"),
    }
}

/// The driver of the guard story in that language.
pub fn guard_driver(language: &str) -> Result<Driver, String> {
    match language {
        "rust" => Ok(Driver::new(language, &[&cargo_binary("mesh-guard-driver")?])),
        "python" => Ok(Driver::new(language, &[&python()?, &sources().join("python/guard.py")])),
        _ => foreign(language, "guard"),
    }
}

/// A server in that language: takes the path of a configuration and serves its listener `inbound`, answering
/// every request with `hello ` and the peer's SPIFFE ID.
pub fn server(language: &str) -> Result<Driver, String> {
    match language {
        "rust" => Ok(Driver::new(language, &[&cargo_binary("mesh-hello")?])),
        "python" => Ok(Driver::new(language, &[&python()?, &sources().join("python/server.py")])),
        _ => foreign(language, "server"),
    }
}

/// Servers that are not the mesh's and show their requests to it.
pub const OWN_SERVERS: [&str; 4] = ["c", "go", "python-asgi", "python-wsgi"];

/// Such a server: takes the path of a configuration and a port, and serves there behind the listener `inbound`. It
/// answers as [`server`] does; the C one, which is the example of its binding, only says hello.
pub fn own_server(name: &str) -> Result<Driver, String> {
    let libraries = cargo_directory()?.display().to_string();
    match name {
        "c" => Ok(Driver::new(name, &[&compile_c_example("own_server")?]).with("LD_LIBRARY_PATH", libraries)),
        "go" => foreign(name, "server"),
        "python-asgi" | "python-wsgi" => {
            let program = sources().join(format!("python/{}.py", name.replace("python-", "own_")));
            Ok(Driver::new(name, &[&python()?, &program]))
        }
        other => Err(format!("no own server is called {other:?}")),
    }
}

/// Envoy, as `make setup` installs it into the virtual environment, or the first on the path.
pub fn envoy() -> Result<PathBuf, String> {
    installed("envoy", "MESH_ENVOY")
}

/// Envoy's reference rate limit service, as `make setup` builds it from its Go module.
pub fn rate_limit_service() -> Result<PathBuf, String> {
    installed("ratelimit", "MESH_RATELIMIT")
}

/// What the rate limit service counts in.
pub fn redis() -> Result<PathBuf, String> {
    installed("redis-server", "MESH_REDIS")
}

/// In the virtual environment, or the first on the path.
fn installed(name: &str, variable: &str) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(variable) {
        return Ok(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(repository().join(".venv/bin")).chain(std::env::split_paths(&path));
    let found = directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file());
    found.ok_or_else(|| format!("{name} is missing: make setup"))
}

/// Open Policy Agent as a policy server, as `make setup` builds it into the virtual environment.
pub fn opa() -> Result<PathBuf, String> {
    let named = std::env::var_os("MESH_OPA").map(PathBuf::from);
    let opa = named.unwrap_or_else(|| repository().join(".venv/bin/mesh-opa"));
    if opa.is_file() { Ok(opa) } else { Err(format!("{} is missing: make setup", opa.display())) }
}

/// The directory of this crate.
pub fn tests_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A program of this crate.
pub fn cargo_binary(name: &str) -> Result<PathBuf, String> {
    let path = cargo_directory()?.join(name);
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: cargo build -p mesh-tests", path.display())) }
}

fn foreign(language: &str, what: &str) -> Result<Driver, String> {
    let program = match language {
        "c" => compile_c(what)?,
        "go" => compile_go(what)?,
        other => return Err(format!("no {what} is called {other:?}")),
    };
    let libraries = cargo_directory()?.display().to_string();
    Ok(Driver::new(language, &[&program]).with("LD_LIBRARY_PATH", libraries))
}

fn compile_c(what: &str) -> Result<PathBuf, String> {
    compile_c_source(&sources().join(format!("c/{what}.c")), what)
}

fn compile_c_example(what: &str) -> Result<PathBuf, String> {
    compile_c_source(&repository().join(format!("bindings/c/examples/{what}.c")), what)
}

fn compile_c_source(source: &Path, what: &str) -> Result<PathBuf, String> {
    let libraries = libmesh()?;
    let program = libraries.join(format!("mesh-c-{what}"));
    let mut cc = Command::new(std::env::var("MESH_CC").unwrap_or_else(|_| "cc".to_owned()));
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    cc.arg("-I").arg(repository().join("bindings/c/include")).arg(source);
    cc.arg("-o").arg(&program).arg("-L").arg(&libraries).arg("-lmesh");
    once(&program, cc)
}

fn compile_go(what: &str) -> Result<PathBuf, String> {
    let libraries = libmesh()?;
    let program = libraries.join(format!("mesh-go-{what}"));
    let mut go = Command::new(std::env::var("MESH_GO").unwrap_or_else(|_| "go".to_owned()));
    go.arg("build").arg("-o").arg(&program).arg(format!("./{what}")).current_dir(sources().join("go"));
    go.env("CGO_CFLAGS", format!("-I{}", repository().join("bindings/c/include").display()));
    go.env("CGO_LDFLAGS", format!("-L{} -lmesh", libraries.display()));
    once(&program, go)
}

/// Tests of one process may want the same program at once.
fn once(program: &Path, mut build: Command) -> Result<PathBuf, String> {
    static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.iter().any(|known| known == program) {
        return Ok(program.to_owned());
    }
    let output = build.output().map_err(|error| format!("{build:?}: {error}; `make setup` says what is missing"))?;
    if !output.status.success() {
        return Err(format!("{build:?}:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    built.push(program.to_owned());
    Ok(program.to_owned())
}

/// The directory of libmesh.so, which must be there under its soname too.
fn libmesh() -> Result<PathBuf, String> {
    let directory = cargo_directory()?;
    let library = directory.join("libmesh.so");
    if !library.exists() {
        return Err(format!("{} is missing: cargo build -p mesh-ffi, in the same profile", library.display()));
    }
    let link = directory.join("libmesh.so.0");
    if !link.exists() {
        let made = std::os::unix::fs::symlink("libmesh.so", &link);
        made.or_else(|error| if link.exists() { Ok(()) } else { Err(error) }).map_err(|error| error.to_string())?;
    }
    Ok(directory)
}

fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("MESH_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| repository().join(".venv/bin/python"));
    if python.exists() { Ok(python) } else { Err(format!("{} is missing: make python-module", python.display())) }
}

/// Where cargo puts what belongs to this very build: `target/debug` or `target/release`.
fn cargo_directory() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = own.parent().ok_or("no directory")?;
    let is_test = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { directory.parent().unwrap_or(directory) } else { directory }.to_owned())
}

fn repository() -> PathBuf {
    tests_directory().join("..")
}

fn sources() -> PathBuf {
    tests_directory().join("drivers")
}
