//! Subsets: endpoints by their labels.
//!
//! Decides: which endpoints a rule's labels mean, and what stands in for a subset that is empty. Never:
//! picks. Invariant: membership alone counts, not health: a subset whose endpoints are all down is not
//! empty, and its own priorities and panic apply to it (Envoy).

use std::collections::BTreeMap;

/// Labels that an endpoint has to have, all of them.
pub type Selector = BTreeMap<String, String>;

/// The subsets that rules name of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subsets {
    selectors: Vec<Selector>,
    fallback: Fallback,
}

/// What stands in for an empty subset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallback {
    /// Nothing: the request fails.
    #[default]
    None,
    /// All endpoints.
    Any,
    /// Those with these labels.
    Default(Selector),
}

impl Subsets {
    /// The subsets of a cluster; each is kept once.
    pub fn new(mut selectors: Vec<Selector>, fallback: Fallback) -> Self {
        selectors.sort();
        selectors.dedup();
        Self { selectors, fallback }
    }

    /// Whether no rule names one.
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// The number by which an attempt asks for a subset.
    pub fn number(&self, selector: &Selector) -> Option<usize> {
        self.selectors.binary_search(selector).ok()
    }

    /// The members of every subset, by its number; `labels` are those of all endpoints.
    pub(super) fn members(&self, labels: &[&Selector]) -> Vec<Vec<usize>> {
        let with = |selector: &Selector| -> Vec<usize> {
            labels.iter().enumerate().filter(|(_, labels)| holds(selector, labels)).map(|(index, _)| index).collect()
        };
        let or_else = |members: Vec<usize>| match &self.fallback {
            _ if !members.is_empty() => members,
            Fallback::None => members,
            Fallback::Any => (0..labels.len()).collect(),
            Fallback::Default(selector) => with(selector),
        };
        self.selectors.iter().map(with).map(or_else).collect()
    }
}

fn holds(selector: &Selector, labels: &Selector) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Selector {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_subset_is_who_has_all_the_labels_and_else_what_the_fallback_says() {
        let endpoints =
            [labels(&[("v", "1")]), labels(&[("v", "2"), ("tier", "gold")]), labels(&[("v", "2")]), labels(&[])];
        let endpoints: Vec<&Selector> = endpoints.iter().collect();
        let wanted = [labels(&[("v", "2")]), labels(&[("v", "2"), ("tier", "gold")]), labels(&[("v", "3")])];
        for (fallback, for_none) in [
            (Fallback::None, vec![]),
            (Fallback::Any, vec![0, 1, 2, 3]),
            (Fallback::Default(labels(&[("v", "1")])), vec![0]),
        ] {
            let subsets = Subsets::new([&wanted[..], &wanted[..1]].concat(), fallback);
            let members = subsets.members(&endpoints);
            let of = |selector: &Selector| members[subsets.number(selector).unwrap()].clone();
            assert_eq!((of(&wanted[0]), of(&wanted[1]), of(&wanted[2])), (vec![1, 2], vec![1], for_none));
            assert_eq!((members.len(), subsets.number(&labels(&[]))), (3, None));
        }
    }
}
