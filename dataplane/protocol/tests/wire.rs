//! Lines of each format as they were released: what this release reads and writes must not change
//! under a number that others already speak.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use dataplane_protocol::{
    Resource, ResourceKey, Revision,
    sync::{FORMATS, ToDataPlane, ToOperator, common_format},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const TO_OPERATOR: &str = include_str!("wire/format-1-to-operator.jsonl");
const TO_DATA_PLANE: &str = include_str!("wire/format-1-to-data-plane.jsonl");

fn values(lines: &str) -> Vec<Value> {
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn stays<T: DeserializeOwned + Serialize>(lines: &str) {
    for line in values(lines) {
        let read: T = serde_json::from_value(line.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), line);
    }
}

#[test]
fn every_line_of_format_1_is_read_and_written_as_it_was() {
    stays::<ToOperator>(TO_OPERATOR);
    stays::<ToDataPlane>(TO_DATA_PLANE);
}

#[test]
fn there_is_a_line_of_every_kind() {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for line in values(TO_OPERATOR).into_iter().chain(values(TO_DATA_PLANE)) {
        for (kind, content) in line.as_object().unwrap() {
            *kinds.entry(kind.clone()).or_default() += 1;
            if kind == "upsert" {
                let resource = content.as_object().unwrap().keys().next().unwrap();
                *kinds.entry(format!("upsert {resource}")).or_default() += 1;
            }
        }
    }
    let kinds: Vec<&str> = kinds.keys().map(String::as_str).collect();
    let expected = [
        "ack",
        "begin",
        "commit",
        "hello",
        "keep",
        "nack",
        "refused",
        "remove",
        "report",
        "upsert",
        "upsert endpoint",
        "upsert instance",
        "upsert profile",
        "upsert route",
        "upsert set",
        "welcome",
    ];
    assert_eq!(kinds, expected);
}

/// The hash is made from the text, so a member that moves is a new format, too.
#[test]
fn a_table_of_format_1_has_the_revision_that_it_had() {
    let mut set = dataplane_protocol::resource::ResourceSet::default();
    for line in values(TO_DATA_PLANE) {
        match serde_json::from_value(line).unwrap() {
            ToDataPlane::Upsert(resource) => set.upsert(resource),
            ToDataPlane::Keep(key) => set.keep(&key, &set.clone()),
            ToDataPlane::Remove(key) => {
                set.remove(&key);
            }
            ToDataPlane::Commit { revision } => assert_eq!(set.revision(), revision),
            _ => {}
        }
    }
    assert_ne!(set.revision(), Revision::default());
}

#[test]
fn what_a_later_release_adds_to_a_line_is_passed_over() {
    for mut line in values(TO_OPERATOR) {
        for content in line.as_object_mut().unwrap().values_mut() {
            content["added_later"] = true.into();
        }
        assert!(serde_json::from_value::<ToOperator>(line).is_ok());
    }
}

#[test]
fn neighbouring_releases_take_the_newest_format_that_both_speak() {
    let newest = FORMATS[0];
    assert_eq!(common_format(&[newest + 1, newest]), Some(newest));
    assert_eq!(common_format(FORMATS), Some(newest));
    assert_eq!(common_format(&[newest + 1]), None);
    assert_eq!(common_format(&[]), None);
}

#[test]
fn a_key_names_its_resource() {
    for line in values(TO_DATA_PLANE) {
        if let Ok(ToDataPlane::Upsert(resource)) = serde_json::from_value(line) {
            let key: ResourceKey = resource.key();
            let text = serde_json::to_value(&key).unwrap();
            let kind = text.as_object().unwrap().keys().next().unwrap().clone();
            let of = serde_json::to_value::<Resource>(resource).unwrap();
            assert!(of.as_object().unwrap().contains_key(&kind), "{kind}");
        }
    }
}
