//! Who is counted, for what, and how long.

use dataplane_protocol::sync::{Breaker, Health};

use super::*;
use crate::routing::testing::{instance_report, resources};

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
fn changes(session: &Session, breaker: Breaker, table: &ResourceSet) -> Vec<bool> {
    let changes = session.report(&report(breaker), table);
    changes.breakers.iter().map(|change| change.open).collect()
}

#[test]
fn a_breaker_counts_as_opened_once_however_many_data_planes_see_it() {
    let table = resources(&[1]);
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
    let table = resources(&[1]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    one.report(&report(Breaker::Closed), &table);
    assert_eq!(sessions.seen("a", "e", &table).len(), 1);
    drop(one);
    let seen = sessions.seen("a", "e", &table);
    assert_eq!((sessions.view("a", later()).connected, seen.len()), (0, 0));
}

#[test]
fn instances_that_are_not_in_the_table_take_no_memory() {
    let table = resources(&[1]);
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
    assert_eq!(one.report(&report, &table), ReportChanges::default());
    assert!(sessions.seen("a", "e", &table).is_empty());
}

#[test]
fn a_report_that_says_nothing_new_is_no_news() {
    let table = resources(&[1]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let changes = one.report(&report(Breaker::Closed), &table);
    assert_eq!(changes.endpoints, ["e".into()].into());
    let again = one.report(&report(Breaker::Closed), &table);
    assert_eq!(again, ReportChanges::default());
    // What is known of it already is none from another one either.
    let two = sessions.open("a", "two", 9, Instant::now()).unwrap();
    let known = two.report(&report(Breaker::Closed), &table);
    assert_eq!(known, ReportChanges::default());
}

#[test]
fn only_routes_that_some_data_plane_lacks_are_looked_at_after_an_answer() {
    let (sessions, now) = (Arc::new(Sessions::default()), Instant::now());
    let open = |name: &str| sessions.open("a", name, 9, now).unwrap();
    let (one, two) = (open("one"), open("two"));
    assert_eq!(
        one.ack(7, now),
        AffectedRoutes::All,
        "nobody counted before"
    );
    assert_eq!(one.ack(7, now), AffectedRoutes::None);
    assert_eq!(two.ack(7, now), AffectedRoutes::After(7));
    assert_eq!(two.ack(8, now), AffectedRoutes::After(7));
    assert_eq!(one.nack(8, "no memory", now), AffectedRoutes::After(7));
    assert_eq!(one.ack(8, now), AffectedRoutes::After(7));
    // A new one begins with an old table, or with none.
    let three = open("three");
    assert_eq!(three.ack(3, now), AffectedRoutes::After(3));
}

#[test]
fn an_instance_that_is_named_a_thousand_times_counts_once() {
    let table = resources(&[1]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let mut many = report(Breaker::Closed);
    many.instances = vec![many.instances[0].clone(); 1000];
    one.report(&many, &table);
    let seen = &sessions.seen("a", "e", &table)["e/1"];
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
    let table = resources(&[1, 2]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    one.report(&saying("e/1", Breaker::Open), &table);
    let second = one.report(&saying("e/2", Breaker::Closed), &table);
    assert_eq!(second.breakers, [], "the first breaker is as it was");
    assert_eq!(sessions.seen("a", "e", &table).len(), 2);
    // All of it is said again now and then, in lines of some instances each.
    for (name, breaker) in [("e/1", Breaker::Open), ("e/2", Breaker::Closed)] {
        assert_eq!(
            one.report(&saying(name, breaker), &table),
            ReportChanges::default()
        );
    }
}

#[test]
fn an_instance_that_left_the_table_counts_for_nothing_at_once() {
    let before = resources(&[1, 2]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    for name in ["e/1", "e/2"] {
        one.report(&saying(name, Breaker::Closed), &before);
    }
    // The data plane has nothing new to say of it.
    let after = resources(&[2]);
    let seen = sessions.seen("a", "e", &after);
    let seen: Vec<_> = seen.keys().map(InstanceId::as_str).collect();
    assert_eq!(seen, ["e/2"]);
}

#[test]
fn what_was_said_of_instances_that_are_gone_is_forgotten() {
    let before = resources(&[1, 2, 3]);
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    for name in ["e/1", "e/2", "e/3"] {
        one.report(&saying(name, Breaker::Closed), &before);
    }
    let after = resources(&[1]);
    one.report(&saying("e/1", Breaker::Closed), &after);
    assert_eq!(sessions.seen("a", "e", &before).len(), 1);
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
    let table = resources(&[1]);
    let sessions = Arc::new(Sessions::default());
    let before = sessions.open("a", "one", 1, Instant::now()).unwrap();
    before.ack(7, Instant::now());
    before.report(&report(Breaker::Open), &table);
    before.expect_back();
    let away = sessions.view("a", later());
    let said = sessions.seen("a", "e", &table);
    assert_eq!((away.connected, &*away.acked), (1, &[7][..]));
    let after = sessions.open("a", "one", 1, Instant::now()).unwrap();
    drop(before);
    let back = sessions.view("a", later());
    assert_eq!((back.connected, &*back.acked), (1, &[7][..]));
    assert_eq!(sessions.seen("a", "e", &table), said);
    // Its breaker was open all the time: that is no news.
    assert_eq!(changes(&after, Breaker::Open, &table), [false; 0]);
    drop(after);
    assert!(sessions.seen("a", "e", &table).is_empty());
}

#[test]
fn a_data_plane_that_is_expected_back_keeps_no_place_and_is_nobody_else() {
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 1, Instant::now()).unwrap();
    one.ack(7, Instant::now());
    one.expect_back();
    assert_eq!(sessions.connected("a"), 0);
    let _two = sessions.open("a", "two", 1, Instant::now()).unwrap();
    assert_eq!(sessions.view("a", later()).acked, [0, 7]);
    assert!(sessions.open("a", "three", 1, Instant::now()).is_none());
    drop(one);
    assert_eq!(sessions.view("a", later()).acked, [0]);
}

#[test]
fn a_data_plane_counts_from_its_first_answer_or_when_it_had_time_for_one() {
    let (sessions, now) = (Arc::new(Sessions::default()), Instant::now());
    let one = sessions.open("a", "one", 9, now).unwrap();
    let two = sessions.open("a", "two", 9, now).unwrap();
    let _silent = sessions.open("a", "silent", 9, now).unwrap();
    let view = sessions.view("a", now);
    assert_eq!((view.connected, view.joining), (0, Some(now + JOINING)));
    assert_eq!(one.ack(0, now), AffectedRoutes::All, "that is news");
    two.nack(1, "no memory", now);
    assert_eq!(sessions.view("a", now).connected, 2);
    let view = sessions.view("a", now + JOINING);
    assert_eq!((view.connected, view.joining), (3, None));
}

#[test]
fn one_namespace_s_data_planes_neither_fill_the_log_nor_take_all_reading() {
    let (sessions, now) = (Sessions::default(), Instant::now());
    let logged = (0..10_000).filter(|_| sessions.may_log("a", now)).count();
    assert_eq!(logged, LOG_BURST as usize);
    assert!(sessions.may_log("b", now));
    assert!(sessions.may_log("a", now + LOG_EVERY));
    let free = (0..BURST).filter(|_| sessions.pace("a", now).is_none());
    assert_eq!(free.count(), BURST as usize);
    assert_eq!(sessions.pace("a", now), Some(now + LINE_EVERY));
    assert_eq!(sessions.pace("b", now), None);
}

#[test]
fn a_session_that_is_let_go_late_takes_nobody_with_it() {
    let sessions = Arc::new(Sessions::default());
    let open = || sessions.open("a", "one", 9, Instant::now()).unwrap();
    let first = open();
    first.expect_back();
    drop(open());
    let third = open();
    third.ack(1, Instant::now());
    drop(first);
    assert_eq!(sessions.view("a", later()).connected, 1);
    assert_eq!(sessions.connected("a"), 1);
}
