//! How long from a change of the cluster to traffic that follows it? Measured and printed; what
//! is asserted is loose, since other tests run beside it on the same cores.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::mock_llm::POD_PORT;
use e2e::{Client, MockLlm, Tenant, World, wait};
use serde_json::json;

use crate::support::{MODEL, SOON, endpoint, route, served};

const CHANGES: usize = 30;

/// Routes of the larger namespace.
const ROUTES: usize = 300;

/// What would mean that pushes do not work and something polls.
const LOOSE: Duration = Duration::from_secs(2);

/// Runs `change` again and again, each time until `done`, and prints how long that took.
fn measure(
    what: &str,
    mut change: impl FnMut(usize) -> Result<()>,
    mut done: impl FnMut(usize) -> Result<bool>,
) -> Result<()> {
    let mut took = Vec::new();
    for number in 0..CHANGES {
        let start = Instant::now();
        change(number)?;
        while !done(number)? {
            ensure!(
                start.elapsed() < 10 * LOOSE,
                "{what}: change {number} is not live"
            );
        }
        took.push(start.elapsed());
    }
    took.sort();
    let (middle, longest) = (took[CHANGES / 2], took[CHANGES - 1]);
    // Past the capture of test output: this is what one wants to read after a run.
    writeln!(
        std::io::stderr(),
        "{what}: half of {CHANGES} changes live within {middle:.1?}, all within {longest:.1?}"
    )?;
    ensure!(middle < LOOSE, "{what}: {took:?}");
    Ok(())
}

/// Sends route `main` to one endpoint and the other in turn. Every chat in between must succeed,
/// too: `answerer` fails on anything but a 200.
pub(crate) fn measure_applies(what: &str, tenant: &Tenant, client: Client) -> Result<()> {
    let name = |number: usize| ["other", "base"][number % 2];
    measure(
        what,
        |number| {
            let spec = json!({"spec": {"endpoints": {"refs": [{"name": name(number)}]}}});
            tenant.patch("ollaroutes/main", &spec).map(|_| ())
        },
        |number| Ok(client.answerer(MODEL)? == name(number)),
    )
}

#[test]
fn applies_are_live_in_a_moment_and_cost_no_request() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.apply(&(endpoint("other", &other.url(), "") + &route("main", "{}")))?;
    measure_applies("apply to live", &tenant, data_plane.client())
}

#[test]
fn applies_are_live_in_a_moment_among_many_routes_too() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let other = MockLlm::start("other", &[MODEL])?;
    let mut yaml = endpoint("other", &other.url(), "");
    for number in 0..ROUTES {
        let name = format!("route-{number}");
        let header = format!("{{name: X-Route, value: \"{number}\"}}");
        yaml += &route(&name, &format!("{{matches: [{{headers: [{header}]}}]}}"));
    }
    tenant.apply(&yaml)?;
    let last = format!("ollaroutes/route-{}", ROUTES - 1);
    wait("all are programmed", 3 * SOON, || {
        tenant.wait_condition(&last, "Programmed", "True").map(Some)
    })?;
    let what = format!("apply to live among {ROUTES} routes");
    measure_applies(&what, &tenant, data_plane.client())
}

#[test]
fn a_pod_that_turns_unready_is_left_alone_in_a_moment() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let mock = MockLlm::start_as_pod("pod", &[MODEL])?;
    let std::net::IpAddr::V4(ip) = mock.address().ip() else {
        anyhow::bail!("pods have IPv4 addresses here");
    };
    let (cluster, ns) = (tenant.cluster(), tenant.namespace());
    cluster.create_pod(ns, "pod", &[("app", "llm")], ip, POD_PORT)?;
    let yaml = "apiVersion: olla.dev/v1alpha1\n\
         kind: LlmEndpoint\n\
         metadata: {name: llm}\n\
         spec: {type: openai, podSelector: {matchLabels: {app: llm}, port: 8000}}\n";
    tenant.apply(&(yaml.to_owned() + &route("main", "{}")))?;
    let data_plane = tenant.data_plane()?;
    measure(
        "readiness to table",
        |number| cluster.set_pod_ready(ns, "pod", number % 2 == 1),
        |number| Ok(data_plane.instances()?.len() == number % 2),
    )
}
