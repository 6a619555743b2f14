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

#[test]
fn a_breaker_counts_as_opened_once_however_many_data_planes_see_it() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    let two = sessions.open("a", "two", 9, Instant::now()).unwrap();
    assert!(one.report(&report(Breaker::Closed), &table).is_empty());
    assert!(one.report(&report(Breaker::Open), &table)[0].open);
    assert!(two.report(&report(Breaker::Open), &table).is_empty());
    assert!(two.report(&report(Breaker::Open), &table).is_empty());
    assert!(one.report(&report(Breaker::Closed), &table).is_empty());
    let last = two.report(&report(Breaker::HalfOpen), &table);
    assert_eq!(last.len(), 1);
    assert!(!last[0].open);
}

#[test]
fn what_a_data_plane_said_leaves_with_it() {
    let table = compiled("a", &[1], vec![]).table;
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 9, Instant::now()).unwrap();
    one.report(&report(Breaker::Closed), &table);
    assert_eq!(sessions.view("a", later()).instances.len(), 1);
    drop(one);
    let view = sessions.view("a", later());
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
    assert!(one.report(&report, &table).is_empty());
    assert!(sessions.view("a", later()).instances.is_empty());
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
    before.ack(Revision(7));
    before.report(&report(Breaker::Open), &table);
    before.expect_back();
    let away = sessions.view("a", later());
    assert_eq!((away.connected, &*away.acked), (1, &[Revision(7)][..]));
    let after = sessions.open("a", "one", 1, Instant::now()).unwrap();
    drop(before);
    let back = sessions.view("a", later());
    assert_eq!((back.connected, &*back.acked), (1, &[Revision(7)][..]));
    assert_eq!(back.instances, away.instances);
    // Its breaker was open all the time: that is no news.
    assert!(after.report(&report(Breaker::Open), &table).is_empty());
    drop(after);
    assert!(sessions.view("a", later()).instances.is_empty());
}

#[test]
fn a_data_plane_that_is_expected_back_keeps_no_place_and_is_nobody_else() {
    let sessions = Arc::new(Sessions::default());
    let one = sessions.open("a", "one", 1, Instant::now()).unwrap();
    one.ack(Revision(7));
    one.expect_back();
    assert_eq!(sessions.connected("a"), 0);
    let _two = sessions.open("a", "two", 1, Instant::now()).unwrap();
    assert_eq!(
        sessions.view("a", later()).acked,
        [Revision(0), Revision(7)]
    );
    assert!(sessions.open("a", "three", 1, Instant::now()).is_none());
    drop(one);
    assert_eq!(sessions.view("a", later()).acked, [Revision(0)]);
}

#[test]
fn a_data_plane_counts_from_its_first_answer_or_when_it_had_time_for_one() {
    let (sessions, now) = (Arc::new(Sessions::default()), Instant::now());
    let one = sessions.open("a", "one", 9, now).unwrap();
    let two = sessions.open("a", "two", 9, now).unwrap();
    let _silent = sessions.open("a", "silent", 9, now).unwrap();
    let view = sessions.view("a", now);
    assert_eq!((view.connected, view.joining), (0, Some(now + JOINING)));
    assert!(one.ack(Revision(0)), "that is news");
    two.nack(Revision(1), "no memory");
    assert_eq!(sessions.view("a", now).connected, 2);
    let view = sessions.view("a", now + JOINING);
    assert_eq!((view.connected, view.joining), (3, None));
}
