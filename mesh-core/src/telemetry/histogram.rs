//! How values are spread.
//!
//! Decides: which bucket a value falls into (the first whose bound is not below it). Never: locks, or
//! allocates once made. Invariant: the count is the sum of the buckets, so `+Inf` always agrees with it.

use std::sync::Arc;

use super::cells::Cells;

/// A histogram with fixed bounds. Clones are handles on the same numbers.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One number a bucket, one for what lies above the last bound, then the sum.
    cells: Arc<Cells>,
}

/// What a histogram held when it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Upper bounds, ascending.
    pub bounds: &'static [f64],
    /// Values at or below the bound of the same index.
    pub cumulative: Vec<u64>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    /// An empty histogram. `bounds` must ascend.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, cells: Arc::new(Cells::new(bounds.len() + 2)) }
    }

    /// Adds a value. What is not a finite number is left out.
    pub fn observe(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.cells.add(self.bounds.partition_point(|bound| *bound < value), 1);
        self.cells.add_float(self.bounds.len() + 1, value);
    }

    /// The values so far.
    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let mut up_to = |cell| {
            count += self.cells.total(cell);
            count
        };
        let cumulative = (0..self.bounds.len()).map(&mut up_to).collect();
        let count = up_to(self.bounds.len());
        Distribution { bounds: self.bounds, cumulative, count, sum: self.cells.total_float(self.bounds.len() + 1) }
    }
}

/// Envoy's default histogram bounds, which Istio uses for durations (ms) and for sizes (bytes).
pub const ISTIO_BOUNDS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_istios_buckets() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let cases: Vec<_> =
            vectors["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "histogram").collect();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let bounds: Vec<f64> = serde_json::from_value(case["bucket_bounds"].clone()).unwrap();
            assert_eq!(bounds, ISTIO_BOUNDS);
            let histogram = Histogram::new(ISTIO_BOUNDS);
            histogram.observe(case["observed"].as_f64().unwrap());
            let (read, expected) = (histogram.read(), &case["expected"]);
            let cumulative: Vec<u64> = serde_json::from_value(expected["cumulative_counts"].clone()).unwrap();
            assert_eq!(read.cumulative, cumulative, "{}", case["id"]);
            assert_eq!(read.count, expected["plus_inf"].as_u64().unwrap(), "{}", case["id"]);
            assert_eq!(read.count, expected["count"].as_u64().unwrap(), "{}", case["id"]);
            assert_eq!(read.sum, expected["sum"].as_f64().unwrap(), "{}", case["id"]);
        }
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let histogram = Histogram::new(ISTIO_BOUNDS);
        histogram.observe(f64::NAN);
        histogram.observe(f64::INFINITY);
        assert_eq!(histogram.read().count, 0);
    }

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/istio_metrics.json"));
}
