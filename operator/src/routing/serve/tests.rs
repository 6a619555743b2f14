use std::collections::BTreeSet;

use tokio::time::Instant;

use super::*;

fn context() -> Context {
    let metrics = Arc::new(Metrics::default());
    Context {
        hub: Arc::default(),
        sessions: Arc::default(),
        status_cache: Arc::default(),
        events: Events::channel(metrics.clone()).0,
        metrics,
        limit: 9,
        line: Duration::from_secs(1),
        lifetime: Duration::from_secs(1),
    }
}

#[tokio::test(start_paused = true)]
async fn a_data_plane_that_does_not_come_back_counts_no_longer_than_it_may_take() {
    let context = context();
    context.hub.set_occupied(BTreeSet::new());
    let data_plane = DataPlane::open(&context, "a", "one").unwrap();
    data_plane.expect_back();
    let connected = || {
        let later = Instant::now() + Duration::from_secs(10);
        context.sessions.view("a", later).connected
    };
    let stop = CancellationToken::new();
    let mut waiting = std::pin::pin!(await_return(data_plane, &stop));
    let short = BACK_WITHIN.checked_sub(Duration::from_secs(1)).unwrap();
    assert!(timeout(short, waiting.as_mut()).await.is_err());
    assert_eq!(connected(), 1);
    let kept = context.hub.current("a");
    assert!(kept.is_some(), "what it acknowledged has this numbering");
    waiting.await;
    assert_eq!(connected(), 0);
    assert!(context.status_cache.next_dirty().await["a"].all);
    assert!(context.hub.current("a").is_none());
}

#[tokio::test]
async fn a_data_plane_that_leaves_before_it_is_welcomed_is_out_of_all_statuses() {
    let context = context();
    context.hub.set_occupied(BTreeSet::new());
    drop(DataPlane::open(&context, "a", "one").unwrap());
    assert!(context.status_cache.next_dirty().await["a"].all);
    assert!(context.hub.current("a").is_none());
    assert_eq!(context.sessions.connected("a"), 0);
}

#[test]
fn streams_that_began_together_end_within_a_tenth_of_an_hour_of_an_hour() {
    let hour = Duration::from_hours(1);
    assert_eq!(jittered(hour, 0.0), Duration::from_mins(54));
    let last = jittered(hour, 1.0).as_secs_f64();
    assert!((last - 66.0 * 60.0).abs() < 0.001, "{last}");
}

#[test]
fn a_namespace_full_of_sidecars_has_places_for_its_gateway() {
    let limits = Limits::default();
    let streams = |account: &str| {
        limits.streams(&Identity {
            namespace: "team-a".into(),
            service_account: account.into(),
        })
    };
    assert_eq!(streams("app"), 1000);
    assert_eq!(streams(crate::gateway::render::NAME), 1100);
}
