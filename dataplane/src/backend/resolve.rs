//! Names of hosts: looked up within bounds, and all their addresses tried.
//!
//! The system's resolver blocks a thread for as long as it likes. So one look-up runs for a name
//! at a time, whoever asks meanwhile joins it, and all of them together use a few threads. While
//! one lets wait, the answer before it serves.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    iter,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// Look-ups at a time. One that hangs keeps its place until the system gives it up.
pub(crate) const AT_ONCE: usize = 32;

/// How long an answer serves those who ask after it came: a burst asks once.
const FRESH: Duration = Duration::from_secs(1);

/// An answer that takes longer is waited for beside the last good one.
const SLOW: Duration = Duration::from_millis(300);

/// How long a good answer serves where no newer one comes. An address may be another pod's by then,
/// and backends without TLS cannot show who they are.
const GOOD_BACKEND: Duration = Duration::from_secs(30);

/// The operator shows it by its certificate.
const GOOD_OPERATOR: Duration = Duration::from_mins(10);

/// The next address is tried beside one that has not answered for this long (RFC 8305, 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Of one name. More than these nobody waits for.
const MAX_ADDRESSES: usize = 64;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Bytes read of it. Kubernetes allows a search list of 2048.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// Of most clusters, for a pod whose search list does not tell.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Clonable, as each who joined gets it.
type Answer = Result<Arc<[IpAddr]>, (io::ErrorKind, Arc<str>)>;

type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// A name's look-up, under way or done.
#[derive(Clone)]
struct Entry {
    answer: Shared<BoxFuture<'static, Answer>>,
    done: Arc<Mutex<Option<Instant>>>,
}

impl Entry {
    fn is_of_use(&self) -> bool {
        self.done.lock().is_none_or(|at| at.elapsed() < FRESH)
    }
}

/// Look-ups with places of their own.
pub(crate) struct Resolver {
    lookup: Lookup,
    places: Arc<Semaphore>,
    entries: Mutex<HashMap<String, Entry>>,
    /// The last good answers, and when they came.
    good: Arc<Good>,
}

/// By name: when it came, and what it was.
struct Good {
    answers: Mutex<HashMap<String, Found>>,
    last_for: Duration,
}

type Found = (Instant, Arc<[IpAddr]>);

/// For names of backends, which users write.
pub(crate) static BACKENDS: LazyLock<Resolver> =
    LazyLock::new(|| Resolver::new(Arc::new(system), AT_ONCE, GOOD_BACKEND));

/// For the operator's: it must be found though all names of backends hang.
pub(crate) static OPERATOR: LazyLock<Resolver> =
    LazyLock::new(|| Resolver::new(Arc::new(system), 1, GOOD_OPERATOR));

impl Resolver {
    /// `good_for`: how long a good answer serves where no newer one comes.
    fn new(lookup: Lookup, at_once: usize, good_for: Duration) -> Self {
        Self {
            lookup,
            places: Arc::new(Semaphore::new(at_once)),
            entries: Mutex::default(),
            good: Arc::new(Good {
                answers: Mutex::default(),
                last_for: good_for,
            }),
        }
    }

    /// The addresses of `host`, in the order to try them in. The caller limits the time.
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found = self.newest(host).await?;
        if found.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        let found = interleaved(&found).into_iter();
        Ok(found.map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn newest(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        let mut answer = self.addresses(host);
        let answer = match timeout(SLOW, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => match self.good.last(host) {
                Some(good) => return Ok(good),
                None => answer.await,
            },
        };
        answer.map_err(|(kind, text)| io::Error::new(kind, &*text))
    }

    /// The addresses of `host`, in the system's order.
    fn addresses(&self, host: &str) -> Shared<BoxFuture<'static, Answer>> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(host).filter(|entry| entry.is_of_use()) {
            return entry.answer.clone();
        }
        entries.retain(|_, entry| entry.is_of_use());
        let done = Arc::new(Mutex::new(None));
        let (lookup, places) = (self.lookup.clone(), self.places.clone());
        let (name, ended) = (host.to_owned(), done.clone());
        let (good, good_for) = (self.good.clone(), host.to_owned());
        // A task of its own, which ends with the look-up: those who wait may leave, and one that
        // nobody drives would keep its place in the queue.
        let task = tokio::spawn(async move {
            // Never closed.
            let place = places.acquire_owned().await;
            let looked_up = spawn_blocking(move || {
                let found = lookup(&name);
                // Only now: who waited for it may have left long ago.
                *ended.lock() = Some(Instant::now());
                drop(place);
                found
            });
            let found = looked_up
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            match found {
                Ok(mut found) => {
                    found.truncate(MAX_ADDRESSES);
                    let found: Arc<[IpAddr]> = found.into();
                    good.remember(good_for, &found);
                    Ok(found)
                }
                Err(error) => Err((error.kind(), error.to_string().into())),
            }
        });
        let ended = |error: tokio::task::JoinError| {
            Err((io::ErrorKind::Other, Arc::from(error.to_string())))
        };
        let answer = async move { task.await.unwrap_or_else(ended) };
        let answer = answer.boxed().shared();
        let entry = Entry {
            answer: answer.clone(),
            done,
        };
        entries.insert(host.to_owned(), entry);
        answer
    }
}

impl Good {
    fn last(&self, host: &str) -> Option<Arc<[IpAddr]>> {
        let good = self.answers.lock();
        let (at, found) = good.get(host)?;
        (at.elapsed() < self.last_for).then(|| found.clone())
    }

    fn remember(&self, host: String, found: &Arc<[IpAddr]>) {
        let mut good = self.answers.lock();
        good.retain(|_, (at, _)| at.elapsed() < self.last_for);
        if !found.is_empty() {
            good.insert(host, (Instant::now(), found.clone()));
        }
    }
}

fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    first_found(host, &search_list(), |name| {
        let found = (name, 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// The addresses of the first of the host's names that has any; else the error of the host itself.
fn first_found(
    host: &str,
    search: &[String],
    lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>>,
) -> io::Result<Vec<IpAddr>> {
    let mut told = None;
    for name in names(host, search) {
        match lookup(&name) {
            Ok(found) => return Ok(found),
            Err(error) if name == host => told = Some(error),
            Err(_) => {}
        }
    }
    Err(told.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// What to look up for `host`, in this order: the host as it is, and the name that it has in the
/// cluster.
///
/// musl, unlike glibc, does not go on to the search list for a name with as many dots as `ndots`
/// says, drops a list over 255 bytes, and a pod may have any of both. So a Service's name is
/// completed here, by those three domains that Kubernetes puts into the list:
/// `NAMESPACE.svc.DOMAIN`, `svc.DOMAIN` and `DOMAIN`, for names without a dot, with one, and those
/// that end in `.svc`.
fn names(host: &str, search: &[String]) -> Vec<String> {
    let mut search = search.iter().map(String::as_str);
    let of_services = search.clone().find(|domain| domain.starts_with("svc."));
    let completed = |suffix: &str| format!("{host}.{suffix}.");
    let as_it_is = host.to_owned();
    let top = host.rsplit('.').next();
    match host.matches('.').count() {
        0 => {
            let own = search.find(|domain| domain.contains(".svc."));
            iter::once(as_it_is).chain(own.map(completed)).collect()
        }
        1 => iter::once(as_it_is)
            .chain(of_services.map(completed))
            .collect(),
        _ if top.is_some_and(|label| label.eq_ignore_ascii_case("svc")) => {
            let domain = of_services.and_then(|domain| domain.strip_prefix("svc."));
            vec![completed(domain.unwrap_or(CLUSTER_DOMAIN)), as_it_is]
        }
        _ => vec![as_it_is],
    }
}

/// The domains of the machine's search list; empty where that cannot be read.
fn search_list() -> Vec<String> {
    let mut text = Vec::new();
    let file = File::open(RESOLV_CONF);
    let read = file.and_then(|file| file.take(MAX_RESOLV_CONF).read_to_end(&mut text));
    match read {
        Ok(_) => searched(&String::from_utf8_lossy(&text)),
        Err(_) => Vec::new(),
    }
}

/// Of the last line that says, as everywhere.
fn searched(resolv_conf: &str) -> Vec<String> {
    let lines = resolv_conf.lines().map(str::split_whitespace);
    let mut said = lines.filter_map(|mut words| (words.next()? == "search").then_some(words));
    let domains = said.next_back().into_iter().flatten();
    let domains = domains.map(|domain| domain.trim_end_matches('.').to_ascii_lowercase());
    domains.filter(|domain| !domain.is_empty()).collect()
}

/// Families in turn, beginning with the first one's, so that a family that leads nowhere costs
/// one wait.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let six_first = addresses.first().is_some_and(IpAddr::is_ipv6);
    let of = |six: bool| addresses.iter().filter(move |ip| ip.is_ipv6() == six);
    let (mut first, mut second) = (of(six_first), of(!six_first));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

/// The first connection that comes about. The next address is tried as soon as one fails, or
/// beside those that let wait for long.
pub(crate) async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    if let [only] = addresses {
        return connect(*only).await;
    }
    let mut left = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::other("there is no address to connect to");
    loop {
        let started = left.next().map(|address| running.push(connect(*address)));
        let ended = if left.len() > 0 {
            timeout(NEXT_AFTER, running.next()).await
        } else {
            Ok(running.next().await)
        };
        match ended {
            Ok(Some(Ok(connection))) => return Ok(connection),
            Ok(Some(Err(error))) => last = error,
            Ok(None) if started.is_none() => return Err(last),
            Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(ip(text), 80)
    }

    fn list(domains: &str) -> Vec<String> {
        searched(&format!("search {domains}"))
    }

    const IN_A_POD: &str = "team-a.svc.example.org svc.example.org example.org node.test";

    #[test]
    fn a_service_s_name_is_completed_whatever_ndots_says() {
        for (host, domains, expected) in [
            ("ollama", IN_A_POD, "ollama ollama.team-a.svc.example.org."),
            ("ollama.b", IN_A_POD, "ollama.b ollama.b.svc.example.org."),
            (
                "ollama.b.svc",
                IN_A_POD,
                "ollama.b.svc.example.org. ollama.b.svc",
            ),
            (
                "o-0.ollama.b.SVC",
                IN_A_POD,
                "o-0.ollama.b.SVC.example.org. o-0.ollama.b.SVC",
            ),
            (
                "ollama.b.svc",
                "example.com",
                "ollama.b.svc.cluster.local. ollama.b.svc",
            ),
            ("ollama", "example.com", "ollama"),
            ("ollama.b", "", "ollama.b"),
        ] {
            assert_eq!(names(host, &list(domains)).join(" "), expected, "{host}");
        }
    }

    #[test]
    fn names_that_are_none_of_a_service_are_looked_up_as_they_are() {
        for host in [
            "api.example.com",
            "ollama.b.svc.example.org",
            "ollama.b.svc.",
            "asvc.b.c",
        ] {
            assert_eq!(names(host, &list(IN_A_POD)), [host]);
        }
    }

    #[test]
    fn the_search_list_is_read_in_whole_and_the_last_one_counts() {
        let long = format!("{}.test", "a".repeat(300));
        let text =
            format!("domain x\nsearch old\noptions ndots:1\n search\t{long}  svc.Example.org.\n");
        assert_eq!(searched(&text), [long.as_str(), "svc.example.org"]);
        assert!(searched("nameserver 10.0.0.10\n#search a\n").is_empty());
    }

    /// As musl does with `ndots:1`: a name with a dot is absolute.
    #[test]
    fn a_resolver_without_a_search_list_finds_services_and_tells_of_the_name_that_was_asked_for() {
        let absolute = |name: &str| match name.trim_end_matches('.') {
            "ollama.b.svc.example.org" | "api.example.com" => Ok(vec![ip("10.0.0.1")]),
            _ => Err(io::Error::other(format!("no {name}"))),
        };
        let found = |host| first_found(host, &list(IN_A_POD), absolute);
        for host in [
            "ollama.b",
            "ollama.b.svc",
            "ollama.b.svc.example.org",
            "api.example.com",
        ] {
            assert_eq!(found(host).unwrap(), [ip("10.0.0.1")], "{host}");
        }
        for host in ["other", "other.b", "other.b.svc", "other.example.com"] {
            assert_eq!(found(host).unwrap_err().to_string(), format!("no {host}"));
        }
    }

    fn refused<T>() -> io::Result<T> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    #[test]
    fn families_are_tried_in_turn() {
        let found = ["::1", "::2", "::3", "10.0.0.1"].map(ip);
        let order = ["::1", "10.0.0.1", "::2", "::3"].map(ip);
        assert_eq!(interleaved(&found), order);
        let found = ["10.0.0.1", "10.0.0.2", "::1"].map(ip);
        let order = ["10.0.0.1", "::1", "10.0.0.2"].map(ip);
        assert_eq!(interleaved(&found), order);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_lets_wait_holds_up_the_next_for_a_quarter_of_a_second() {
        let addresses = ["::1", "::2", "10.0.0.1"].map(at);
        let begun = tokio::time::Instant::now();
        let connect = async |address: SocketAddr| {
            if address.is_ipv6() {
                pending().await
            } else {
                Ok(address)
            }
        };
        let reached = race(&addresses, connect).await.unwrap();
        assert_eq!(reached, at("10.0.0.1"));
        assert_eq!(begun.elapsed(), NEXT_AFTER * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_holds_up_nobody_and_a_slow_one_may_still_win() {
        let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(at);
        let begun = tokio::time::Instant::now();
        let connect = async |address: SocketAddr| match address {
            slow if slow == at("10.0.0.2") => {
                tokio::time::sleep(NEXT_AFTER * 3).await;
                Ok(slow)
            }
            _ => refused(),
        };
        assert_eq!(race(&addresses, connect).await.unwrap(), at("10.0.0.2"));
        assert_eq!(begun.elapsed(), NEXT_AFTER * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_addresses_refuse_that_is_said_at_once() {
        let addresses = ["10.0.0.1", "::1"].map(at);
        let begun = tokio::time::Instant::now();
        let result = race::<(), _>(&addresses, async |_| refused()).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(begun.elapsed().is_zero());
        assert!(race::<(), _>(&[], async |_| refused()).await.is_err());
    }

    /// A system's resolver that hangs until told otherwise, and who was asked for.
    fn hanging(at_once: usize) -> (Resolver, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (asked, names) = mpsc::channel();
        let (go_on, waits) = mpsc::channel();
        let waits = Mutex::new(waits);
        let lookup = move |name: &str| {
            asked.send(name.to_owned()).unwrap();
            waits.lock().recv().unwrap();
            Ok(vec![ip("10.0.0.1")])
        };
        let resolver = Resolver::new(Arc::new(lookup), at_once, Duration::from_secs(30));
        (resolver, names, go_on)
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_however_many_ask_and_leave() {
        let (resolver, names, go_on) = hanging(8);
        for _ in 0..20 {
            let impatient = timeout(Duration::from_millis(1), resolver.addresses("a.test"));
            assert!(impatient.await.is_err(), "it hangs");
        }
        go_on.send(()).unwrap();
        let found = resolver.addresses("a.test").await.unwrap();
        assert_eq!(*found, [ip("10.0.0.1")]);
        assert_eq!(names.try_iter().count(), 1);
    }

    #[tokio::test]
    async fn while_a_look_up_hangs_the_last_good_answer_serves() {
        let (resolver, names, go_on) = hanging(1);
        go_on.send(()).unwrap();
        let expected = vec![SocketAddr::new(ip("10.0.0.1"), 80)];
        assert_eq!(resolver.resolve("a.test", 80).await.unwrap(), expected);
        // The answer is fresh no more.
        resolver.entries.lock().clear();
        assert_eq!(resolver.resolve("a.test", 80).await.unwrap(), expected);
        assert_eq!(
            names.recv().unwrap(),
            names.recv().unwrap(),
            "it was asked again"
        );
        go_on.send(()).unwrap();
    }

    #[tokio::test]
    async fn look_ups_that_hang_take_no_more_than_their_threads() {
        let (resolver, names, go_on) = hanging(2);
        for name in ["a.test", "b.test", "c.test", "d.test"] {
            let impatient = timeout(Duration::from_millis(1), resolver.addresses(name));
            assert!(impatient.await.is_err(), "it hangs");
        }
        let last = resolver.addresses("d.test");
        assert_eq!(resolver.places.available_permits(), 0);
        // The first two come to an end, and there is room.
        for _ in 0..4 {
            go_on.send(()).unwrap();
        }
        assert!(last.await.is_ok());
        assert!(names.try_iter().count() <= 4);
    }
}
