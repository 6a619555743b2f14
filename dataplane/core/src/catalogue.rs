//! Which instances serve a model: one sorted list of names for the whole fleet, each with the
//! set of its instances, so that a lookup costs two binary searches and no allocation.
//!
//! A name is taken exactly first; where nobody has it so, without regard to (ASCII) case. A
//! name without a tag also means `name:latest`, as Ollama reads it.

use std::{cmp::Ordering, collections::HashMap};

use dataplane_protocol::ModelName;

/// Ollama's tag for a name without one.
const LATEST: &str = ":latest";

/// So many names are put in or taken out one by one; of more, the whole list is gone through once.
const FEW: usize = 8;

#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    /// Sorted by name without case, then by name.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: ModelName,
    /// One bit an instance, by its place in the fleet.
    slots: Vec<u64>,
}

/// What the catalogue holds for one requested name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries<'c> {
    exact: [Option<&'c Entry>; 2],
    loose: [&'c [Entry]; 2],
}

/// How well an instance's name for a model fits the requested one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    Exact,
    ButForCase,
}

impl Catalogue {
    /// Of all instances at once: their places and what each serves.
    pub(crate) fn of<'m>(lists: impl Iterator<Item = (usize, &'m [ModelName])>) -> Self {
        let mut by_name: HashMap<&ModelName, Entry> = HashMap::new();
        for (slot, names) in lists {
            for name in names {
                let entry = by_name.entry(name);
                entry.or_insert_with(|| Entry::of(name, slot)).set(slot);
            }
        }
        let mut entries: Vec<_> = by_name.into_values().collect();
        entries.sort_unstable_by(|a, b| order(a.name.as_str(), b.name.as_str()));
        Self { entries }
    }

    /// The instance at `slot` served `before` and now serves `after`; both sorted. One pass over
    /// each of the lists, however many names they have: requests wait for it.
    pub(crate) fn replace(&mut self, slot: usize, before: &[ModelName], after: &[ModelName]) {
        let mut emptied = Vec::new();
        for name in missing(before, after) {
            if let Ok(at) = self.position(name)
                && let Some(entry) = self.entries.get_mut(at)
            {
                entry.clear(slot);
                if entry.is_empty() {
                    emptied.push(at);
                }
            }
        }
        if emptied.len() > FEW {
            self.entries.retain(|entry| !entry.is_empty());
        } else {
            // From the end, so that the places before stay.
            emptied.sort_unstable();
            for at in emptied.into_iter().rev() {
                self.entries.remove(at);
            }
        }
        let mut new = Vec::new();
        for name in missing(after, before) {
            let found = self.position(name).ok();
            match found.and_then(|at| self.entries.get_mut(at)) {
                Some(entry) => entry.set(slot),
                None => new.push(Entry::of(name, slot)),
            }
        }
        self.insert(new);
    }

    /// Names that are not in it yet, sorted as names are.
    fn insert(&mut self, mut new: Vec<Entry>) {
        if new.len() <= FEW {
            for entry in new {
                if let Err(at) = self.position(&entry.name) {
                    self.entries.insert(at, entry);
                }
            }
        } else {
            let by_name = |a: &Entry, b: &Entry| order(a.name.as_str(), b.name.as_str());
            new.sort_unstable_by(by_name);
            self.entries.append(&mut new);
            // Two sorted runs: that is merging them.
            self.entries.sort_by(by_name);
        }
    }

    /// Where the name is, or is to be.
    fn position(&self, name: &ModelName) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| order(entry.name.as_str(), name.as_str()))
    }

    pub(crate) fn find(&self, model: &str) -> Entries<'_> {
        let plain = self.range(model, "");
        // A name that has a tag means just that.
        let tagged = if model.contains(':') {
            &[]
        } else {
            self.range(model, LATEST)
        };
        let exact = |range: &'_ [Entry], tag| {
            range
                .iter()
                .position(|entry| entry.name.as_str().strip_suffix(tag) == Some(model))
        };
        Entries {
            exact: [
                exact(plain, "").and_then(|at| plain.get(at)),
                exact(tagged, LATEST).and_then(|at| tagged.get(at)),
            ],
            loose: [plain, tagged],
        }
    }

    /// All names with the instances that serve each, sorted without regard to case.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ModelName, impl Iterator<Item = usize>)> {
        self.entries.iter().map(|entry| (&entry.name, entry.iter()))
    }

    /// Entries that are `model` + `tag` but for case; they lie together.
    fn range(&self, model: &str, tag: &str) -> &[Entry] {
        let wanted = || lower(model).chain(lower(tag));
        let from = self
            .entries
            .partition_point(|entry| lower(entry.name.as_str()).cmp(wanted()) == Ordering::Less);
        let rest = self.entries.get(from..).unwrap_or_default();
        let length = rest
            .iter()
            .take_while(|entry| lower(entry.name.as_str()).eq(wanted()))
            .count();
        rest.get(..length).unwrap_or_default()
    }
}

impl Entries<'_> {
    pub(crate) fn fit(&self, slot: usize) -> Option<Fit> {
        if self.exact.iter().flatten().any(|entry| entry.has(slot)) {
            Some(Fit::Exact)
        } else if self
            .loose
            .iter()
            .copied()
            .flatten()
            .any(|entry| entry.has(slot))
        {
            Some(Fit::ButForCase)
        } else {
            None
        }
    }
}

impl Entry {
    fn of(name: &ModelName, slot: usize) -> Self {
        let mut entry = Self {
            name: name.clone(),
            slots: Vec::new(),
        };
        entry.set(slot);
        entry
    }

    fn has(&self, slot: usize) -> bool {
        self.slots
            .get(slot / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    fn set(&mut self, slot: usize) {
        if self.slots.len() <= slot / 64 {
            self.slots.resize(slot / 64 + 1, 0);
        }
        if let Some(word) = self.slots.get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    fn clear(&mut self, slot: usize) {
        if let Some(word) = self.slots.get_mut(slot / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len() * 64).filter(|slot| self.has(*slot))
    }
}

/// Names of `these` that are not among `those`; both sorted.
fn missing<'n>(
    these: &'n [ModelName],
    those: &'n [ModelName],
) -> impl Iterator<Item = &'n ModelName> {
    let mut those = those.iter().peekable();
    these.iter().filter(move |name| {
        while those.next_if(|other| other < name).is_some() {}
        those.peek() != Some(name)
    })
}

fn lower(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(|byte| byte.to_ascii_lowercase())
}

fn order(a: &str, b: &str) -> Ordering {
    lower(a).cmp(lower(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::names;

    #[test]
    fn names_are_found_exactly_then_without_case_then_with_the_latest_tag() {
        let mut catalogue = Catalogue::default();
        catalogue.replace(0, &[], &names(&["Llama3", "phi:latest"]));
        catalogue.replace(70, &[], &names(&["Phi:Latest", "llama3", "qwen:7b"]));
        for (model, slot, expected) in [
            ("llama3", 70, Some(Fit::Exact)),
            ("llama3", 0, Some(Fit::ButForCase)),
            ("LLAMA3", 0, Some(Fit::ButForCase)),
            ("phi", 0, Some(Fit::Exact)),
            ("phi", 70, Some(Fit::ButForCase)),
            ("phi:latest", 0, Some(Fit::Exact)),
            ("qwen", 70, None),
            ("qwen:7b", 70, Some(Fit::Exact)),
            ("llama", 0, None),
            ("", 0, None),
        ] {
            assert_eq!(
                catalogue.find(model).fit(slot),
                expected,
                "{model} on {slot}"
            );
        }
    }

    #[test]
    fn a_long_list_is_exchanged_for_another_that_shares_a_part_of_it() {
        let list = |from: u32| -> Vec<ModelName> {
            let numbers = from..from + 2_000;
            numbers.map(|n| format!("model-{n:07}").into()).collect()
        };
        let (old, new) = (list(0), list(1_000));
        let mut catalogue = Catalogue::default();
        catalogue.replace(0, &[], &old);
        catalogue.replace(0, &old, &new);
        assert_eq!(catalogue.iter().count(), 2_000);
        assert!(catalogue.find("model-0002999").fit(0).is_some());
        assert!(catalogue.find("model-0000999").fit(0).is_none());
    }

    proptest! {
        #[test]
        fn the_catalogue_agrees_with_plain_sets(
            steps in prop::collection::vec(
                (0..130_usize, prop::collection::btree_set("[aAb]{1,2}", 0..6)),
                1..60,
            ),
        ) {
            let mut catalogue = Catalogue::default();
            let mut serves: BTreeMap<usize, Vec<ModelName>> = BTreeMap::new();
            let mut plain: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
            for (slot, after) in steps {
                for set in plain.values_mut() {
                    set.remove(&slot);
                }
                for name in &after {
                    plain.entry(name.clone()).or_default().insert(slot);
                }
                let after: Vec<_> = after.into_iter().map(ModelName::from).collect();
                let before = serves.entry(slot).or_default();
                catalogue.replace(slot, before, &after);
                *before = after;
            }
            plain.retain(|_, set| !set.is_empty());
            let lists: Vec<Vec<ModelName>> = (0..130)
                .map(|slot| {
                    let of_slot = plain.iter().filter(|(_, set)| set.contains(&slot));
                    of_slot.map(|(name, _)| name.as_str().into()).collect()
                })
                .collect();
            let at_once = Catalogue::of(lists.iter().map(Vec::as_slice).enumerate());
            let names_of = |catalogue: &Catalogue| {
                catalogue.iter().map(|(name, slots)| (name.clone(), slots.collect())).collect()
            };
            let one_by_one: Vec<(ModelName, Vec<usize>)> = names_of(&catalogue);
            prop_assert_eq!(names_of(&at_once), one_by_one);
            let held: BTreeMap<String, BTreeSet<usize>> = catalogue
                .iter()
                .map(|(name, slots)| (name.to_string(), slots.collect()))
                .collect();
            prop_assert_eq!(&held, &plain);
            for (name, slots) in &plain {
                for slot in slots {
                    prop_assert_eq!(catalogue.find(name).fit(*slot), Some(Fit::Exact));
                    let loose = catalogue.find(&name.to_uppercase()).fit(*slot);
                    prop_assert!(loose.is_some());
                }
            }
        }
    }
}
