//! Everything at once: clients that never stop while backends, configuration and operator change
//! under them. None of it may be seen.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use e2e::{Client, MockLlm, World, wait};
use serde_json::json;

use crate::support::{MODEL, SOON, endpoint, route, wait_answer};

/// Clients that chat one after the other until told to stop.
struct Storm {
    answered: AtomicUsize,
    stop: AtomicBool,
}

impl Storm {
    fn client(&self, client: Client) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            client.chat(MODEL)?.good()?;
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Until so many more have been answered: time for what was done to have its effect.
    fn more(&self, what: &str) -> Result<()> {
        let until = self.answered.load(Ordering::Relaxed) + 200;
        wait(&format!("200 more answers after: {what}"), 3 * SOON, || {
            Ok((self.answered.load(Ordering::Relaxed) >= until).then_some(()))
        })
    }
}

#[test]
fn nothing_that_changes_underneath_is_seen_by_a_client() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let start = |name| MockLlm::start(name, &[MODEL]);
    let (a, b, c) = (start("a")?, start("b")?, start("c")?);
    let yaml = endpoint("a", &a.url(), "  priority: 1\n")
        + &endpoint("b", &b.url(), "  priority: 1\n")
        + &endpoint("c", &c.url(), "  priority: 2\n")
        + &route("main", "{}");
    tenant.apply(&yaml)?;
    let planes = [tenant.data_plane()?, tenant.data_plane()?];
    for plane in &planes {
        wait(&format!("all of {planes:?} know all models"), SOON, || {
            let models = plane.admin().get("/internal/status/models")?.json()?;
            let places = models["models"][0]["endpoints"].as_array().map(Vec::len);
            Ok((places == Some(3)).then_some(()))
        })?;
    }

    // Only one that may be sent requests again can stand in for the next that dies.
    let back = |names: &[&str]| -> Result<()> {
        for plane in &planes {
            wait(&format!("{plane:?} uses {names:?} again"), 3 * SOON, || {
                let instances = plane.instances()?;
                let usable = |name: &&str| instances.contains(&((*name).to_owned(), true));
                anyhow::ensure!(names.iter().all(usable), "{instances:?}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    };
    let told_before = world.operator_logs()?.len();
    let storm = Storm {
        answered: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    std::thread::scope(|scope| -> Result<()> {
        let clients = [0, 1, 0, 1].map(|plane: usize| planes[plane].client());
        let clients = clients.map(|client| {
            let storm = &storm;
            scope.spawn(move || storm.client(client))
        });
        let mut steps = || -> Result<()> {
            a.kill()?;
            storm.more("one of two dies")?;
            b.kill()?;
            storm.more("the whole tier dies")?;
            a.revive()?;
            back(&["a"])?;
            storm.more("one returns")?;
            tenant.patch(
                "ollaroutes/main",
                &json!({"spec": {"loadBalancer": "round_robin"}}),
            )?;
            storm.more("another balancer")?;
            world.kill_operator()?;
            storm.more("no operator")?;
            c.kill()?;
            storm.more("a backend dies meanwhile")?;
            c.revive()?;
            b.revive()?;
            back(&["b", "c"])?;
            world.start_operator()?;
            storm.more("the operator is back")?;
            tenant.patch("llmendpoints/a", &json!({"spec": {"weight": 0}}))?;
            storm.more("one is taken out")
        };
        let steps = steps();
        storm.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .expect("a client does not panic")
                .context("a client saw an error")?;
        }
        steps
    })?;

    tenant.kubectl(&["delete", "llmep", "b", "c"])?;
    tenant.patch("llmendpoints/a", &json!({"spec": {"weight": 1}}))?;
    for plane in &planes {
        wait_answer(plane, "a")?;
    }
    let logs = world.operator_logs()?.split_off(told_before);
    assert!(
        logs.contains("started"),
        "the operator that was started says so: {logs}"
    );
    for complaint in ["orbidden", "panicked"] {
        let line = logs.lines().find(|line| line.contains(complaint));
        assert_eq!(line, None, "in the operator's log");
    }
    Ok(())
}
