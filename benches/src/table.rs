//! Medians and ratios, as a table.
//!
//! Decides: how rounds become one number: the median; and a ratio is the median of the rounds' ratios,
//! because neighbours in time share the machine's mood.

use std::collections::BTreeMap;

use crate::allocations::{COUNTED, PerRequest};
use crate::case::Case;
use crate::worker::Sample;

/// The samples of each case, in the order of the rounds.
#[derive(Debug, Default)]
pub struct Rounds(BTreeMap<Case, Vec<Sample>>);

impl Rounds {
    /// Notes a round of a case.
    pub fn push(&mut self, case: Case, sample: Sample) {
        self.0.entry(case).or_default().push(sample);
    }

    fn median(&self, case: Case, column: &Column) -> f64 {
        median(self.0[&case].iter().map(column.value).collect())
    }

    fn ratio(&self, case: Case, base: Case, column: &Column) -> f64 {
        let pairs = self.0[&case].iter().zip(&self.0[&base]);
        median(pairs.map(|(one, other)| (column.value)(one) / (column.value)(other)).collect())
    }
}

/// The table of one number of requests in flight.
pub fn render(in_flight: usize, rounds: &Rounds) -> String {
    let mut text = heading(&format!("{in_flight} in flight"));
    for case in rounds.0.keys() {
        let cells = COLUMNS.iter().map(|column| format!("{:>12.*}", column.digits, rounds.median(*case, column)));
        text += &line(case.label(), cells);
    }
    for (case, base) in [(Case::Mesh, Case::Bare), (Case::Envoy, Case::Bare), (Case::Mesh, Case::Envoy)] {
        if rounds.0.contains_key(&case) && rounds.0.contains_key(&base) {
            let cells = COLUMNS.iter().map(|column| format!("{:>11.2}x", rounds.ratio(case, base, column)));
            text += &line(&format!("{} / {}", case.label(), base.label()), cells);
        }
    }
    text
}

/// The table of allocations.
pub fn render_allocations(counted: &[(Case, PerRequest)]) -> String {
    let mut text = format!("\n{:<28}{:>12}{:>12}\n", "per request, client process", "allocations", "bytes");
    for (case, counts) in counted {
        text += &format!("{:<28}{:>12.1}{:>12.0}\n", case.label(), counts.allocations, counts.bytes);
    }
    text + &format!("(averages of {COUNTED} requests, 1 in flight, after a warm-up)\n")
}

struct Column {
    title: &'static str,
    digits: usize,
    value: fn(&Sample) -> f64,
}

fn heading(title: &str) -> String {
    format!("\n{}", line(title, COLUMNS.iter().map(|column| format!("{:>12}", column.title))))
}

fn line(label: &str, cells: impl Iterator<Item = String>) -> String {
    format!("{label:<28}{}\n", cells.collect::<String>())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

const COLUMNS: [Column; 5] = [
    Column { title: "req/s", digits: 0, value: |sample| sample.rate },
    Column { title: "p50 us", digits: 0, value: |sample| sample.p50 },
    Column { title: "p99 us", digits: 0, value: |sample| sample.p99 },
    Column { title: "CPU s/10k", digits: 3, value: |sample| sample.cpu },
    Column { title: "RSS MiB", digits: 1, value: |sample| sample.resident },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        Sample { rate, p50: 10.0, p99: 20.0, cpu: 0.5, resident: 4.0 }
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_ratio_compares_neighbours_in_time() {
        let mut rounds = Rounds::default();
        for (bare, mesh) in [(100.0, 50.0), (10.0, 5.0), (1000.0, 500.0)] {
            rounds.push(Case::Bare, sample(bare));
            rounds.push(Case::Mesh, sample(mesh));
        }
        assert_eq!(rounds.ratio(Case::Mesh, Case::Bare, &COLUMNS[0]), 0.5);
        let text = render(32, &rounds);
        assert!(text.contains("libmesh / bare hyper"), "{text}");
        assert!(!text.contains("Envoy"), "a row that was not measured is not printed: {text}");
    }
}
