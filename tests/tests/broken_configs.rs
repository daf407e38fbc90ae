//! Every broken configuration, applied to a running mesh under load, changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::PathBuf;

use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use mesh_tests::load::{Load, PATIENT, failures};
use mesh_tests::metrics;
use mesh_tests::process::{free_port, wait_until};
use mesh_tests::toolchain::tests_directory;

fn broken() -> Vec<PathBuf> {
    let directory = tests_directory().join("../mesh-core/tests/broken");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration_is_refused_and_counted_and_running_traffic_does_not_notice() {
    let files = broken();
    assert!(files.len() >= 60, "{}", files.len());
    let port = free_port().unwrap();
    let server = Mesh::from_yaml(
        &format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n"),
        "server.yaml",
    )
    .unwrap();
    let fine = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, BoxError>(http::Response::new(Body::from("fine")))
    });
    server.listen("in", fine).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    let good = format!(
        "version: 1\n{PATIENT}\nclusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n"
    );
    std::fs::write(&path, &good).unwrap();
    let mesh = Mesh::from_file(&path).unwrap();
    mesh.start().unwrap();
    let load = Load::start(mesh.client(), 200, |_| http::Request::get("http://a/").body(Body::empty()).unwrap());

    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let error = mesh.reload(&text, &file.display().to_string()).expect_err("refused");
        let first = error.diagnostics().first().expect("a finding");
        assert!(first.line >= 1 && !first.message.is_empty(), "{}: {first}", file.display());
        assert_eq!(mesh.status()["revision"], 1, "{}", file.display());
    }
    let mut refused = files.len() as u64;
    // The same through the file, as an operator would break it; each takes a look at the file (200 ms).
    for file in files.iter().step_by(12) {
        std::fs::copy(file, directory.path().join("new")).unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        refused += 1;
        wait_until("the refusal", || mesh.status()["config"]["refused"] == refused).unwrap();
        assert!(!mesh.status()["config"]["problems"].as_array().unwrap().is_empty());
    }

    let shots = load.stop().await;
    assert!(shots.len() > 200, "{}", shots.len());
    assert_eq!(failures(&shots), Vec::<String>::new());
    assert!(shots.iter().all(|shot| shot.report.as_ref().unwrap().revision == 1 && shot.body == "fine"));
    let samples = metrics::parse(&mesh.metrics_text());
    assert_eq!(metrics::sum(&samples, "libmesh_config_rejects_total", []), refused as f64);
    assert_eq!(metrics::sum(&samples, "libmesh_config_revision", []), 1.0);
    assert_eq!(mesh.reload(&good.replace("rules: [{", "rules: [{ timeout: 3s,"), "good.yaml").unwrap(), 2);
}
