//! Prometheus text format 0.0.4.
//!
//! Decides: how a number, a label and a family read. Never: reads a counter by itself.
//! Invariant: families are in the order of their names, series in the order they were added; the same
//! values give the same bytes.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::histogram::Distribution;
use super::names::{Metric, label};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Buckets, sum, count.
    Histogram,
}

/// A page being written.
#[derive(Debug, Default)]
pub(super) struct Page {
    families: BTreeMap<&'static str, Family>,
}

/// One metric of a page.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    text: String,
}

impl Page {
    /// The family of `metric`, with its header.
    pub(super) fn family(&mut self, metric: &Metric, kind: Kind) -> &mut Family {
        self.families.entry(metric.name).or_insert_with(|| {
            let mut text = String::new();
            let _ = writeln!(text, "# HELP {} {}", metric.name, EscapedHelp(metric.help));
            let _ = writeln!(text, "# TYPE {} {}", metric.name, kind.as_str());
            Family { name: metric.name, text }
        })
    }

    pub(super) fn finish(self) -> String {
        self.families.into_values().map(|family| family.text).collect()
    }
}

impl Family {
    /// One sample. `labels` is what stands between the braces.
    pub(super) fn value(&mut self, suffix: &str, labels: &str, value: impl Number) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.text, "{}{suffix}{open}{labels}{close} {}", self.name, value.shown());
    }

    /// The samples of a histogram.
    pub(super) fn distribution(&mut self, labels: &str, read: &Distribution) {
        let comma = if labels.is_empty() { "" } else { "," };
        let le = label::LE;
        for (bound, count) in read.bounds.iter().zip(&read.cumulative) {
            let _ = writeln!(self.text, "{}_bucket{{{labels}{comma}{le}=\"{bound}\"}} {count}", self.name);
        }
        let _ = writeln!(self.text, "{}_bucket{{{labels}{comma}{le}=\"+Inf\"}} {}", self.name, read.count);
        self.value("_sum", labels, read.sum);
        self.value("_count", labels, read.count);
    }
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A sample's value. Infinity and "not a number" have names of their own.
pub(super) trait Number {
    fn shown(&self) -> impl Display;
}

impl Number for u64 {
    fn shown(&self) -> impl Display {
        *self
    }
}

impl Number for f64 {
    fn shown(&self) -> impl Display {
        match *self {
            f64::INFINITY => "+Inf".to_owned(),
            f64::NEG_INFINITY => "-Inf".to_owned(),
            finite => finite.to_string(),
        }
    }
}

/// Adds `name="value"`, after a comma if it is not the first.
pub(super) fn push_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

struct EscapedHelp(&'static str);

impl Display for EscapedHelp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.replace('\\', "\\\\").replace('\n', "\\n"))
    }
}
