//! Reads Prometheus' text format.

use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// Whether it has all these labels.
    pub fn has<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        labels.into_iter().all(|(name, value)| self.labels.get(name).is_some_and(|own| own == value))
    }
}

/// All samples of a page.
pub fn parse(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).filter_map(sample).collect()
}

/// The sum over the samples of that name which have these labels.
pub fn sum<'a>(samples: &[Sample], name: &str, labels: impl IntoIterator<Item = (&'a str, &'a str)> + Clone) -> f64 {
    samples.iter().filter(|sample| sample.name == name && sample.has(labels.clone())).map(|sample| sample.value).sum()
}

/// Which label names each series of a prefix has.
pub fn label_names(samples: &[Sample], prefix: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name.starts_with(prefix)) {
        names.entry(sample.name.clone()).or_default().extend(sample.labels.keys().cloned());
    }
    names
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    Some(Sample { name: name.to_owned(), labels: labels_of(labels.strip_suffix('}')?)?, value })
}

fn labels_of(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}
