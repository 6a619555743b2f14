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
        };
        let mut state = State::new(settings, DELAY);
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
            pods: PodCounts::default(),
            load_balancers: Vec::new(),
        };
        let key = ("a".to_owned(), kind.object_name().to_owned());
        self.state.take(Change::Child(kind, Apply(key, child)));
    }

    /// Carries out what is to be done. Out: that, by verb and kind.
    fn step(&mut self, routes: Routes) -> Vec<String> {
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
                ..ChildObject::default()
            });
            now.push((kind, there));
        }
        let written = Written {
            namespace: "a".into(),
            now,
            problem: None,
        };
        self.state.note_written(written, self.now);
        done
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
    world.state.recheck();
    assert_eq!(world.step(Routes::InUse).len(), 5, "the regular look");
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
    world
        .state
        .take(Change::Namespace(Apply(namespace(), true)));
    assert_eq!(world.step(Routes::InUse), GONE);
    world
        .state
        .take(Change::Namespace(Apply(namespace(), false)));
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
        assert!(
            !world
                .state
                .decide("a", Routes::InUse, world.now)
                .orders
                .is_empty()
        );
        let written = Written {
            namespace: "a".into(),
            now: Vec::new(),
            problem: Some("forbidden".into()),
        };
        world.state.note_written(written, world.now);
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
    let made = render("a", &effective, &settings);
    let of = |kind| made.iter().find(|child| child.kind == kind).unwrap();
    assert_eq!(
        of(ChildKind::HorizontalPodAutoscaler).body["spec"]["minReplicas"],
        2
    );
    assert_eq!(of(ChildKind::Service).body["spec"]["type"], "LoadBalancer");
    let deployment = &of(ChildKind::Deployment).body["spec"];
    assert!(deployment.get("replicas").is_none());
    assert_eq!(deployment["template"]["metadata"]["labels"]["team"], "x");
}
