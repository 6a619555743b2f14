//! Who is counted, for what, and how long.

use super::*;
use crate::routing::testing::{compiled, instance_report};

/// When all that have joined count.
fn later() -> Instant {
    Instant::now() + JOINING
}

fn report(breaker: Breaker) -> Report {
    Report {
        instances: vec![instance_report("e", "e/1", Health::Healthy, breaker)],
    }
}

/// For each breaker that changed with the report: whether it is open now.
fn changes(session: &Session, breaker: Breaker, table: &RoutingTable) -> Vec<bool> {
    let changes = session.report(&report(breaker), table);
    changes.iter().flatten().map(|change| change.open).collect()
}

#[test]
fn a_breaker_counts_as_opened_once_however_many_data_planes_see_it() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let two = sessions.open("a", "two", 9, Instant::now()).unwrap();
    assert_eq!(changes(&one, Breaker::Closed, &table), [false; 0]);
    assert_eq!(changes(&one, Breaker::Open, &table), [true]);
    assert_eq!(changes(&two, Breaker::Open, &table), [false; 0]);
    assert_eq!(changes(&two, Breaker::Open, &table), [false; 0]);
    assert_eq!(changes(&one, Breaker::Closed, &table), [false; 0]);
    assert_eq!(changes(&two, Breaker::HalfOpen, &table), [false]);
}

#[test]
fn what_a_data_plane_said_leaves_with_it() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    one.report(&report(Breaker::Closed), &table);
    assert_eq!(sessions.view("a", &table, later()).instances.len(), 1);
    drop(one);
    let view = sessions.view("a", &table, later());
    assert_eq!((view.connected, view.instances.len()), (0, 0));
}

#[test]
fn instances_that_are_not_in_the_table_take_no_memory() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let report = Report {
        instances: vec![instance_report(
            "e",
            "e/invented",
            Health::Healthy,
            Breaker::Open,
        )],
    };
    assert_eq!(one.report(&report, &table), None);
    assert!(sessions.view("a", &table, later()).instances.is_empty());
}

#[test]
fn a_report_that_says_nothing_new_is_no_news() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    assert!(one.report(&report(Breaker::Closed), &table).is_some());
    assert_eq!(one.report(&report(Breaker::Closed), &table), None);
}

#[test]
fn an_instance_that_is_named_a_thousand_times_counts_once() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let mut many = report(Breaker::Closed);
    many.instances = vec![many.instances[0].clone(); 1000];
    one.report(&many, &table);
    let seen = &sessions.view("a", &table, later()).instances["e"]["e/1"];
    assert_eq!((seen.reported, seen.usable), (1, 1));
}

/// One that says this of one instance.
fn saying(name: &str, breaker: Breaker) -> Report {
    Report {
        instances: vec![instance_report("e", name, Health::Healthy, breaker)],
    }
}

#[test]
fn reports_add_to_what_was_said_and_change_nothing_of_the_rest() {
    let table = compiled("a", &[1, 2], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    one.report(&saying("e/1", Breaker::Open), &table);
    let second = one.report(&saying("e/2", Breaker::Closed), &table);
    assert_eq!(second, Some(vec![]), "the first breaker is as it was");
    assert_eq!(sessions.view("a", &table, later()).instances["e"].len(), 2);
    // All of it is said again now and then, in lines of some instances each.
    for (name, breaker) in [("e/1", Breaker::Open), ("e/2", Breaker::Closed)] {
        assert_eq!(one.report(&saying(name, breaker), &table), None);
    }
}

#[test]
fn an_instance_that_left_the_table_counts_for_nothing_at_once() {
    let before = compiled("a", &[1, 2], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    for name in ["e/1", "e/2"] {
        one.report(&saying(name, Breaker::Closed), &before);
    }
    // The data plane has nothing new to say of it.
    let after = compiled("a", &[2], vec![]).table;
    let view = sessions.view("a", &after, later());
    let seen: Vec<_> = view.instances["e"].keys().map(InstanceId::as_str).collect();
    assert_eq!(seen, ["e/2"]);
}

#[test]
fn what_was_said_of_instances_that_are_gone_is_forgotten() {
    let before = compiled("a", &[1, 2, 3], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    for name in ["e/1", "e/2", "e/3"] {
        one.report(&saying(name, Breaker::Closed), &before);
    }
    let after = compiled("a", &[1], vec![]).table;
    one.report(&saying("e/1", Breaker::Closed), &after);
    assert_eq!(sessions.view("a", &before, later()).instances["e"].len(), 1);
}

#[test]
fn a_namespace_takes_no_more_data_planes_than_its_limit() {
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 1, Instant::now());
    assert!(one.is_some());
    assert!(sessions.open("a", "two", 1, Instant::now()).is_none());
    assert!(sessions.open("b", "two", 1, Instant::now()).is_some());
    drop(one);
    assert!(sessions.open("a", "two", 1, Instant::now()).is_some());
}

#[test]
fn a_data_plane_that_is_expected_back_takes_up_what_it_said() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let before = sessions.open("a", "one", 1, Instant::now()).unwrap();
    before.ack(7);
    before.report(&report(Breaker::Open), &table);
    before.expect_back();
    let away = sessions.view("a", &table, later());
    assert_eq!((away.connected, &*away.acked), (1, &[7][..]));
    let after = sessions.open("a", "one", 1, Instant::now()).unwrap();
    drop(before);
    let back = sessions.view("a", &table, later());
    assert_eq!((back.connected, &*back.acked), (1, &[7][..]));
    assert_eq!(back.instances, away.instances);
    // Its breaker was open all the time: that is no news.
    assert_eq!(changes(&after, Breaker::Open, &table), [false; 0]);
    drop(after);
    assert!(sessions.view("a", &table, later()).instances.is_empty());
}

#[test]
fn a_data_plane_that_is_expected_back_keeps_no_place_and_is_nobody_else() {
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 1, Instant::now()).unwrap();
    one.ack(7);
    one.expect_back();
    assert_eq!(sessions.connected("a"), 0);
    let _two = sessions.open("a", "two", 1, Instant::now()).unwrap();
    assert_eq!(
        sessions.view("a", &RoutingTable::default(), later()).acked,
        [0, 7]
    );
    assert!(sessions.open("a", "three", 1, Instant::now()).is_none());
    drop(one);
    assert_eq!(
        sessions.view("a", &RoutingTable::default(), later()).acked,
        [0]
    );
}

#[test]
fn a_data_plane_counts_from_its_first_answer_or_when_it_had_time_for_one() {
    let (sessions, now) = (Arc::new(Sessions::default()), Instant::now());
    let one = sessions.open("a", "one", 9, now).unwrap();
    let two = sessions.open("a", "two", 9, now).unwrap();
    let _silent = sessions.open("a", "silent", 9, now).unwrap();
    let view = sessions.view("a", &RoutingTable::default(), now);
    assert_eq!((view.connected, view.joining), (0, Some(now + JOINING)));
    assert!(one.ack(0), "that is news");
    two.nack(1, "no memory");
    assert_eq!(
        sessions.view("a", &RoutingTable::default(), now).connected,
        2
    );
    let view = sessions.view("a", &RoutingTable::default(), now + JOINING);
    assert_eq!((view.connected, view.joining), (3, None));
}
