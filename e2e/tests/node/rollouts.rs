//! What clients notice while a platform engineer replaces things: nothing. Streams that are under way
//! go on to their end, and no request fails.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Result, ensure};
use e2e::{
    MockLlm, Node,
    client::{Client, Reply},
    wait,
};

use crate::support::SOON;

const SYSTEM: &str = "olla-system";
const MODEL: &str = "llama3.2";
const STREAMS: usize = 50;
const CLIENTS: usize = 4;

/// Requests that go on and on, each on a connection of its own.
#[derive(Default)]
struct Load {
    stopped: AtomicBool,
    answered: AtomicUsize,
    /// How often each.
    errors: Mutex<BTreeMap<String, usize>>,
}

impl Load {
    fn run(&self, client: &Client) {
        while !self.stopped.load(Ordering::Relaxed) {
            match client.chat(MODEL).and_then(Reply::good) {
                Ok(_) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
                    *errors.entry(format!("{error:#}")).or_default() += 1;
                }
            }
        }
    }

    /// Does something, and says how many requests there were meanwhile. None has failed.
    fn during(&self, what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let (begun, before) = (Instant::now(), self.answered.load(Ordering::Relaxed));
        act()?;
        let answered = self.answered.load(Ordering::Relaxed) - before;
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        println!(
            "| {what} | {:.0?} | {answered} | {} |",
            begun.elapsed(),
            errors.len()
        );
        ensure!(errors.is_empty(), "{what}: {errors:?}");
        ensure!(answered > 0, "{what}: nobody asked meanwhile");
        Ok(())
    }
}

#[test]
fn no_request_fails_and_no_stream_is_cut_while_operator_and_gateways_are_replaced() -> Result<()> {
    let node = Node::shared()?;
    let _alone = node.alone();
    let cluster = node.cluster();
    // The kinds may be there from another release.
    node.install("olla", SYSTEM, &["--take-ownership"])?;
    let tenant = node.tenant("rollouts")?;
    let backend = MockLlm::start("base", &[MODEL])?;
    let url = backend.url();
    tenant.apply(&format!(
        "apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata: {{name: base}}
spec: {{type: openai, url: '{url}'}}
---
apiVersion: olla.dev/v1alpha1
kind: OllaRoute
metadata: {{name: main}}
spec: {{}}
"
    ))?;
    wait("the gateway is made", SOON, || {
        tenant
            .kubectl(&["get", "deployment", "olla-gateway"])
            .map(Some)
    })?;
    node.wait_rollout("rollouts", "olla-gateway")?;
    let client = node.service("rollouts", "olla", 40114)?;
    wait("a chat is answered", SOON, || {
        client.chat(MODEL)?.good().map(Some)
    })?;

    backend.hold();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = client.stream(MODEL)?;
        ensure!(stream.next_piece()?.is_some(), "it has begun");
        streams.push(stream);
    }
    let load = Load::default();
    thread::scope(|threads| {
        for _ in 0..CLIENTS {
            threads.spawn(|| load.run(&client));
        }
        let done = replace_all(node, &load);
        load.stopped.store(true, Ordering::Relaxed);
        done
    })?;
    backend.release();
    for mut stream in streams {
        let rest = stream.rest()?;
        ensure!(rest.contains("[DONE]"), "a stream ended with {rest:?}");
    }
    println!("| {STREAMS} streams | | all whole | |");
    tenant.kubectl(&["delete", "olr/main", "llmep/base"])?;
    cluster.helm(&["uninstall", "olla", "-n", SYSTEM, "--wait"])?;
    Ok(())
}

fn replace_all(node: &Node, load: &Load) -> Result<()> {
    let cluster = node.cluster();
    let kubectl = |args: &[&str]| cluster.kubectl(args).map(|_| ());
    println!("| meanwhile | time | answered | errors |");
    load.during("rolling restart of the gateways", || {
        kubectl(&[
            "rollout",
            "restart",
            "deployment/olla-gateway",
            "-n",
            "rollouts",
        ])?;
        node.wait_rollout("rollouts", "olla-gateway")
    })?;
    load.during("the operator that leads is killed", || {
        let leader = ["-l", "olla.dev/leader=true", "-n", SYSTEM];
        kubectl(
            &[
                &["delete", "pod", "--force", "--grace-period=0"],
                &leader[..],
            ]
            .concat(),
        )?;
        wait("another one leads", SOON, || {
            let pods = cluster.kubectl(&[&["get", "pod", "-o", "name"], &leader[..]].concat())?;
            ensure!(pods.lines().count() == 1, "{pods:?}");
            Ok(Some(()))
        })
    })?;
    load.during("rolling update of the operator", || {
        node.upgrade("olla", SYSTEM, &["--set", "podAnnotations.e2e=upgraded"])
    })?;
    load.during("a gateway pod is evicted", || {
        let pods = [
            "get",
            "pod",
            "-n",
            "rollouts",
            "-l",
            "app.kubernetes.io/name=olla-gateway",
        ];
        let names = cluster.kubectl(&[&pods[..], &["-o", "name"]].concat())?;
        let first = names.lines().next().unwrap_or_default().to_owned();
        kubectl(&["delete", "-n", "rollouts", "--wait=false", &first])?;
        wait("another one has come", SOON, || {
            let names = cluster.kubectl(&[&pods[..], &["-o", "name"]].concat())?;
            ensure!(
                !names.contains(&first) || names.lines().count() > 2,
                "{names:?}"
            );
            Ok(Some(()))
        })?;
        node.wait_rollout("rollouts", "olla-gateway")
    })
}
