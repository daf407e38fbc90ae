//! The pickers of a cluster: one over all of its endpoints, one for each subset that a rule names.
//!
//! Decides: which endpoints each of them is over. Never: picks. Invariant: built once per change of the
//! endpoints, over one shared list, so that an index means the same endpoint in each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::group::Settings;
use super::member::Endpoint;
use super::picker::Picker;

/// Pickers over one list.
pub(super) struct Pickers {
    all: Picker<Endpoint>,
    subsets: Box<[Subset]>,
}

struct Subset {
    picker: Picker<Endpoint>,
    /// Who belongs to it, used or not, in the order of the list.
    members: Vec<usize>,
}

impl Pickers {
    /// Pickers over `endpoints`, as the settings say.
    pub(super) fn new(settings: &Settings, endpoints: Vec<Arc<Endpoint>>, seed: u64) -> Self {
        for (index, endpoint) in endpoints.iter().enumerate() {
            endpoint.live.place.set(index);
        }
        let endpoints: Arc<[Arc<Endpoint>]> = endpoints.into();
        let over = |members: Vec<usize>| {
            let members = kept(settings, &endpoints, members);
            Picker::over(settings.balancing.clone(), Arc::clone(&endpoints), &members, seed)
        };
        let all = over((0..endpoints.len()).collect());
        if settings.subsets.is_empty() {
            return Self { all, subsets: Box::default() };
        }
        let labels: Vec<_> = endpoints.iter().map(|endpoint| &endpoint.written.labels).collect();
        let subset = |members: Vec<usize>| Subset { picker: over(members.clone()), members };
        let subsets = settings.subsets.members(&labels).into_iter().map(subset).collect();
        Self { all, subsets }
    }

    /// The picker over a subset, or over all endpoints.
    pub(super) fn of(&self, subset: Option<usize>) -> &Picker<Endpoint> {
        subset.and_then(|subset| self.subsets.get(subset)).map_or(&self.all, |subset| &subset.picker)
    }

    /// Whether an endpoint belongs to a subset, also one that takes no new traffic.
    pub(super) fn is_within(&self, subset: Option<usize>, endpoint: &Endpoint) -> bool {
        let Some(subset) = subset.and_then(|subset| self.subsets.get(subset)) else { return true };
        self.index_of(endpoint).is_some_and(|index| subset.members.binary_search(&index).is_ok())
    }

    /// Every endpoint, used or not.
    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        self.all.endpoints()
    }

    /// Where an endpoint, perhaps of an older list, stands in this one.
    pub(super) fn index_of(&self, endpoint: &Endpoint) -> Option<usize> {
        let is_it = |other: &Arc<Endpoint>| Arc::ptr_eq(&other.live, &endpoint.live);
        let hint = endpoint.live.place.hint();
        if self.endpoints().get(hint).is_some_and(is_it) {
            return Some(hint);
        }
        self.endpoints().iter().position(is_it)
    }
}

/// What subsetting leaves of the members, level by level, so that each level stays able to take over.
fn kept(settings: &Settings, endpoints: &[Arc<Endpoint>], members: Vec<usize>) -> Vec<usize> {
    let Some(subsetting) = settings.subsetting else { return members };
    let mut levels = BTreeMap::<u32, Vec<(String, usize)>>::new();
    for index in members {
        let endpoint = &endpoints[index];
        if endpoint.weight > 0 {
            let address = endpoint.address.to_string();
            levels.entry(endpoint.written.priority).or_default().push((address, index));
        }
    }
    levels.into_values().flat_map(|level| subsetting.keep(level)).collect()
}
