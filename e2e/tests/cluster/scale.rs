//! What does the operator cost with 5,000 routes and 10,000 pods? Measured and printed, for the
//! notes and for `charts/olla/values.yaml`; minutes long, so it runs only when asked for:
//!
//! `OLLA_E2E_BIN_DIR=target/release ./e2e/test cluster scale --ignored`

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::mock_llm::POD_PORT;
use e2e::{MockLlm, Tenant, World, wait};
use serde_json::json;

use crate::propagation::measure_applies;
use crate::readers::Readers;
use crate::support::{MODEL, endpoint, route, served};

/// Routes, endpoints that select pods, and pods, over all namespaces.
const ROUTES: usize = 5_000;
const ENDPOINTS: usize = 1_000;
const PODS: usize = 10_000;

/// Connected to the first namespace.
const DATA_PLANES: usize = 50;

/// Pods that turn ready or unready, and routes that are added, one after the other.
const FLIPS: usize = 200;
const ADDED: usize = 50;

/// For the API server to take all of that in.
const LONG: Duration = Duration::from_mins(5);

/// Requests to the API server at a time.
const HANDS: usize = 8;

#[test]
#[ignore = "measures, for minutes"]
fn scale_spread_over_a_hundred_namespaces() -> Result<()> {
    measure_scale(100)
}

#[test]
#[ignore = "measures, for minutes"]
fn scale_in_one_namespace() -> Result<()> {
    measure_scale(1)
}

fn measure_scale(namespaces: usize) -> Result<()> {
    let mut world = World::alone()?;
    let tenants = (0..namespaces).map(|_| world.tenant());
    let tenants: Vec<Tenant> = tenants.collect::<Result<_>>()?;
    tell(&format!("idle: {}", memory(world.operator_pid())?))?;

    let start = Instant::now();
    let of_each = |all: usize| all / namespaces;
    in_parallel(ENDPOINTS, |n| {
        let tenant = &tenants[n % namespaces];
        let name = format!("llm-{}", n / namespaces);
        let spec = json!({
            "type": "openai",
            "podSelector": {"matchLabels": {"app": name}, "port": POD_PORT},
            // Nobody answers at these addresses, and that is not what is measured.
            "health": {"mode": "Disabled"}, "models": {"discovery": {"enabled": false}},
        });
        tenant.create("llmendpoints", &name, &spec)
    })?;
    in_parallel(PODS, |n| {
        let tenant = &tenants[n % namespaces];
        let app = format!("llm-{}", n / namespaces % of_each(ENDPOINTS));
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(127, 100, 0, 0).to_bits() + n as u32);
        let name = format!("pod-{n}");
        let labels = [("app", app.as_str())];
        let cluster = tenant.cluster();
        cluster.create_pod(tenant.namespace(), &name, &labels, ip, POD_PORT)
    })?;
    in_parallel(ROUTES, |n| {
        let tenant = &tenants[n % namespaces];
        let number = n / namespaces;
        let name = |n: usize| json!({"name": format!("llm-{}", n % of_each(ENDPOINTS))});
        let spec = json!({
            "matches": [{"headers": [{"name": "X-Route", "value": number.to_string()}]}],
            "endpoints": {"refs": [name(number), name(number + 1)]},
        });
        tenant.create("ollaroutes", &format!("route-{number}"), &spec)
    })?;
    tell(&format!("all objects written in {:.1?}", start.elapsed()))?;
    quiet(&world)?;
    tell(&format!(
        "all statuses written after {:.1?}: {}",
        start.elapsed(),
        memory(world.operator_pid())?
    ))?;

    world.kill_operator()?;
    let start = Instant::now();
    world.start_operator()?;
    tell(&format!("ready {:.1?} after a restart", start.elapsed()))?;
    let writes = quiet(&world)?;
    tell(&format!(
        "a restart wrote {writes} statuses: {}",
        memory(world.operator_pid())?
    ))?;

    measure_changes(&world, &tenants)?;

    let tenant = &tenants[0];
    let (_base, plane) = served(tenant)?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.apply(&(endpoint("other", &other.url(), "") + &route("main", "{}")))?;
    quiet(&world)?;
    tell(&format!("data plane: {}", memory(plane.pid())?))?;
    let what = format!("apply to live among {ROUTES} routes in {namespaces} namespaces");
    let cost = Cost::begin(&world)?;
    measure_applies(&what, tenant, plane.client())?;
    quiet(&world)?;
    tell(&format!("30 changes: {}", cost.told(&world, 30)?))?;
    tell(&format!(
        "operator {}; data plane {}",
        memory(world.operator_pid())?,
        memory(plane.pid())?
    ))
}

/// What a change costs the operator with [`DATA_PLANES`] connected to the first namespace, and how
/// long it and a neighbour wait for theirs.
fn measure_changes(world: &World, tenants: &[Tenant]) -> Result<()> {
    let tenant = &tenants[0];
    let readers = Readers::new(tenant)?;
    let first = readers.join(DATA_PLANES - 11)?;
    let plane = tenant.data_plane()?;
    quiet(world)?;
    let cost = Cost::begin(world)?;
    readers.join(10)?;
    quiet(world)?;
    tell(&format!(
        "{DATA_PLANES} data planes; each takes {first} bytes when it comes, and costs {}",
        cost.told(world, 10)?
    ))?;

    let (ns, cluster) = (tenant.namespace(), tenant.cluster());
    let flip = |number: usize| {
        let pod = format!("pod-{}", number / 2 % 50 * tenants.len());
        cluster.set_pod_ready(ns, &pod, number % 2 == 1)
    };
    let (cost, bytes) = (Cost::begin(world)?, readers.bytes());
    let plane_cpu = self::cpu(plane.pid())?;
    let took = spread(FLIPS, |number| readers.measure(|| flip(number)))?;
    quiet(world)?;
    let each = (readers.bytes() - bytes) / (FLIPS * (DATA_PLANES - 1)) as u64;
    tell(&format!(
        "a pod flip is in all tables {took}; {each} bytes and {:.1} ms CPU a data plane, {}",
        (self::cpu(plane.pid())? - plane_cpu) as f64 / FLIPS as f64,
        cost.told(world, FLIPS)?
    ))?;

    let (cost, bytes) = (Cost::begin(world)?, readers.bytes());
    let took = spread(ADDED, |number| {
        let spec = json!({
            "matches": [{"headers": [{"name": "X-Added", "value": number.to_string()}]}],
            "endpoints": {"refs": [{"name": "llm-0"}]},
        });
        let name = format!("added-{number}");
        readers.measure(|| tenant.create("ollaroutes", &name, &spec))
    })?;
    quiet(world)?;
    let each = (readers.bytes() - bytes) / (ADDED * (DATA_PLANES - 1)) as u64;
    tell(&format!(
        "an added route is in all tables {took}; {each} bytes a data plane, {}",
        cost.told(world, ADDED)?
    ))?;
    measure_neighbour(world, flip)
}

/// A neighbour's pod flips alone, then beside a tenant that changes all the time.
fn measure_neighbour(world: &World, flip: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let neighbour = world.tenant()?;
    let spec = json!({
        "type": "openai", "podSelector": {"matchLabels": {"app": "n"}, "port": POD_PORT},
        "health": {"mode": "Disabled"}, "models": {"discovery": {"enabled": false}},
    });
    neighbour.create("llmendpoints", "n", &spec)?;
    let (cluster, ns) = (neighbour.cluster(), neighbour.namespace());
    let ip = Ipv4Addr::new(127, 101, 0, 1);
    cluster.create_pod(ns, "n", &[("app", "n")], ip, POD_PORT)?;
    let readers = Readers::new(&neighbour)?;
    readers.join(1)?;
    quiet(world)?;
    let measure = || {
        spread(FLIPS, |number| {
            readers.measure(|| cluster.set_pod_ready(ns, "n", number % 2 == 1))
        })
    };
    tell(&format!(
        "a neighbour's pod flip is in its table {}",
        measure()?
    ))?;
    let (stop, churned) = (AtomicBool::new(false), AtomicUsize::new(0));
    let took = std::thread::scope(|scope| {
        let churn = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                flip(churned.fetch_add(1, Ordering::Relaxed))?;
            }
            Ok(())
        });
        let started = Instant::now();
        let took = measure();
        stop.store(true, Ordering::Relaxed);
        churn.join().expect("no panic")?;
        took.map(|took| (took, started.elapsed()))
    })?;
    let rate = churned.into_inner() as f64 / took.1.as_secs_f64();
    tell(&format!("and beside {rate:.0} flips a second {}", took.0))
}

/// Runs it that often; what half and what 99 of 100 take at most.
fn spread(count: usize, mut once: impl FnMut(usize) -> Result<Duration>) -> Result<String> {
    let mut took = (0..count).map(&mut once).collect::<Result<Vec<_>>>()?;
    took.sort();
    let (half, most) = (took[count / 2], took[count * 99 / 100]);
    Ok(format!("after {half:.1?} (half), {most:.1?} (p99)"))
}

/// The operator's counters at a moment.
struct Cost {
    writes: u64,
    cpu: u64,
}

impl Cost {
    fn begin(world: &World) -> Result<Self> {
        Ok(Self {
            writes: status_writes(world)?,
            cpu: cpu(world.operator_pid())?,
        })
    }

    /// What each of so many has cost since then.
    fn told(&self, world: &World, count: usize) -> Result<String> {
        let each = |now: u64, before: u64| (now - before) as f64 / count as f64;
        Ok(format!(
            "{:.1} ms CPU, {:.1} status writes",
            each(cpu(world.operator_pid())?, self.cpu),
            each(status_writes(world)?, self.writes)
        ))
    }
}

/// `job` for each number below `count`, in no particular order; the first error.
fn in_parallel(count: usize, job: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                n if n < count => job(n)?,
                _ => return Ok(()),
            }
        }
    };
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|_| scope.spawn(work)).collect();
        let ends = hands.into_iter().map(|hand| hand.join().expect("no panic"));
        ends.collect()
    })
}

/// Until no status has been written for three seconds: how many there are in all.
fn quiet(world: &World) -> Result<u64> {
    let mut last = (status_writes(world)?, Instant::now());
    wait("no more statuses are written", LONG, || {
        let now = status_writes(world)?;
        if now != last.0 {
            last = (now, Instant::now());
        }
        Ok((last.1.elapsed() > Duration::from_secs(3)).then_some(now))
    })
}

fn status_writes(world: &World) -> Result<u64> {
    let text = world.operator_metrics()?;
    let line = |line: &str| {
        let counts = line.starts_with("olla_operator_status_writes_total");
        line.rsplit(' ')
            .next()
            .filter(|_| counts)?
            .parse::<u64>()
            .ok()
    };
    Ok(text.lines().filter_map(line).sum())
}

fn memory(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    };
    Ok(format!("{} MiB, at most {}", mib("VmRSS:"), mib("VmHWM:")))
}

/// Milliseconds of CPU time used so far, in steps of 10.
fn cpu(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // After the name in brackets: utime and stime are fields 14 and 15 of proc(5), in 1/100 s.
    let fields = text.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2);
    Ok(ticks
        .filter_map(|field| field.parse::<u64>().ok())
        .sum::<u64>()
        * 10)
}

/// Past the capture of test output: this is what one wants to read.
fn tell(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "scale: {line}")?)
}
