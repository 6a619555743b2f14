//! What happens to a namespace's gateway, as its team would notice it.

use crds::{OllaGatewaySpec, gateway::ServiceSettings};
use serde_json::json;

use super::{
    super::{
        plan::Seen,
        settings::Defaults,
        status::PodCounts,
        watch::Update::{Apply, Delete, Reset},
    },
    *,
};

const DELAY: Duration = Duration::from_mins(1);

/// A cluster that does what it is told, and the state that watches it.
struct World {
    state: State,
    now: Instant,
    uid: u32,
}

impl World {
    fn new() -> Self {
        Self::with(Defaults::default())
    }

    fn with(defaults: Defaults) -> Self {
        let settings = Settings {
            image: "ours".into(),
            operator_url: "https://o:9443".into(),
            defaults,
            owner: None,
            removal_delay: DELAY,
        };
        let mut state = State::new(settings);
        state.take(Change::Gateway(Reset(vec![])));
        state.take(Change::Namespace(Reset(vec![])));
        for kind in ChildKind::ALL {
            assert!(!state.is_listed());
            state.take(Change::Child(kind, Reset(vec![])));
        }
        assert!(state.is_listed());
        let now = Instant::now();
        Self { state, now, uid: 0 }
    }

    fn gateway(&mut self, name: &str, created: i64, spec: OllaGatewaySpec) {
        let object = GatewayObject {
            generation: 1,
            created,
            spec: Ok(spec),
            status: OllaGatewayStatus::default(),
        };
        let key = ("a".to_owned(), name.to_owned());
        self.state
            .take(Change::Gateway(Apply(key, Box::new(object))));
    }

    fn child(&mut self, kind: ChildKind, hash: Option<&str>, version: &str) {
        self.uid += 1;
        let child = ChildObject {
            seen: Seen {
                uid: format!("u{}", self.uid),
                ours: hash.is_some(),
                hash: hash.map(str::to_owned),
                version: version.into(),
            },
            ..ChildObject::default()
        };
        let key = ("a".to_owned(), kind.object_name().to_owned());
        self.state.take(Change::Child(kind, Apply(key, child)));
    }

    /// Carries out what is to be done. Out: that, by verb and kind.
    fn step(&mut self, routes: Routes) -> Vec<String> {
        // What is done on purpose is not done too often.
        self.now += WRITES_WITHIN / 6;
        let decision = self.state.decide("a", routes, self.now);
        let mut done = Vec::new();
        let mut now = Vec::new();
        for order in decision.orders {
            let kind = order.kind();
            let (verb, child) = match order {
                Order::Create(child) => ("create", Some(child)),
                Order::Apply { child, .. } => ("apply", Some(child)),
                Order::Delete { .. } => ("delete", None),
            };
            done.push(format!("{verb} {}", kind.as_str()));
            let there = child.map(|child| ChildObject {
                seen: Seen {
                    uid: "u".into(),
                    ours: true,
                    hash: Some(child.hash),
                    version: "1".into(),
                },
                pods: PodCounts {
                    desired: child.body["spec"]["replicas"].as_i64().unwrap_or(1),
                    ..PodCounts::default()
                },
                ..ChildObject::default()
            });
            now.push((kind, there));
        }
        if !done.is_empty() {
            let written = Written {
                namespace: "a".into(),
                now,
                goal: decision.goal,
                problem: None,
            };
            self.state.note_written(written, self.now);
        }
        done
    }

    /// The API server refuses what is to be done.
    fn fail(&mut self, routes: Routes) {
        let decision = self.state.decide("a", routes, self.now);
        let written = Written {
            namespace: "a".into(),
            now: Vec::new(),
            goal: decision.goal,
            problem: Some("forbidden".into()),
        };
        self.state.note_written(written, self.now);
    }

    /// Why there is no gateway, and what is in the way.
    fn why(&mut self, routes: Routes) -> String {
        let decision = self.state.decide("a", routes, self.now);
        let foreign = decision.in_the_way.iter().map(|kind| kind.as_str());
        let off = decision.off.into_iter().chain(foreign).collect::<Vec<_>>();
        decision.refusal.unwrap_or_else(|| off.join(", "))
    }
}

const ALL: [&str; 5] = [
    "create ServiceAccount",
    "create NetworkPolicy",
    "create Deployment",
    "create Service",
    "create PodDisruptionBudget",
];

const GONE: [&str; 5] = [
    "delete PodDisruptionBudget",
    "delete Service",
    "delete Deployment",
    "delete NetworkPolicy",
    "delete ServiceAccount",
];

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_namespace_gets_its_gateway_with_its_first_route_and_loses_it_some_time_after_its_last() {
    let mut world = World::new();
    for routes in [Routes::Unknown, Routes::None, Routes::Refused] {
        assert_eq!(world.step(routes), nothing(), "{routes:?}");
    }
    assert_eq!(world.step(Routes::InUse), ALL);
    assert_eq!(world.step(Routes::InUse), nothing());
    assert_eq!(world.step(Routes::None), nothing());
    world.now += DELAY / 2;
    assert_eq!(world.step(Routes::InUse), nothing(), "it came back in time");
    assert_eq!(world.step(Routes::None), nothing());
    world.now += DELAY;
    assert_eq!(world.step(Routes::None), GONE);
}

#[test]
fn a_gateway_stays_while_routes_are_refused_or_not_known() {
    let mut world = World::new();
    world.step(Routes::InUse);
    for routes in [Routes::Refused, Routes::Unknown] {
        assert_eq!(world.step(routes), nothing());
        world.now += DELAY * 2;
        assert_eq!(world.step(routes), nothing(), "{routes:?}");
    }
}

#[test]
fn what_somebody_changed_or_deleted_is_put_right() {
    let mut world = World::new();
    world.step(Routes::InUse);
    let key = ("a".to_owned(), "olla".to_owned());
    world
        .state
        .take(Change::Child(ChildKind::Service, Delete(key)));
    assert_eq!(world.step(Routes::InUse), ["create Service"]);
    let hash = |world: &World| {
        let child = &world.state.children["a"][&ChildKind::Deployment];
        child.seen.hash.clone().unwrap()
    };
    let same = hash(&world);
    world.child(ChildKind::Deployment, Some(&same), "2");
    assert_eq!(world.step(Routes::InUse), ["apply Deployment"]);
    let mut writes = 0;
    for _ in 0..RECHECK.as_secs() * 2 {
        world.now += Duration::from_secs(1);
        world.state.recheck(world.now);
        let decision = world.state.decide("a", Routes::InUse, world.now);
        if decision.orders.is_empty() {
            continue;
        }
        writes += 1;
        let seen = world.state.children["a"].clone();
        let now = seen.into_iter().map(|(kind, child)| (kind, Some(child)));
        let written = Written {
            namespace: "a".into(),
            now: now.collect(),
            goal: decision.goal,
            problem: None,
        };
        world.state.note_written(written, world.now);
    }
    assert_eq!(writes, 2, "the regular look");
}

#[test]
fn an_object_that_the_operator_did_not_make_is_never_touched() {
    let mut world = World::new();
    world.child(ChildKind::Service, None, "1");
    assert_eq!(world.step(Routes::InUse), nothing());
    assert_eq!(world.why(Routes::InUse), "Service");
    let key = ("a".to_owned(), "olla".to_owned());
    world
        .state
        .take(Change::Child(ChildKind::Service, Delete(key)));
    assert_eq!(world.step(Routes::InUse), ALL);
}

#[test]
fn a_gateway_can_be_switched_off_by_object_and_by_label() {
    let mut world = World::new();
    world.step(Routes::InUse);
    let off = OllaGatewaySpec {
        enabled: Some(false),
        ..OllaGatewaySpec::default()
    };
    world.gateway("g", 1, off);
    assert_eq!(world.step(Routes::InUse), GONE);
    assert_eq!(world.why(Routes::InUse), "spec.enabled is false");
    world.gateway("g", 1, OllaGatewaySpec::default());
    assert_eq!(world.step(Routes::InUse), ALL);
    let namespace = || (String::new(), "a".to_owned());
    world.state.take(Change::Namespace(Apply(
        namespace(),
        NamespaceState::Disabled,
    )));
    assert_eq!(world.step(Routes::InUse), GONE);
    world
        .state
        .take(Change::Namespace(Apply(namespace(), NamespaceState::Open)));
    assert_eq!(world.step(Routes::InUse), ALL);
}

#[test]
fn of_several_gateways_the_oldest_counts_and_a_bad_one_changes_nothing() {
    let mut world = World::new();
    world.step(Routes::InUse);
    let with_image = || OllaGatewaySpec {
        image: Some("other".into()),
        ..OllaGatewaySpec::default()
    };
    world.gateway("first", 1, OllaGatewaySpec::default());
    world.gateway("second", 2, with_image());
    assert_eq!(world.step(Routes::InUse), nothing());
    let decision = world.state.decide("a", Routes::InUse, world.now);
    let counts = DataPlaneCounts::default();
    let statuses = world
        .state
        .statuses("a", &decision, &counts, Timestamp::UNIX_EPOCH);
    let accepted: Vec<_> = statuses
        .iter()
        .map(|(name, status)| (name.as_str(), status.conditions[0].reason.as_str()))
        .collect();
    assert_eq!(accepted, [("first", "Accepted"), ("second", "Conflicted")]);
    let key = ("a".to_owned(), "first".to_owned());
    world.state.take(Change::Gateway(Delete(key)));
    assert_eq!(world.step(Routes::InUse), nothing());
    assert!(world.why(Routes::InUse).starts_with("spec.image: "));
}

#[test]
fn a_write_that_fails_is_tried_again_later_and_later() {
    let mut world = World::new();
    let mut waited = Vec::new();
    for _ in 0..12 {
        world.fail(Routes::InUse);
        let decision = world.state.decide("a", Routes::InUse, world.now);
        assert!(decision.orders.is_empty());
        let again = decision.again.unwrap();
        waited.push((again - world.now).as_secs());
        world.now = again;
    }
    assert_eq!(waited[..4], [1, 2, 4, 8]);
    assert_eq!(waited[11], MAX_RETRY.as_secs());
}

#[test]
fn an_object_sets_what_it_names_and_leaves_the_rest_to_the_administrator() {
    let defaults: Defaults = serde_json::from_value(json!({
        "spec": {
            "replicas": 5,
            "service": { "type": "LoadBalancer", "annotations": { "a": "1" } },
            "pod": { "labels": { "team": "x" } },
        },
        "allowImage": true,
    }))
    .unwrap();
    let settings = World::with(defaults).state.settings;
    let own = OllaGatewaySpec {
        autoscaling: serde_json::from_value(json!({ "maxReplicas": 9, "targetCpuPercent": 70 }))
            .ok(),
        service: Some(ServiceSettings {
            annotations: [("b".to_owned(), "2".to_owned())].into(),
            ..ServiceSettings::default()
        }),
        image: Some("mine".into()),
        ..OllaGatewaySpec::default()
    };
    let effective = settings.effective(Some(&own)).unwrap();
    assert_eq!(effective.image, "mine");
    assert_eq!(
        effective.spec.replicas, None,
        "an autoscaler is in place of a number"
    );
    let service = effective.spec.service.clone().unwrap();
    assert_eq!(service.annotations.len(), 2);
    let made = render("a", &effective, &settings, None, Some(3));
    let of = |kind| made.iter().find(|child| child.kind == kind).unwrap();
    assert_eq!(
        of(ChildKind::HorizontalPodAutoscaler).body["spec"]["minReplicas"],
        2
    );
    assert_eq!(of(ChildKind::Service).body["spec"]["type"], "LoadBalancer");
    let deployment = &of(ChildKind::Deployment).body["spec"];
    assert_eq!(deployment["replicas"], 3);
    assert_eq!(deployment["template"]["metadata"]["labels"]["team"], "x");
}

fn autoscaled() -> OllaGatewaySpec {
    let bounds = json!({ "minReplicas": 4, "maxReplicas": 9, "targetCpuPercent": 70 });
    OllaGatewaySpec {
        autoscaling: serde_json::from_value(bounds).ok(),
        ..OllaGatewaySpec::default()
    }
}

fn replicas(spec: u32) -> OllaGatewaySpec {
    OllaGatewaySpec {
        replicas: Some(spec),
        ..OllaGatewaySpec::default()
    }
}

/// As the next write of the Deployment has them.
fn pods_to_be(world: &mut World) -> Option<i64> {
    let decision = world.state.decide("a", Routes::InUse, world.now);
    decision.orders.iter().find_map(|order| match order {
        Order::Create(child) | Order::Apply { child, .. }
            if child.kind == ChildKind::Deployment =>
        {
            child.body["spec"]["replicas"].as_i64()
        }
        _ => None,
    })
}

#[test]
fn an_autoscaler_takes_over_the_pods_that_there_are() {
    let mut world = World::new();
    world.gateway("g", 1, autoscaled());
    assert_eq!(pods_to_be(&mut world), Some(4), "the least at first");
    world.gateway("g", 1, replicas(8));
    world.step(Routes::InUse);
    world.gateway("g", 1, autoscaled());
    assert_eq!(pods_to_be(&mut world), Some(8));
}

#[test]
fn the_pods_that_somebody_elses_autoscaler_has_set_are_not_taken_away() {
    let mut world = World::new();
    world.step(Routes::InUse);
    let mut scaled = world.state.children["a"][&ChildKind::Deployment].clone();
    scaled.seen.version = "2".into();
    scaled.pods.desired = 7;
    scaled.autoscaled = true;
    let key = ("a".to_owned(), "olla-gateway".to_owned());
    let change = Change::Child(ChildKind::Deployment, Apply(key, scaled));
    world.state.take(change);
    assert_eq!(pods_to_be(&mut world), Some(7));
    world.gateway("g", 1, replicas(3));
    assert_eq!(
        pods_to_be(&mut world),
        Some(3),
        "who asks for a number gets it"
    );
}

#[test]
fn a_correction_does_not_wait_for_what_it_corrects() {
    let mut world = World::new();
    for _ in 0..9 {
        world.fail(Routes::InUse);
    }
    assert_eq!(world.step(Routes::InUse), nothing());
    world.gateway("g", 1, replicas(3));
    assert_eq!(world.step(Routes::InUse), ALL);
    assert_eq!(world.state.problem("a"), None);
}

#[test]
fn a_refused_gateway_changes_nothing_and_can_still_be_switched_off() {
    let refused = || OllaGatewaySpec {
        image: Some("other".into()),
        ..OllaGatewaySpec::default()
    };
    let mut world = World::new();
    world.gateway("g", 1, replicas(3));
    world.step(Routes::InUse);
    world.gateway("g", 1, refused());
    assert_eq!(world.step(Routes::InUse), nothing());
    let key = ("a".to_owned(), "olla".to_owned());
    world
        .state
        .take(Change::Child(ChildKind::Service, Delete(key)));
    assert_eq!(world.step(Routes::InUse), ["create Service"]);
    let namespace = (String::new(), "a".to_owned());
    let disabled = Apply(namespace, NamespaceState::Disabled);
    world.state.take(Change::Namespace(disabled));
    assert_eq!(world.step(Routes::InUse), GONE);
}

#[test]
fn what_the_watch_says_during_a_write_counts_more_than_its_result() {
    let mut world = World::new();
    let decision = world.state.decide("a", Routes::InUse, world.now);
    world.child(ChildKind::Service, Some("made"), "1");
    let key = ("a".to_owned(), "olla".to_owned());
    world
        .state
        .take(Change::Child(ChildKind::Service, Delete(key)));
    let made = ChildObject {
        seen: Seen {
            ours: true,
            ..Seen::default()
        },
        ..ChildObject::default()
    };
    let written = Written {
        namespace: "a".into(),
        now: vec![(ChildKind::Service, Some(made))],
        goal: decision.goal,
        problem: None,
    };
    world.state.note_written(written, world.now);
    let done = world.step(Routes::InUse);
    assert!(done.contains(&"create Service".to_owned()), "{done:?}");
}

#[test]
fn whoever_answers_each_write_with_one_of_its_own_is_not_answered_for_ever() {
    let mut world = World::new();
    world.step(Routes::InUse);
    let mut writes = 0;
    for version in 0..100 {
        let hash = world.state.children["a"][&ChildKind::Deployment]
            .seen
            .hash
            .clone();
        world.child(
            ChildKind::Deployment,
            hash.as_deref(),
            &format!("theirs {version}"),
        );
        let decision = world.state.decide("a", Routes::InUse, world.now);
        if !decision.orders.is_empty() {
            writes += 1;
            let written = Written {
                namespace: "a".into(),
                now: Vec::new(),
                goal: decision.goal,
                problem: None,
            };
            world.state.note_written(written, world.now);
        }
    }
    assert!(writes <= MOST_WRITES + 1, "{writes}");
    let problem = world.state.problem("a").unwrap();
    assert!(problem.starts_with("somebody else changes"), "{problem}");
}

#[test]
fn a_new_leader_writes_nothing_where_all_is_as_it_should_be() {
    let mut before = World::new();
    before.step(Routes::InUse);
    let mut after = World::new();
    after.state.children = before.state.children;
    assert_eq!(after.step(Routes::InUse), nothing());
}

#[test]
fn without_the_owner_nothing_is_written_and_with_another_one_all_is() {
    let mut world = World::new();
    world.state.settings.owner = Some("olla-operator".into());
    assert_eq!(world.step(Routes::InUse), nothing());
    world.state.take(Change::Owner(Some("one".into())));
    assert_eq!(world.step(Routes::InUse), ALL);
    world.state.take(Change::Owner(None));
    assert_eq!(world.step(Routes::InUse), nothing());
    world.state.take(Change::Owner(Some("two".into())));
    assert_eq!(world.step(Routes::InUse).len(), ALL.len());
}
