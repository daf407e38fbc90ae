//! One of three endpoints dies, freezes, or answers 500, under load.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Request;
use mesh_core::{Body, Mesh};
use mesh_tests::load::{Load, Shot, failures};
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::cargo_binary;

struct Shop {
    port: u16,
    directory: PathBuf,
    process: Process,
}

impl Shop {
    fn open(directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let port = free_port().unwrap();
        let config = format!("version: 1\nlisteners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]\n");
        std::fs::write(directory.join("mesh.yaml"), config).unwrap();
        Self { port, process: Self::start(&directory, port), directory }
    }

    fn start(directory: &Path, port: u16) -> Process {
        let mut command = Command::new(cargo_binary("mesh-shop").unwrap());
        command.args(["mesh.yaml", "ledger", "fault"].map(|name| directory.join(name)));
        let process = Process::start(&mut command).unwrap();
        wait_for_port(port).unwrap();
        process
    }

    fn reopen(&mut self) {
        self.process = Self::start(&self.directory, self.port);
    }

    fn break_down(&self) {
        std::fs::write(self.directory.join("fault"), "").unwrap();
    }

    fn repair(&self) {
        std::fs::remove_file(self.directory.join("fault")).unwrap();
    }
}

/// How often each order was taken, over all shops.
fn ledger(shops: &[Shop]) -> HashMap<String, usize> {
    let mut taken = HashMap::new();
    for shop in shops {
        for order in std::fs::read_to_string(shop.directory.join("ledger")).unwrap_or_default().lines() {
            *taken.entry(order.to_owned()).or_default() += 1;
        }
    }
    taken
}

fn client(shops: &[Shop]) -> Mesh {
    let endpoints: Vec<_> = shops.iter().map(|shop| format!("{{ address: \"127.0.0.1:{}\" }}", shop.port)).collect();
    let text = format!(
        "version: 1
clusters: [{{ name: shop, endpoints: [{}] }}]
routes:
  - hosts: [shop]
    rules:
      - backends: [{{ cluster: shop }}]
        timeout: 20s
        attempt_timeout: 2s
        retry: {{ attempts: 3, conditions: [connect-failure, refused-stream, gateway-error, 5xx] }}
",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

fn by_result(shots: &[Shot]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for shot in shots {
        let text =
            shot.result.as_ref().map_or_else(|error| error.split(':').next().unwrap().to_owned(), u16::to_string);
        *counts.entry(text).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_never_fail_and_orders_are_never_taken_twice_while_one_of_three_endpoints_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut shops: Vec<_> = (0..3).map(|number| Shop::open(directory.path().join(format!("shop-{number}")))).collect();
    let mesh = client(&shops);
    let reads = Load::start(mesh.client(), 100, |_| Request::get("http://shop/").body(Body::empty()).unwrap());
    let orders = Load::start(mesh.client(), 40, |number| {
        Request::post("http://shop/").header("x-order", number).body(Body::from("order")).unwrap()
    });

    pause(1000).await;
    shops[0].process.kill();
    pause(2000).await;
    shops[0].reopen();
    pause(500).await;
    shops[1].process.freeze();
    pause(6000).await;
    shops[1].process.thaw();
    pause(500).await;
    shops[2].break_down();
    pause(2000).await;
    shops[2].repair();
    pause(500).await;

    let (reads, orders) = (reads.stop().await, orders.stop().await);
    println!("reads {:?}, orders {:?}", by_result(&reads), by_result(&orders));
    assert!(reads.len() > 500 && orders.len() > 200, "{} {}", reads.len(), orders.len());
    assert_eq!(failures(&reads), Vec::<String>::new());
    let retried = reads.iter().filter(|shot| shot.report.as_ref().is_some_and(|report| report.attempts > 1)).count();
    assert!(retried > 0, "the outages were not felt at all");

    let taken = ledger(&shops);
    let twice: Vec<_> = taken.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "taken more than once: {twice:?}");
    let lost: Vec<_> =
        orders.iter().filter(|shot| shot.is_ok() && !taken.contains_key(&shot.number.to_string())).collect();
    assert!(lost.is_empty(), "answered and not taken: {lost:?}");
    let served = orders.iter().filter(|shot| shot.is_ok()).count();
    assert!(served * 10 > orders.len() * 9, "{served} of {} orders were served", orders.len());
}
