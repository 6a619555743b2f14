//! Which replica leads: the holder of Lease `olla-operator` in the operator's namespace.
//!
//! In: the Lease as it is read, and what became of writes. Out: whether this replica leads. The
//! decisions are pure and follow client-go's rules: a holder that has not renewed for 15 s, by the
//! reader's own clock, is gone; one that could not renew for 10 s leads no longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
pub const LEASE: &str = "olla-operator";

/// How long a holder leads after it last renewed.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops leading before another one can begin to.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the Lease.
const RETRY: Duration = Duration::from_secs(2);
/// Between two looks at whether this replica is ready.
const READY_EVERY: Duration = Duration::from_millis(50);
/// For one request.
const REQUEST: Duration = Duration::from_secs(5);

/// One replica's view of the election. Pure.
#[derive(Debug)]
struct Candidate {
    identity: String,
    /// The Lease as it was last read, and when it was first read like that.
    observed: Option<(LeaseSpec, Instant)>,
    /// When the last renewal that succeeded was begun.
    renewed: Option<Instant>,
}

impl Candidate {
    fn new(identity: String) -> Self {
        Self {
            identity,
            observed: None,
            renewed: None,
        }
    }

    /// What to write over the Lease that was just read, if it may be taken or renewed.
    fn claim(&mut self, read: &LeaseSpec, now: Instant, wall: Timestamp) -> Option<LeaseSpec> {
        let since = match &self.observed {
            Some((observed, since)) if observed == read => *since,
            _ => {
                self.observed = Some((read.clone(), now));
                now
            }
        };
        let holder = read.holder_identity.as_deref().unwrap_or_default();
        let is_ours = holder == self.identity;
        let duration = read
            .lease_duration_seconds
            .and_then(|it| it.try_into().ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        if !holder.is_empty() && !is_ours && now < since + duration {
            return None;
        }
        let transitions = read.lease_transitions.unwrap_or_default();
        let acquired = read.acquire_time.clone().filter(|_| is_ours);
        Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: acquired.or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions + i32::from(!is_ours)),
            ..LeaseSpec::default()
        })
    }

    /// A claim was written; `begun` is from before it was sent.
    fn note_written(&mut self, claim: LeaseSpec, begun: Instant) {
        self.observed = Some((claim, begun));
        self.renewed = Some(begun);
    }

    /// Another one holds the Lease.
    fn note_lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this replica leads, if nothing more is heard.
    fn leads_until(&self) -> Option<Instant> {
        Some(self.renewed? + RENEW_DEADLINE)
    }
}

/// Takes part in the election until `stop`, from when `ready` is true; then gives the Lease back.
/// A replica that has just started would lead without knowing anything.
pub async fn run(
    client: Client,
    namespace: String,
    identity: String,
    ready: Arc<AtomicBool>,
    leads: watch::Sender<bool>,
    stop: CancellationToken,
) {
    while !ready.load(Ordering::Acquire) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(READY_EVERY) => {}
        }
    }
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut candidate = Candidate::new(identity);
    let mut problem = String::new();
    loop {
        // No request outlasts the time for which this replica leads.
        let limit = Instant::now() + REQUEST;
        let limit = candidate
            .leads_until()
            .map_or(limit, |until| until.min(limit));
        let tried = tokio::select! {
            () = stop.cancelled() => break,
            tried = timeout_at(limit, attempt(&api, &mut candidate)) => tried,
        };
        let failed = match tried {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer from the API server".to_owned(),
        };
        if !failed.is_empty() && failed != problem {
            tracing::warn!(problem = failed, "Lease not renewed; will be retried");
        }
        problem = failed;
        let until = candidate
            .leads_until()
            .filter(|until| Instant::now() < *until);
        if until.is_none() {
            candidate.note_lost();
        }
        announce(&leads, until.is_some());
        let pause = Instant::now() + RETRY;
        let pause = until.map_or(pause, |until| until.min(pause));
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(pause) => {}
        }
    }
    if candidate.renewed.is_some() {
        release(&api, &candidate, &leads).await;
    }
}

fn announce(leads: &watch::Sender<bool>, now: bool) {
    leads.send_if_modified(|leads| {
        let changed = *leads != now;
        if changed {
            tracing::info!(leads = now, "leader election");
        }
        *leads = now;
        changed
    });
}

/// One look at the Lease, and a write if it may be taken.
async fn attempt(api: &Api<Lease>, candidate: &mut Candidate) -> Result<(), kube::Error> {
    let begun = Instant::now();
    let Some(mut lease) = api.get_opt(LEASE).await? else {
        let spec = candidate.claim(&LeaseSpec::default(), begun, Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            },
            spec,
        };
        let made = api.create(&PostParams::default(), &lease).await?;
        candidate.note_written(made.spec.unwrap_or_default(), begun);
        return Ok(());
    };
    let read = lease.spec.take().unwrap_or_default();
    let Some(claim) = candidate.claim(&read, begun, Timestamp::now()) else {
        candidate.note_lost();
        return Ok(());
    };
    // With the version that was read: of two that take it at once one is refused.
    lease.spec = Some(claim);
    match api.replace(LEASE, &PostParams::default(), &lease).await {
        Ok(written) => {
            candidate.note_written(written.spec.unwrap_or_default(), begun);
            Ok(())
        }
        // Somebody else was faster; whoever it is stands in the Lease when it is read next.
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// So that another replica need not wait for the end of the Lease. Whoever leads stops first.
async fn release(api: &Api<Lease>, candidate: &Candidate, leads: &watch::Sender<bool>) {
    // What runs for the leader ends by the same signal; a moment later nobody sees both.
    announce(leads, false);
    sleep(Duration::from_millis(100)).await;
    let give_back = async {
        let Some(mut lease) = api.get_opt(LEASE).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_ref() == Some(&candidate.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            api.replace(LEASE, &PostParams::default(), &lease).await?;
        }
        Ok::<_, kube::Error>(())
    };
    match timeout(RETRY, give_back).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "Lease not released"),
        Err(_) => tracing::warn!("Lease not released: no answer from the API server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    fn holder(spec: &LeaseSpec) -> &str {
        spec.holder_identity.as_deref().unwrap_or_default()
    }

    #[test]
    fn a_lease_is_taken_when_nobody_holds_it_and_kept_by_renewing() {
        let mut one = Candidate::new("one".into());
        let now = Instant::now();
        let claim = one.claim(&LeaseSpec::default(), now, WALL).unwrap();
        assert_eq!((holder(&claim), claim.lease_transitions), ("one", Some(1)));
        one.note_written(claim.clone(), now);
        assert_eq!(one.leads_until(), Some(now + RENEW_DEADLINE));
        let later = now + RETRY;
        let wall = Timestamp::from_second(2).unwrap();
        let renewed = one.claim(&claim, later, wall).unwrap();
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, claim.acquire_time);
        assert_ne!(renewed.renew_time, claim.renew_time);
    }

    #[test]
    fn a_holder_that_renews_is_left_alone_and_one_that_does_not_is_followed() {
        let (mut one, mut two) = (Candidate::new("one".into()), Candidate::new("two".into()));
        let start = Instant::now();
        let mut lease = one.claim(&LeaseSpec::default(), start, WALL).unwrap();
        let mut now = start;
        for seconds in 1..20 {
            now = start + RETRY * seconds;
            let wall = Timestamp::from_second(seconds.into()).unwrap();
            lease = one.claim(&lease, now, wall).unwrap();
            assert_eq!(two.claim(&lease, now, wall), None);
        }
        let just_before = now + DURATION.saturating_sub(Duration::from_millis(1));
        assert_eq!(two.claim(&lease, just_before, WALL), None);
        let taken = two.claim(&lease, now + DURATION, WALL).unwrap();
        assert_eq!((holder(&taken), taken.lease_transitions), ("two", Some(2)));
    }

    #[test]
    fn one_that_cannot_renew_stops_before_another_begins_whatever_their_clocks_say() {
        let (mut one, mut two) = (Candidate::new("one".into()), Candidate::new("two".into()));
        let start = Instant::now();
        // Its wall clock is a year ahead.
        let ahead = Timestamp::from_second(31_536_000).unwrap();
        let lease = one.claim(&LeaseSpec::default(), start, ahead).unwrap();
        one.note_written(lease.clone(), start);
        // It was read as soon as it was written.
        assert_eq!(two.claim(&lease, start, WALL), None);
        let ends = one.leads_until().unwrap();
        assert_eq!(two.claim(&lease, ends, WALL), None);
        assert!(two.claim(&lease, start + DURATION, WALL).is_some());
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once_and_a_restart_keeps_its_own() {
        let mut one = Candidate::new("one".into());
        let now = Instant::now();
        let held = LeaseSpec {
            holder_identity: Some("one".into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        assert!(one.claim(&held, now, WALL).is_some());
        let given_back = LeaseSpec {
            holder_identity: None,
            ..held
        };
        let mut two = Candidate::new("two".into());
        assert!(two.claim(&given_back, now, WALL).is_some());
    }
}
