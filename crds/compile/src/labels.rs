//! Finding by labels. In: named things with labels. Out: those that a selector picks, by name.
//! Indexed, so that many selectors over many things do not look at each pair.

use std::collections::BTreeMap;

use crds::{LabelSelector, selector::Labels};

use crate::Problem;

type Labelled<'a> = (&'a str, &'a Labels);

#[derive(Default)]
pub(crate) struct LabelIndex<'a> {
    all: Vec<Labelled<'a>>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<Labelled<'a>>>,
}

impl<'a> LabelIndex<'a> {
    pub(crate) fn add(&mut self, name: &'a str, labels: &'a Labels) {
        self.all.push((name, labels));
        for (key, value) in labels {
            let list = self.by_label.entry((key, value)).or_default();
            list.push((name, labels));
        }
    }

    /// Names of those that are selected, in the order they were added.
    pub(crate) fn matching<'s>(
        &'s self,
        selector: &'s LabelSelector,
    ) -> impl Iterator<Item = &'s str> {
        let with_label = |(key, value): (&'s String, &'s String)| {
            let list = self.by_label.get(&(key.as_str(), value.as_str()));
            list.map_or(&[][..], Vec::as_slice)
        };
        // The rarest label leaves the fewest to look at.
        let candidates: &[Labelled<'s>] = selector
            .match_labels
            .iter()
            .map(with_label)
            .min_by_key(|list| list.len())
            .unwrap_or(&self.all);
        candidates
            .iter()
            .filter(move |(_, labels)| selector.matches(labels))
            .map(|(name, _)| *name)
    }
}

/// Refuses expressions whose values do not fit their operator.
pub(crate) fn well_formed(field: &str, selector: &LabelSelector) -> Result<(), Problem> {
    match selector.malformed() {
        None => Ok(()),
        Some(at) => Err(Problem::invalid(
            &format!("{field}.matchExpressions[{at}].values"),
            "In and NotIn need values; Exists and DoesNotExist must have none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use crds::selector::{Operator, Requirement};
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[ab]", "[xy]", 0..3)
    }

    proptest! {
        #[test]
        fn the_index_picks_what_the_selector_of_the_crd_picks(
            things in prop::collection::btree_map("[a-z]{1,3}", labels(), 0..12),
            wanted in labels(),
            key in "[abc]",
            operator in prop::sample::select(vec![Operator::Exists, Operator::DoesNotExist]),
            more in any::<bool>(),
        ) {
            let mut index = LabelIndex::default();
            for (name, labels) in &things {
                index.add(name, labels);
            }
            let requirement = Requirement { key, operator, values: Vec::new() };
            let selector = LabelSelector {
                match_labels: wanted,
                match_expressions: more.then_some(requirement).into_iter().collect(),
            };
            let expected: Vec<_> = things
                .iter()
                .filter(|(_, labels)| selector.matches(labels))
                .map(|(name, _)| name.as_str())
                .collect();
            prop_assert_eq!(index.matching(&selector).collect::<Vec<_>>(), expected);
        }
    }
}
