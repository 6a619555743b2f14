//! The sets of endpoints that routes select: all of the namespace, or those with some labels.
//! An endpoint is in its sets whether it was accepted or not: data planes pass over one that is
//! not in their table.

use std::collections::{BTreeMap, BTreeSet};

use crds::LabelSelector;
use dataplane_protocol::{EndpointId, SetId, table::EndpointSet};

use crate::labels::LabelIndex;

/// Members of all sets of a namespace together. Sets are routes times endpoints: without a bound, a
/// few thousand small objects are a table of gigabytes.
pub(crate) const MOST_MEMBERS: usize = 200_000;

/// All endpoints of a namespace by name and labels.
pub(crate) struct Endpoints<'a> {
    /// Shared by all sets.
    names: BTreeMap<&'a str, EndpointId>,
    index: LabelIndex<'a>,
}

/// How many members more the sets may have together.
pub(crate) struct Room<'a> {
    endpoints: &'a Endpoints<'a>,
    left: usize,
    admitted: BTreeSet<SetId>,
}

impl<'a> Room<'a> {
    pub(crate) fn new(endpoints: &'a Endpoints<'a>) -> Self {
        Self {
            endpoints,
            left: MOST_MEMBERS,
            admitted: BTreeSet::new(),
        }
    }

    /// Whether there is room for this set, which has it from then on. `known`: its members, if
    /// they have been counted before.
    pub(crate) fn admit(
        &mut self,
        id: &SetId,
        selector: Option<&LabelSelector>,
        known: Option<usize>,
    ) -> bool {
        if self.admitted.contains(id) {
            return true;
        }
        // Not counted further than it takes to say no.
        let count = || self.endpoints.count(selector, self.left + 1);
        let Some(left) = self.left.checked_sub(known.unwrap_or_else(count)) else {
            return false;
        };
        self.left = left;
        self.admitted.insert(id.clone());
        true
    }
}

/// The set of a route that selects by nothing.
pub(crate) fn all() -> SetId {
    SetId::from("*")
}

/// The same for equal selectors and for no others, whatever their labels hold.
pub(crate) fn of(selector: &LabelSelector) -> SetId {
    if selector.is_empty() {
        return all();
    }
    // Of strings alone: its JSON cannot fail.
    SetId::from(serde_json::to_string(selector).unwrap_or_default())
}

impl<'a> Endpoints<'a> {
    /// Each by its name, and its labels if it has some.
    pub(crate) fn of(
        endpoints: impl Iterator<Item = (&'a str, Option<&'a BTreeMap<String, String>>)>,
    ) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let mut all = Self {
            names: BTreeMap::new(),
            index: LabelIndex::default(),
        };
        for (name, labels) in endpoints {
            all.names.insert(name, EndpointId::from(name));
            all.index.add(name, labels.unwrap_or(&NONE));
        }
        all
    }

    /// The set of those that the selector picks; of all without one.
    pub(crate) fn set(&self, id: &SetId, selector: Option<&LabelSelector>) -> EndpointSet {
        let members = match selector {
            Some(selector) => self.matching(selector),
            None => self.names.values().cloned().collect(),
        };
        EndpointSet {
            id: id.clone(),
            members,
        }
    }

    fn matching(&self, selector: &LabelSelector) -> Vec<EndpointId> {
        let names = self.index.matching(selector);
        names
            .filter_map(|name| self.names.get(name).cloned())
            .collect()
    }

    fn count(&self, selector: Option<&LabelSelector>, most: usize) -> usize {
        match selector {
            Some(selector) => self.index.matching(selector).take(most).count(),
            None => self.names.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_selectors_share_a_set() {
        let of = |labels: &[(&str, &str)]| {
            let labels = labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            of(&LabelSelector {
                match_labels: labels.collect(),
                ..LabelSelector::default()
            })
        };
        assert_ne!(of(&[("a", "1,b=2")]), of(&[("a", "1"), ("b", "2")]));
        assert_eq!(of(&[("b", "2"), ("a", "1")]), of(&[("a", "1"), ("b", "2")]));
        assert_eq!(of(&[]), all());
        let exists: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchExpressions": [{ "key": "a", "operator": "Exists" }]
        }))
        .unwrap();
        assert!(![all(), of(&[("a", "1")])].contains(&super::of(&exists)));
    }
}
