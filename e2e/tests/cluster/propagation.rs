//! How long from an apply to traffic that follows it? Measured and printed; the bound asserted is
//! loose, since other tests run beside it on the same cores.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{MockLlm, World};
use serde_json::json;

use crate::support::{MODEL, endpoint, route, served};

const APPLIES: usize = 30;

/// What would mean that pushes do not work and something polls.
const LOOSE: Duration = Duration::from_secs(2);

#[test]
fn applies_are_live_in_a_moment_and_cost_no_request() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let other = MockLlm::start("other", &[MODEL])?;
    tenant.apply(&(endpoint("other", &other.url(), "") + &route("main", "{}")))?;
    let client = data_plane.client();
    let mut took = Vec::new();
    for number in 0..APPLIES {
        let name = if number % 2 == 0 { "other" } else { "base" };
        let spec = json!({"spec": {"endpoints": {"refs": [{"name": name}]}}});
        let start = Instant::now();
        tenant.patch("ollaroutes/main", &spec)?;
        // Every chat in between must succeed, too: `answerer` fails on anything but a 200.
        while client.answerer(MODEL)? != name {
            ensure!(start.elapsed() < 10 * LOOSE, "{name} does not answer");
        }
        took.push(start.elapsed());
    }
    took.sort();
    let (p50, p99) = (took[APPLIES / 2], took[APPLIES - 1]);
    // Past the capture of test output: this is what one wants to read after a run.
    writeln!(
        std::io::stderr(),
        "apply to live over {APPLIES} applies: p50 {p50:?}, longest {p99:?}"
    )?;
    ensure!(p50 < LOOSE, "{took:?}");
    Ok(())
}
