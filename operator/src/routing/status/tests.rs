//! Each case: what compile and the data planes said → the exact condition a user reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::routing::{
    sessions::{InstanceView, Nack},
    testing::{endpoint_verdict, problem, route_verdict},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// What data planes say of their tables and of one endpoint.
#[derive(Default)]
struct Planes {
    view: View,
    seen: BTreeMap<InstanceId, InstanceView>,
}

fn planes(acked: &[u64]) -> Planes {
    Planes {
        view: View {
            connected: acked.len(),
            acked: acked.to_vec(),
            ..View::default()
        },
        ..Planes::default()
    }
}

fn seeing(connected: usize, instances: &[(&str, u32, &str)]) -> Planes {
    let seen = instances
        .iter()
        .map(|(id, usable, reason)| {
            let seen = InstanceView {
                reported: 1,
                usable: *usable,
                open: 0,
                reason: (*reason).to_owned(),
            };
            ((*id).into(), seen)
        })
        .collect();
    Planes {
        view: View {
            connected,
            ..View::default()
        },
        seen,
    }
}

fn said(planes: &Planes, number: u64) -> DataPlaneReports<'_> {
    DataPlaneReports {
        view: &planes.view,
        seen: &planes.seen,
        number,
        settled: true,
    }
}

fn status(verdict: &Verdict, view: &Planes, revision: u64) -> ObjectStatus {
    let previous = ObjectStatus::default();
    desired_status(verdict, said(view, revision), &previous, at(1)).unwrap()
}

fn read(status: &ObjectStatus, type_: &str) -> String {
    let c = status.condition(type_).unwrap();
    format!("{}/{}: {}", c.status, c.reason, c.message)
}

#[test]
fn programmed_counts_the_data_planes_that_have_the_current_generation() {
    for (acked, revision, expected) in [
        (&[][..], 1, "False/Pending: no data plane is connected"),
        (
            &[0, 0, 1],
            1,
            "False/Pending: in use by 1 of 3 connected data planes",
        ),
        (
            &[41, 41, 41],
            41,
            "True/Programmed: in use by all connected data planes",
        ),
        (
            &[41, 42, 43],
            41,
            "True/Programmed: in use by all connected data planes",
        ),
        (
            &[40],
            41,
            "False/Pending: in use by 0 of 1 connected data planes",
        ),
    ] {
        let status = status(&route_verdict("r", 1), &planes(acked), revision);
        assert_eq!(read(&status, "Programmed"), expected, "{acked:?}");
    }
}

#[test]
fn a_refusal_is_shown_only_on_routes_that_it_keeps_back() {
    let mut view = planes(&[4, 6]);
    view.view.refusals = vec![Nack {
        data_plane: "gw-0".into(),
        acked: 4,
        refused: 6,
        reason: "too many routes".into(),
    }];
    let verdict = route_verdict("r", 1);
    assert_eq!(
        read(&status(&verdict, &view, 5), "Programmed"),
        "False/Refused: data plane gw-0 rejected the routing table and keeps serving the previous one: too many routes"
    );
    assert_eq!(
        read(&status(&verdict, &view, 3), "Programmed"),
        "True/Programmed: in use by all connected data planes"
    );
}

#[test]
fn a_refused_object_says_why_in_accepted_and_is_not_programmed() {
    let mut verdict = route_verdict("r", 1);
    verdict.accepted = Err(problem("spec.matches[0]", "twice"));
    let status = status(&verdict, &planes(&[9]), 1);
    assert_eq!(
        read(&status, "Accepted"),
        "False/Invalid: spec.matches[0]: twice"
    );
    assert_eq!(
        read(&status, "Programmed"),
        "False/Invalid: spec.matches[0]: twice"
    );
    assert_eq!(
        read(&status, "ResolvedRefs"),
        "Unknown/Invalid: not evaluated because the object is not accepted"
    );
}

#[test]
fn while_an_older_form_is_in_use_ready_speaks_of_it_and_programmed_of_the_newest() {
    let mut endpoint = endpoint_verdict("e", 8, 1);
    endpoint.accepted = Err(problem("spec.type", "unknown"));
    endpoint.in_use = Some(7);
    let view = seeing(1, &[("e/1", 1, "")]);
    assert_eq!(
        read(&status(&endpoint, &view, 1), "Ready"),
        "True/Ready: 1 of 1 instances can be used"
    );
    let mut route = route_verdict("r", 8);
    route.accepted = Err(problem("spec.matches[0]", "twice"));
    route.in_use = Some(7);
    assert_eq!(
        read(&status(&route, &planes(&[9]), 1), "Programmed"),
        "False/Invalid: spec.matches[0]: twice"
    );
}

#[test]
fn ready_is_what_data_planes_see() {
    for (total, view, ready, summary) in [
        (
            0,
            planes(&[1]),
            "False/NoReadyInstances: no ready address found",
            "0/0",
        ),
        (
            2,
            planes(&[]),
            "Unknown/Pending: no data plane is connected",
            "0/2",
        ),
        (
            2,
            planes(&[1]),
            "Unknown/Pending: no data plane has reported instance health yet",
            "0/2",
        ),
        (
            2,
            seeing(1, &[("e/1", 1, ""), ("e/2", 0, "timeout")]),
            "True/Ready: 1 of 2 instances can be used",
            "1/2",
        ),
        (
            2,
            seeing(
                1,
                &[("e/2", 0, "timeout"), ("e/1", 0, "connection refused")],
            ),
            "False/NoReadyInstances: none of 2 instances can be used; e/1: connection refused",
            "0/2",
        ),
    ] {
        let status = status(&endpoint_verdict("e", 1, total), &view, 1);
        assert_eq!(read(&status, "Ready"), ready);
        assert_eq!(status.instances.unwrap().summary, summary, "{ready}");
    }
}

#[test]
fn a_route_is_ready_once_it_is_programmed_and_reaches_something() {
    let good = route_verdict("r", 1);
    let mut alone = route_verdict("r", 1);
    alone.reachable = Err(Problem {
        reason: Reason::NoEndpoints,
        field: "spec.endpoints".into(),
        message: "none".into(),
        others: Vec::new(),
    });
    let mut refused = alone.clone();
    refused.accepted = Err(problem("spec.matches[0]", "twice"));
    let mut in_use = refused.clone();
    in_use.in_use = Some(7);
    in_use.reachable = Ok(());
    for (verdict, acked, expected) in [
        (
            &good,
            &[1][..],
            "True/Ready: at least one endpoint has a ready address",
        ),
        (
            &good,
            &[0, 1],
            "Unknown/Pending: in use by 1 of 2 connected data planes",
        ),
        (&good, &[], "Unknown/Pending: no data plane is connected"),
        (&alone, &[1], "False/NoEndpoints: spec.endpoints: none"),
        (&refused, &[1], "False/Invalid: spec.matches[0]: twice"),
        (
            &in_use,
            &[1],
            "True/Ready: at least one endpoint has a ready address",
        ),
    ] {
        let status = status(verdict, &planes(acked), 1);
        assert_eq!(read(&status, "Ready"), expected, "{acked:?}");
    }
}

#[test]
fn a_status_that_says_the_same_is_not_written_again() {
    let (verdict, view) = (route_verdict("r", 1), planes(&[1]));
    let first = status(&verdict, &view, 1);
    assert_eq!(
        desired_status(&verdict, said(&view, 1), &first, at(99)),
        None
    );
}

#[test]
fn the_transition_time_moves_only_with_the_condition_s_status() {
    let verdict = route_verdict("r", 1);
    let first = status(&verdict, &planes(&[1]), 1);
    let none = planes(&[]);
    let third = desired_status(&verdict, said(&none, 1), &first, at(60)).unwrap();
    assert_eq!(
        third.condition("Programmed").unwrap().last_transition_time,
        Time(at(60))
    );
    assert_eq!(
        third.condition("Accepted").unwrap().last_transition_time,
        Time(at(1))
    );
    assert!(first.moved(&third));
}

#[test]
fn a_data_plane_that_joins_or_leaves_rewrites_no_route() {
    let verdict = route_verdict("r", 1);
    let first = status(&verdict, &planes(&[1]), 1);
    for others in [planes(&[1, 1]), planes(&[7, 9, 9])] {
        assert_eq!(
            desired_status(&verdict, said(&others, 1), &first, at(50)),
            None
        );
    }
}

#[test]
fn what_is_not_listed_is_unknown_and_ready_stays_as_it_was() {
    let mut verdict = endpoint_verdict("e", 1, 0);
    let good = endpoint_verdict("e", 1, 2);
    let view = seeing(1, &[("e/1", 1, ""), ("e/2", 1, "")]);
    let before = status(&good, &view, 1);
    verdict.resolved_refs = Err(Problem {
        reason: Reason::Pending,
        field: String::new(),
        message: "not listed".into(),
        others: Vec::new(),
    });
    let now = desired_status(&verdict, said(&view, 1), &before, at(9)).unwrap();
    assert_eq!(read(&now, "ResolvedRefs"), "Unknown/Pending: not listed");
    assert_eq!(now.condition("Ready"), before.condition("Ready"));
    assert_eq!(now.instances, before.instances);
    let new = status(&verdict, &view, 1);
    assert_eq!(read(&new, "Ready"), "Unknown/Pending: not listed");
    // Of an older form that is in use meanwhile, data planes say enough.
    verdict.instances = 2;
    verdict.in_use = Some(1);
    let older = status(&verdict, &view, 1);
    assert_eq!(
        read(&older, "Ready"),
        "True/Ready: 2 of 2 instances can be used"
    );
}

#[test]
fn a_new_generation_is_observed_everywhere() {
    let view = planes(&[3]);
    let first = status(&route_verdict("r", 1), &view, 1);
    let second = desired_status(&route_verdict("r", 2), said(&view, 3), &first, at(2)).unwrap();
    assert_eq!(second.observed_generation, Some(2));
    assert!(
        second
            .conditions
            .iter()
            .all(|c| c.observed_generation == Some(2))
    );
}

#[test]
fn a_restarted_operator_keeps_what_data_planes_said_until_they_are_back() {
    let verdict = route_verdict("r", 1);
    let before = status(&verdict, &planes(&[7, 7]), 7);
    let none = planes(&[]);
    let starting = DataPlaneReports {
        settled: false,
        ..said(&none, 1)
    };
    assert_eq!(desired_status(&verdict, starting, &before, at(9)), None);
    let changed = desired_status(&route_verdict("r", 2), starting, &before, at(9)).unwrap();
    assert_eq!(
        read(&changed, "Programmed"),
        "False/Pending: no data plane is connected"
    );
}

#[test]
fn ready_does_not_flicker_over_a_restart_while_data_planes_come_back_to_report() {
    let verdict = endpoint_verdict("e", 1, 1);
    let before = status(&verdict, &seeing(1, &[("e/1", 1, "")]), 1);
    let back = planes(&[1]);
    let starting = DataPlaneReports {
        settled: false,
        ..said(&back, 1)
    };
    assert_eq!(desired_status(&verdict, starting, &before, at(9)), None);
    let late = desired_status(&verdict, said(&back, 1), &before, at(20)).unwrap();
    assert_eq!(
        read(&late, "Ready"),
        "Unknown/Pending: no data plane has reported instance health yet"
    );
    // What the operator sees for itself waits for nobody.
    let gone = endpoint_verdict("e", 1, 0);
    let gone = desired_status(&gone, starting, &before, at(9)).unwrap();
    assert_eq!(
        read(&gone, "Ready"),
        "False/NoReadyInstances: no ready address found"
    );
}

#[test]
fn the_status_has_the_shape_of_both_kinds() {
    let endpoint = status(&endpoint_verdict("e", 1, 1), &planes(&[1]), 1);
    let value = serde_json::to_value(&endpoint).unwrap();
    let typed: crds::LlmEndpointStatus = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), value);
    let route = status(&route_verdict("r", 1), &planes(&[1]), 1);
    let value = serde_json::to_value(&route).unwrap();
    let typed: crds::OllaRouteStatus = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), value);
}
