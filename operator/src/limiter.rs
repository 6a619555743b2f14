//! How many writes to the API server are under way at a time, over all namespaces and of each.
//!
//! In: writes with their namespace. Out: their results, or nothing after [`TIMEOUT`]. A namespace
//! whose writes hang or take long (an admission webhook of its own is enough) shares few places with
//! others of that kind, however many they are.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// For one write. What waits for its turn is not counted.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A namespace is slow once a write of it took this long.
const SLOW: Duration = Duration::from_secs(2);
/// And stays so for this long, twice as long with each slow write that comes before it has been
/// quick for as long again: one that hangs now and then holds the places of others for a small part of
/// the time, and one slow answer of the API server costs nobody much.
const SLOW_FOR: Duration = Duration::from_secs(15);
const MAX_SLOW_FOR: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub total: usize,
    pub per_namespace: usize,
    /// Of all slow namespaces together; each has one of them.
    pub slow: usize,
}

#[derive(Debug)]
pub struct Limiter {
    per_namespace: usize,
    total: Semaphore,
    slow: Semaphore,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

#[derive(Debug)]
struct Namespace {
    places: Arc<Semaphore>,
    slow_place: Arc<Semaphore>,
    /// Writes that run or wait.
    pending: usize,
    slow: Option<Slow>,
}

#[derive(Clone, Copy, Debug)]
struct Slow {
    /// When that was noted.
    at: Instant,
    until: Instant,
    /// How long it was slow for by then.
    time: Duration,
}

impl Namespace {
    fn is_slow(&self, now: Instant) -> bool {
        self.slow.is_some_and(|slow| now < slow.until)
    }

    /// Whether it matters that it was.
    fn was_slow(&self, now: Instant) -> bool {
        self.slow.is_some_and(|slow| now < slow.until + slow.time)
    }

    /// At the end of a slow write. Those that ran beside each other are one.
    fn note_slow(&mut self, begun: Instant, now: Instant) {
        if self.slow.is_some_and(|slow| begun < slow.at) {
            return;
        }
        let before = self.slow.filter(|_| self.was_slow(now));
        let time = before.map_or(SLOW_FOR, |slow| (slow.time * 2).min(MAX_SLOW_FOR));
        let until = now + time;
        let at = now;
        self.slow = Some(Slow { at, until, time });
    }
}

impl Limiter {
    pub fn new(limits: Limits) -> Self {
        Self {
            per_namespace: limits.per_namespace,
            total: Semaphore::new(limits.total),
            slow: Semaphore::new(limits.slow),
            namespaces: Mutex::default(),
        }
    }

    /// Runs `write` when it is its turn. `None` when the API server does not answer in time.
    pub async fn run<T>(&self, namespace: &str, write: impl Future<Output = T>) -> Option<T> {
        let pending = Pending::new(self, namespace);
        // Whoever waits for one of these holds none of the next. They are never closed.
        let _own = pending.places.acquire().await.ok()?;
        let _slow = if self.is_slow(namespace) {
            let own = pending.slow_place.acquire().await.ok()?;
            Some((own, self.slow.acquire().await.ok()?))
        } else {
            None
        };
        let _place = self.total.acquire().await.ok()?;
        let begun = Instant::now();
        let result = timeout(TIMEOUT, write).await.ok();
        self.took(namespace, begun);
        result
    }

    /// Writes of this namespace that run or wait.
    pub fn pending(&self, namespace: &str) -> usize {
        let namespaces = self.namespaces.lock();
        namespaces.get(namespace).map_or(0, |it| it.pending)
    }

    pub fn is_slow(&self, namespace: &str) -> bool {
        let namespaces = self.namespaces.lock();
        let namespace = namespaces.get(namespace);
        namespace.is_some_and(|it| it.is_slow(Instant::now()))
    }

    fn took(&self, namespace: &str, begun: Instant) {
        if begun.elapsed() >= SLOW
            && let Some(namespace) = self.namespaces.lock().get_mut(namespace)
        {
            namespace.note_slow(begun, Instant::now());
        }
    }
}

/// Counts a write from before it waits to its end.
struct Pending<'a> {
    limiter: &'a Limiter,
    namespace: &'a str,
    places: Arc<Semaphore>,
    slow_place: Arc<Semaphore>,
}

impl<'a> Pending<'a> {
    fn new(limiter: &'a Limiter, namespace: &'a str) -> Self {
        let mut namespaces = limiter.namespaces.lock();
        if !namespaces.contains_key(namespace) {
            let now = Instant::now();
            namespaces.retain(|_, it| it.pending > 0 || it.was_slow(now));
        }
        let known = namespaces.entry(namespace.to_owned());
        let known = known.or_insert_with(|| Namespace {
            places: Arc::new(Semaphore::new(limiter.per_namespace)),
            slow_place: Arc::new(Semaphore::new(1)),
            pending: 0,
            slow: None,
        });
        known.pending += 1;
        Self {
            limiter,
            namespace,
            places: known.places.clone(),
            slow_place: known.slow_place.clone(),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut namespaces = self.limiter.namespaces.lock();
        if let Some(known) = namespaces.get_mut(self.namespace) {
            known.pending -= 1;
            if known.pending == 0 && !known.was_slow(Instant::now()) {
                namespaces.remove(self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{advance, sleep};

    use super::*;

    fn limiter() -> Arc<Limiter> {
        Arc::new(Limiter::new(Limits {
            total: 8,
            per_namespace: 2,
            slow: 2,
        }))
    }

    /// Has so many namespaces' writes hang, each several at a time and on and on.
    fn hang(limiter: &Arc<Limiter>, namespaces: usize) {
        for task in 0..namespaces * 4 {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                let namespace = format!("hanging-{}", task % namespaces);
                loop {
                    limiter.run(&namespace, pending::<()>()).await;
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_namespace_whose_writes_hang_does_not_hold_up_the_others() {
        let limiter = limiter();
        hang(&limiter, 1);
        sleep(Duration::from_millis(1)).await;
        let begun = Instant::now();
        assert_eq!(limiter.run("quick", async { 1 }).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nor_do_many_of_them_once_they_are_known_to_be_slow() {
        let limiter = limiter();
        hang(&limiter, 50);
        // Each has had its first place by then.
        sleep(TIMEOUT * 20).await;
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(limiter.run("quick", async { 1 }).await, Some(1));
            assert_eq!(begun.elapsed(), Duration::ZERO);
            sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_write_is_soon_forgiven_and_then_takes_no_memory() {
        let limiter = limiter();
        limiter.run("a", sleep(SLOW)).await;
        limiter.run("a", async {}).await;
        assert!(limiter.is_slow("a"), "one quick write changes nothing");
        advance(SLOW_FOR).await;
        assert!(!limiter.is_slow("a"));
        advance(SLOW_FOR).await;
        limiter.run("b", async {}).await;
        assert!(limiter.namespaces.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_are_slow_beside_each_other_count_once() {
        let limiter = limiter();
        tokio::join!(limiter.run("a", sleep(SLOW)), limiter.run("a", sleep(SLOW)));
        advance(SLOW_FOR).await;
        assert!(!limiter.is_slow("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_slow_again_and_again_stays_so_for_minutes() {
        let limiter = limiter();
        for _ in 0..10 {
            while limiter.is_slow("a") {
                sleep(Duration::from_secs(1)).await;
            }
            limiter.run("a", sleep(SLOW)).await;
        }
        advance(MAX_SLOW_FOR.saturating_sub(Duration::from_secs(1))).await;
        assert!(limiter.is_slow("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_namespace_leaves_places_to_the_other_slow_ones() {
        let limiter = limiter();
        hang(&limiter, 1);
        limiter.run("slow", sleep(SLOW)).await;
        sleep(TIMEOUT * 5).await;
        limiter.run("slow", sleep(SLOW)).await;
        let begun = Instant::now();
        assert_eq!(limiter.run("slow", async { 1 }).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
