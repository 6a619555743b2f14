use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    table::{
        Balancer, EndpointRef, FailoverOn, FailoverPolicy, PriorityOrder, RouteMatch, Scheme,
        Selection, Timeouts,
    },
    testing::endpoint,
};

fn route(id: &str, created: i64, endpoints: Selection) -> Route {
    Route {
        id: id.into(),
        created: Some(created),
        matches: vec![RouteMatch::default()],
        endpoints,
        balancer: Balancer::Priority,
        failover: FailoverPolicy {
            on: FailoverOn::default(),
            attempts: 1,
            budget_percent: 0,
        },
        breaker: None,
        timeouts: Timeouts {
            connect_ms: 1,
            first_token_ms: 1,
            first_token_whole_ms: None,
            stream_idle_ms: 1,
            request_ms: None,
        },
    }
}

fn named(endpoints: &[&str]) -> Selection {
    let named = |endpoint: &&str| EndpointRef {
        endpoint: (*endpoint).into(),
        priority: None,
        weight: None,
    };
    Selection {
        refs: endpoints.iter().map(named).collect(),
        ..Selection::default()
    }
}

fn all() -> Selection {
    Selection {
        set: Some("*".into()),
        ..Selection::default()
    }
}

fn set(members: &[&str]) -> EndpointSet {
    EndpointSet {
        id: "*".into(),
        members: members.iter().map(|name| (*name).into()).collect(),
    }
}

fn targets(table: &RoutingTable) -> Vec<String> {
    let targets = table.targets(&table.routes[0]);
    targets.iter().map(|it| it.endpoint.to_string()).collect()
}

/// `endpoints`: name and the ports of its instances.
fn table(endpoints: &[(&str, &[u16])]) -> RoutingTable {
    let mut table = RoutingTable {
        namespace: "a".into(),
        ..RoutingTable::default()
    };
    let profile = Profile {
        name: "openai".into(),
        prefixes: vec![],
        dialects: vec![],
        health_paths: vec![],
        listings: vec![],
    };
    table.profiles.insert("openai".into(), Arc::new(profile));
    for (name, ports) in endpoints {
        let instance = |port: &u16| Instance {
            id: format!("{name}/{port}").into(),
            scheme: Scheme::Http,
            host: "10.0.0.1".into(),
            port: *port,
        };
        let mut list: Vec<_> = ports.iter().map(instance).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        table
            .endpoints
            .insert((*name).into(), Arc::new(endpoint(name)));
        table.instances.insert((*name).into(), Arc::new(list));
    }
    table
}

fn keeping(mut table: RoutingTable, keys: &[ResourceKey]) -> RoutingTable {
    for key in keys {
        if let ResourceKey::Endpoint(endpoint) = key {
            table.endpoints.remove(endpoint);
        }
        if let ResourceKey::Instances(endpoint) = key {
            table.instances.remove(endpoint);
        }
    }
    table.keep.extend(keys.iter().cloned());
    table
}

/// What a data plane makes of `newer` when it holds `held`; `from` is what the operator takes it
/// to hold, nothing for all of the table.
fn told(held: &ResourceSet, from: Option<&ResourceSet>, newer: &ResourceSet) -> ResourceSet {
    let difference = from.cloned().unwrap_or_default().difference(newer);
    let mut set = from.map_or_else(ResourceSet::default, |_| held.clone());
    for resource in difference.upserts {
        set.upsert(resource);
    }
    for key in &difference.keeps {
        set.keep(key, held);
    }
    for key in &difference.removes {
        set.remove(key);
    }
    set.settle(held);
    set
}

fn ports(set: &ResourceSet, endpoint: &str) -> Vec<u16> {
    let table = set.to_table("a");
    let list = table.instances.get(endpoint);
    let list = list.map(|list| list.iter().map(|it| it.port).collect());
    list.unwrap_or_default()
}

#[test]
fn a_table_survives_being_cut_into_resources() {
    let mut table = table(&[("e", &[1, 2]), ("f", &[])]);
    table.routes = vec![Arc::new(route("r", 1, named(&["e"])))];
    assert_eq!(ResourceSet::of(&table).to_table("a"), table);
}

#[test]
fn one_pod_that_comes_or_goes_is_one_instance() {
    let old = ResourceSet::of(&table(&[("e", &[1, 2, 3])]));
    let newer = ResourceSet::of(&table(&[("e", &[1, 3])]));
    let gone = ResourceKey::Instance("e".into(), "e/2".into());
    let difference = old.difference(&newer);
    assert_eq!(
        (difference.upserts.len(), difference.removes),
        (0, vec![gone])
    );
    assert_eq!(newer.difference(&old).upserts.len(), 1);
}

#[test]
fn a_change_to_a_clone_is_the_difference_at_its_key_and_leaves_the_first_as_it_was() {
    let before = ResourceSet::of(&table(&[("e", &[1, 2]), ("f", &[3])]));
    let meant = ResourceSet::of(&table(&[("e", &[2]), ("f", &[3])]));
    let mut after = before.clone();
    let gone = ResourceKey::Instance("e".into(), "e/1".into());
    after.remove(&gone);
    assert_eq!(after.revision(), meant.revision());
    assert_eq!(
        (ports(&before, "e"), ports(&after, "e")),
        (vec![1, 2], vec![2])
    );
    let difference = before.difference_at(&after, [&gone]);
    assert_eq!(difference.removes, std::slice::from_ref(&gone));
    assert_eq!(difference, before.difference(&meant));
    assert_eq!(
        after.difference_at(&before, [&gone]),
        meant.difference(&before)
    );
}

#[test]
fn a_route_that_comes_first_changes_no_other() {
    let with = |routes: &[Route]| {
        let mut table = table(&[("e", &[1])]);
        table.routes = routes.iter().cloned().map(Arc::new).collect();
        ResourceSet::of(&table)
    };
    let (young, old) = (route("young", 20, all()), route("old", 10, all()));
    let before = with(std::slice::from_ref(&young));
    let after = with(&[old.clone(), young]);
    assert_eq!(
        before.difference(&after),
        Difference {
            upserts: vec![Resource::Route(Arc::new(old))],
            ..Difference::default()
        }
    );
    let order: Vec<_> = after
        .to_table("a")
        .routes
        .iter()
        .map(|r| r.id.clone())
        .collect();
    assert_eq!(order, ["old".into(), "young".into()]);
}

#[test]
fn what_the_operator_does_not_know_stays_as_it_is_held() {
    let known = ResourceSet::of(&table(&[("e", &[1, 2]), ("f", &[3])]));
    let keep = [ResourceKey::Instances("e".into())];
    let unknown = ResourceSet::of(&keeping(table(&[("e", &[]), ("f", &[4])]), &keep));
    // By a step, and as a whole table from an operator that has just started.
    for from in [Some(&known), None] {
        let held = told(&known, from, &unknown);
        assert_eq!(held.revision(), unknown.revision());
        assert_eq!(
            (ports(&held, "e"), ports(&held, "f")),
            (vec![1, 2], vec![4])
        );
        // The list comes at last: what it lacks goes.
        let listed = ResourceSet::of(&table(&[("e", &[2, 5]), ("f", &[4])]));
        let held = told(&held, Some(&unknown), &listed);
        assert_eq!(held.revision(), listed.revision());
        assert_eq!(ports(&held, "e"), [2, 5]);
    }
    // After a restart, from the table on its disk.
    let held = ResourceSet::held(&told(&known, None, &unknown).to_table("a"));
    assert_eq!(held.revision(), unknown.revision());
    assert_eq!(ports(&held, "e"), [1, 2]);
    let new = told(&ResourceSet::default(), None, &unknown);
    assert_eq!(new.revision(), unknown.revision());
    assert_eq!((ports(&new, "e"), ports(&new, "f")), (vec![], vec![4]));
}

#[test]
fn a_kept_endpoint_stays_with_its_type_and_a_kept_route_with_its_set() {
    let mut before = table(&[("e", &[1]), ("f", &[2])]);
    before.sets.insert("*".into(), Arc::new(set(&["e", "f"])));
    before.routes = vec![Arc::new(route("r", 1, all()))];
    let before = ResourceSet::of(&before);
    let keep = [
        ResourceKey::Endpoint("e".into()),
        ResourceKey::Instances("e".into()),
        ResourceKey::Route("r".into()),
    ];
    let mut newer = keeping(RoutingTable::default(), &keep);
    newer.namespace = "a".into();
    let newer = ResourceSet::of(&newer);
    let held = told(&before, None, &newer);
    let now = held.to_table("a");
    assert_eq!(held.revision(), newer.revision());
    assert!(now.profiles.contains_key("openai"));
    assert_eq!(targets(&now), ["e"], "f has gone");
    // Kept over a second transaction, and gone when it is said to be gone.
    let again = told(&held, Some(&newer), &newer);
    assert_eq!(again.to_table("a"), now);
    let none = told(&again, Some(&newer), &ResourceSet::default());
    assert_eq!(none.to_table("a"), ResourceSet::default().to_table("a"));
}

#[test]
fn an_endpoint_more_changes_its_set_and_no_route() {
    let with = |names: &[&str]| {
        let parts: Vec<(&str, &[u16])> = names.iter().map(|name| (*name, &[][..])).collect();
        let mut table = table(&parts);
        table.sets.insert("*".into(), Arc::new(set(names)));
        table.routes = vec![Arc::new(route("r", 1, all()))];
        ResourceSet::of(&table)
    };
    let difference = with(&["e"]).difference(&with(&["e", "f"]));
    let keys: Vec<_> = difference.upserts.iter().map(Resource::key).collect();
    assert_eq!(
        keys,
        [
            ResourceKey::Endpoint("f".into()),
            ResourceKey::Set("*".into())
        ]
    );
}

#[test]
fn a_route_s_own_numbers_come_first_and_make_the_tiers() {
    let mut table = table(&[("a", &[]), ("b", &[]), ("c", &[])]);
    table
        .sets
        .insert("*".into(), Arc::new(set(&["a", "b", "c", "refused"])));
    let mut selection = all();
    selection.refs = vec![EndpointRef {
        endpoint: "b".into(),
        priority: Some(7),
        weight: None,
    }];
    let tiers = |selection: &Selection| -> Vec<(String, u32)> {
        let targets = table.targets(&route("r", 1, selection.clone()));
        targets
            .iter()
            .map(|it| (it.endpoint.to_string(), it.tier))
            .collect()
    };
    let of = |tiers: [(&str, u32); 3]| tiers.map(|(name, tier)| (name.to_owned(), tier));
    assert_eq!(tiers(&selection), of([("b", 0), ("a", 1), ("c", 1)]));
    selection.priority_order = PriorityOrder::HighestFirst;
    assert_eq!(tiers(&selection), of([("a", 0), ("c", 0), ("b", 1)]));
}

/// Endpoint → its instances' ports, or nothing where the operator does not know them.
type Shape = BTreeMap<u8, Option<BTreeSet<u16>>>;

fn of_shape(shape: &Shape) -> ResourceSet {
    let names: Vec<(String, Vec<u16>)> = shape
        .iter()
        .map(|(name, ports)| {
            (
                format!("e{name}"),
                ports.iter().flatten().copied().collect(),
            )
        })
        .collect();
    let parts: Vec<(&str, &[u16])> = names
        .iter()
        .map(|(n, p)| (n.as_str(), p.as_slice()))
        .collect();
    let unknown = shape.iter().filter(|(_, ports)| ports.is_none());
    let keep: Vec<_> = unknown
        .map(|(name, _)| ResourceKey::Instances(format!("e{name}").into()))
        .collect();
    ResourceSet::of(&keeping(table(&parts), &keep))
}

proptest! {
    #[test]
    fn a_holder_that_is_told_each_difference_holds_what_is_known_and_what_was(
        shapes in prop::collection::vec(
            prop::collection::btree_map(
                0..3_u8,
                prop::option::of(prop::collection::btree_set(1..5_u16, 0..4)),
                0..3,
            ),
            1..8,
        ),
    ) {
        let mut held = ResourceSet::default();
        let mut before: Option<ResourceSet> = None;
        let mut expected: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
        for shape in &shapes {
            let newer = of_shape(shape);
            held = told(&held, before.as_ref(), &newer);
            prop_assert_eq!(held.revision(), newer.revision());
            expected = shape
                .iter()
                .map(|(name, ports)| {
                    let kept = || expected.get(name).cloned().unwrap_or_default();
                    (*name, ports.clone().unwrap_or_else(kept))
                })
                .collect();
            for (name, now) in &expected {
                let now: Vec<u16> = now.iter().copied().collect();
                prop_assert_eq!(ports(&held, &format!("e{name}")), now, "{:?}", shapes);
            }
            before = Some(newer);
        }
    }
}
