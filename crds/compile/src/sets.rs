//! The sets of endpoints that routes select: all of the namespace, or those with some labels.
//! An endpoint is in its sets whether it was accepted or not: data planes pass over one that is
//! not in their table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::LabelSelector;
use dataplane_protocol::{EndpointId, SetId, table::EndpointSet};

use crate::{Kind, Objects, labels::LabelIndex, route::Made};

/// All endpoints of a namespace by name and labels.
pub(crate) struct Endpoints<'a> {
    names: BTreeSet<&'a str>,
    index: LabelIndex<'a>,
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
    pub(crate) fn of(objects: &'a Objects) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let known = objects.endpoints.iter().map(|object| {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            (name, object.metadata.labels.as_ref().unwrap_or(&NONE))
        });
        let others = objects.unreadable_of(Kind::LlmEndpoint);
        let others = others.map(|it| (it.name.as_str(), &it.labels));
        let by_name: BTreeMap<&str, &BTreeMap<String, String>> = known.chain(others).collect();
        let mut index = LabelIndex::default();
        for (name, labels) in &by_name {
            index.add(name, labels);
        }
        Self {
            names: by_name.into_keys().collect(),
            index,
        }
    }

    /// The sets that these routes select.
    pub(crate) fn sets_of(&self, routes: &[Made]) -> BTreeMap<SetId, Arc<EndpointSet>> {
        let mut sets = BTreeMap::new();
        for made in routes {
            let Some(id) = &made.route.endpoints.set else {
                continue;
            };
            if !sets.contains_key(id) {
                let members = match &made.selector {
                    Some(selector) => self.matching(selector),
                    None => self
                        .names
                        .iter()
                        .map(|name| EndpointId::from(*name))
                        .collect(),
                };
                let set = EndpointSet {
                    id: id.clone(),
                    members,
                };
                sets.insert(id.clone(), Arc::new(set));
            }
        }
        sets
    }

    fn matching(&self, selector: &LabelSelector) -> Vec<EndpointId> {
        let names = self.index.matching(selector);
        names.map(EndpointId::from).collect()
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
