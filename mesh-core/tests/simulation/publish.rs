//! Writes the curves down: CSV for whoever wants the numbers, SVG for whoever wants to see them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::curve::Table;
use crate::server::Service;
use crate::{balancers, ejection, limits, storm};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulation")
}

#[test]
#[ignore = "writes docs/simulation; minutes in a debug build"]
fn publish() {
    std::fs::create_dir_all(directory()).unwrap();
    let slow = balancers::slow_endpoint(Service::Exponential(5.0));
    let adaptive = limits::adaptive_limits();
    let tables = [&slow, &adaptive, &limits::queue_disciplines(), &storm::chain(), &ejection::partial_failure()];
    for table in tables.into_iter().chain([&ejection::recovery_time()]) {
        table.print();
        std::fs::write(directory().join(format!("{}.csv", table.name)), table.csv()).unwrap();
    }
    let steps = [
        ("limit_when_capacity_falls", "capacity falls to a quarter and returns"),
        ("limit_when_the_service_slows", "service slower, capacity ample"),
    ];
    for (file, scenario) in steps {
        let table = limits::limit_over_time(scenario);
        std::fs::write(directory().join(format!("{file}.csv")), table.csv()).unwrap();
        std::fs::write(directory().join(format!("{file}.svg")), lines(&table, scenario)).unwrap();
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 40.0;
const COLOURS: [&str; 8] = ["#999999", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#b8a000"];

/// The third column over the second, a line for each series; the vertical axis is logarithmic from 1 to 1000.
fn lines(table: &Table, title: &str) -> String {
    let names: BTreeSet<&str> = table.rows.iter().map(|(series, ..)| series.as_str()).collect();
    let point = |text: &str| text.parse::<f64>().unwrap_or_default();
    let last = table.rows.iter().map(|(_, at, _)| point(at)).fold(1.0, f64::max);
    let x = |at: f64| MARGIN + at / last * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value.max(1.0).log10() / 3.0 * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"16\">limit over seconds: {title}</text>\n"
    );
    for value in [1.0, 10.0, 100.0, 1000.0] {
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {0:.1}H{1}\" stroke=\"#dddddd\"/><text x=\"4\" y=\"{0:.1}\">{value}</text>",
            y(value),
            WIDTH - MARGIN
        );
    }
    for (at, name) in names.iter().enumerate() {
        let rows = table.rows.iter().filter(|(series, ..)| series == name);
        let path: Vec<_> = rows.map(|(_, at, values)| format!("{:.1},{:.1}", x(point(at)), y(values[0]))).collect();
        let colour = COLOURS[at % COLOURS.len()];
        let width = if *name == "ours" { 2.5 } else { 1.2 };
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\"{}\"/><text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            path.join(" "),
            MARGIN + 82.0 * at as f64,
            HEIGHT - 8.0
        );
    }
    svg + "</svg>\n"
}
