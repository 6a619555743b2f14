//! What a user applies last must not matter.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::LazyLock;

use compile::{Facts, Objects, compile};
use proptest::prelude::*;

/// What the golden cases hold.
static CASES: LazyLock<Vec<(Objects, Facts)>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
    let cases = std::fs::read_dir(folder).unwrap();
    cases
        .map(|case| case.unwrap().path().join("in.yaml"))
        .map(|path| support::read(&std::fs::read_to_string(path).unwrap()))
        .collect()
});

/// A case, and the same with its endpoints, routes, and the slices of its Services in another
/// order.
fn shuffled() -> impl Strategy<Value = (Objects, Facts, Objects, Facts)> {
    prop::sample::select(CASES.as_slice()).prop_flat_map(|(objects, facts)| {
        let slices: Vec<_> = facts
            .services
            .iter()
            .map(|(name, service)| {
                let name = name.clone();
                let slices = Just(service.slices.clone()).prop_shuffle();
                slices.prop_map(move |slices| (name.clone(), slices))
            })
            .collect();
        (
            Just(objects.endpoints.clone()).prop_shuffle(),
            Just(objects.routes.clone()).prop_shuffle(),
            slices,
        )
            .prop_map(move |(endpoints, routes, slices)| {
                let mut turned = facts.clone();
                for (name, slices) in slices {
                    turned.services.get_mut(&name).unwrap().slices = slices;
                }
                let other = Objects { endpoints, routes };
                (objects.clone(), facts.clone(), other, turned)
            })
    })
}

proptest! {
    #[test]
    fn order_of_input_does_not_matter((objects, facts, other, turned) in shuffled()) {
        prop_assert_eq!(compile("a", &objects, &facts), compile("a", &other, &turned));
    }

    #[test]
    fn every_object_gets_one_verdict_and_tables_are_complete((objects, facts, ..) in shuffled()) {
        let compiled = compile("a", &objects, &facts);
        prop_assert_eq!(compiled.verdicts.len(), objects.endpoints.len() + objects.routes.len());
        let table = compiled.table;
        for endpoint in table.endpoints.values() {
            prop_assert!(table.profiles.contains_key(&endpoint.profile));
            prop_assert!(table.instances.contains_key(&endpoint.id));
        }
        for set in table.routes.iter().filter_map(|route| route.endpoints.set.as_ref()) {
            prop_assert!(table.sets.contains_key(set));
        }
    }
}
