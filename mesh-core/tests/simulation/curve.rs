//! What a run showed: percentiles, and a table that prints as CSV.

use std::fmt::Write;
use std::time::Duration;

/// Latencies of one run.
#[derive(Default, Clone)]
pub struct Latencies(Vec<f64>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency.as_secs_f64() * 1000.0);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = ((percent / 100.0) * sorted.len() as f64).ceil() as usize;
        sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

/// Rows under named columns; the first two columns name the row.
pub struct Table {
    pub name: &'static str,
    pub columns: Vec<&'static str>,
    pub rows: Vec<(String, String, Vec<f64>)>,
}

impl Table {
    pub fn new(name: &'static str, columns: &[&'static str]) -> Self {
        Self { name, columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, series: &str, point: impl ToString, values: &[f64]) {
        self.rows.push((series.to_owned(), point.to_string(), values.to_vec()));
    }

    pub fn value(&self, series: &str, point: &str, column: &str) -> f64 {
        let at = self.columns.iter().position(|name| *name == column).unwrap() - 2;
        let row = self.rows.iter().find(|(s, p, _)| s == series && p == point);
        row.unwrap_or_else(|| panic!("{} has no {series} {point}", self.name)).2[at]
    }

    pub fn csv(&self) -> String {
        let mut text = self.columns.join(",") + "\n";
        for (series, point, values) in &self.rows {
            let values: Vec<_> = values.iter().map(|value| format!("{value:.2}")).collect();
            let quoted = |name: &str| if name.contains(',') { format!("\"{name}\"") } else { name.to_owned() };
            let _ = writeln!(text, "{},{},{}", quoted(series), quoted(point), values.join(","));
        }
        text
    }

    pub fn print(&self) {
        println!("# {}\n{}", self.name, self.csv());
    }
}
