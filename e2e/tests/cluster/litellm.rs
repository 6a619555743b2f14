//! Real LiteLLM proxies as backends: one, two that share, and the death of one under load.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use e2e::litellm::{KEY, LiteLlm, MODEL};
use e2e::{Client, DataPlane, Tenant, World, wait};

use crate::support::{SOON, route};

const CLIENTS: usize = 4;
const REQUESTS: usize = 40;

fn endpoint(name: &str, url: &str) -> String {
    let auth =
        "  auth:\n    bearer: {valueFrom: {secretKeyRef: {name: litellm, key: master-key}}}\n";
    crate::support::endpoint(name, url, auth).replace("type: openai", "type: litellm")
}

/// A data plane before these proxies, all at the same priority, that knows their models.
fn served(tenant: &Tenant, proxies: &[(&str, &LiteLlm)]) -> Result<DataPlane> {
    tenant.secret("litellm", &[("master-key", KEY)])?;
    let mut yaml = route("main", "{}");
    for (name, proxy) in proxies {
        yaml += &endpoint(name, &proxy.url());
    }
    tenant.apply(&yaml)?;
    let data_plane = tenant.data_plane()?;
    wait("all list their model", SOON, || {
        let models = data_plane.admin().get("/internal/status/models")?.json()?;
        let places = models["models"][0]["endpoints"].as_array().map(Vec::len);
        ensure!(places == Some(proxies.len()), "{models}");
        Ok(Some(()))
    })?;
    Ok(data_plane)
}

/// `CLIENTS` at a time until `REQUESTS` have been answered; `midway` runs after a quarter.
fn load(client: Client, midway: impl FnOnce() -> Result<()>) -> Result<()> {
    let (taken, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while taken.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                client.chat(MODEL)?.good()?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let quarter = || Ok((answered.load(Ordering::Relaxed) >= REQUESTS / 4).then_some(()));
        wait("a quarter is answered", 3 * SOON, quarter)?;
        midway()?;
        for worker in workers {
            worker.join().expect("a client does not panic")?;
        }
        Ok(())
    })
}

/// One test, since the proxies are dear: each takes 12 s of a core to start.
#[test]
fn litellm_alone_answers_and_two_share_and_outlive_one_of_them() -> Result<()> {
    let world = World::shared()?;
    let mut one = LiteLlm::start(world.cluster(), "litellm-1", 19_001)?;
    let mut two = LiteLlm::start(world.cluster(), "litellm-2", 19_002)?;
    one.wait_ready()?;
    let tenant = world.tenant()?;
    let alone = served(&tenant, &[("one", &one)])?;
    let reply = alone.client().chat(MODEL)?.good()?;
    assert!(
        reply.body.contains("Hello from litellm-1"),
        "{}",
        reply.body
    );
    let text = alone.client().stream(MODEL)?.rest()?;
    assert!(text.contains("[DONE]"), "{text}");
    drop(alone);

    two.wait_ready()?;
    let tenant = world.tenant()?;
    let both = served(&tenant, &[("one", &one), ("two", &two)])?;
    let answerers = both.client().answerers(MODEL, 20)?;
    let first = answerers.iter().filter(|name| *name == "one").count();
    assert_eq!(first, 10, "they share evenly: {answerers:?}");

    load(both.client(), || two.kill9())?;
    let answerers = both.client().answerers(MODEL, 4)?;
    assert!(answerers.iter().all(|name| name == "one"), "{answerers:?}");
    Ok(())
}
