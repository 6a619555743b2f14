//! May the operator do all that it does, and does it do all that it may? Told by the API server's
//! audit log and the roles that the chart made.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::names::SYSTEM;
use e2e::{Cluster, MockLlm, World, wait};
use serde_json::{Value, json};

use crate::support::{MODEL, SOON, endpoint, route, wait_answer, wait_event};

/// `group/resource verb`, as the cluster has it.
fn granted(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let own = ["get", "role", "olla-operator", "-n", SYSTEM];
    let mut all = BTreeSet::new();
    for role in [
        cluster.get_json(&["get", "clusterrole", "olla-operator"])?,
        cluster.get_json(&own)?,
    ] {
        let words = |value: &Value| -> Vec<String> {
            let words = value.as_array().into_iter().flatten();
            let words = words.filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    let verbs = words(&rule["verbs"]).into_iter();
                    all.extend(verbs.map(|verb| format!("{group}/{resource} {verb}")));
                }
            }
        }
    }
    Ok(all)
}

fn used(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for asked in cluster.asked_by_the_operator()? {
        let object = format!("{}/{}", asked.group, asked.resource);
        all.insert(format!("{object} {}", asked.verb));
        // A server-side apply that made something has needed both.
        if (asked.verb.as_str(), asked.code) == ("patch", 201) {
            all.insert(format!("{object} create"));
        }
    }
    Ok(all)
}

#[test]
fn nothing_the_operator_does_is_forbidden_and_each_of_its_rights_is_used() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant()?;
    let cluster = tenant.cluster();
    // A control plane that has just come back refuses for a moment what it does not know yet:
    // what earlier tests made of it is not looked at.
    let before = cluster.asked_by_the_operator()?.len();
    let backend = MockLlm::start("guarded", &[MODEL])?;
    tenant.secret("key", &[("token", "sk-e2e-rights")])?;
    let auth = "  auth:\n    bearer: {valueFrom: {secretKeyRef: {name: key, key: token}}}\n";
    let found = |name: &str, spec: &str| {
        endpoint(name, "", "").replace("  url: \n", &format!("  {spec}\n"))
    };
    let yaml = [
        endpoint("guarded", &backend.url(), auth),
        found("of-service", "service: {name: none, port: 80}"),
        found(
            "of-pods",
            "podSelector: {matchLabels: {app: none}, port: 80}",
        ),
        route("main", "{}"),
    ];
    tenant.apply(&yaml.concat())?;
    let data_plane = tenant.data_plane()?;
    wait_answer(&data_plane, "guarded")?;

    // The same Event twice is one that is patched.
    for type_ in ["olama", "openai", "olama"] {
        tenant.patch("llmendpoints/of-pods", &json!({"spec": {"type": type_}}))?;
        let accepted = if type_ == "openai" { "True" } else { "False" };
        tenant.wait_condition("llmendpoints/of-pods", "Accepted", accepted)?;
    }
    wait_event(&tenant, "of-pods", "UnknownType", "olama")?;

    // Each part of a gateway comes, and goes.
    let scaled = "{autoscaling: {maxReplicas: 3, targetCpuPercent: 70}}";
    let gateway = route("gateway", scaled).replace("OllaRoute", "OllaGateway");
    tenant.apply(&gateway)?;
    tenant.wait_condition("ollagateways/gateway", "Programmed", "True")?;
    let off = json!({"spec": {"enabled": false}});
    tenant.patch("ollagateways/gateway", &off)?;
    tenant.wait_condition("ollagateways/gateway", "Programmed", "False")?;

    // What the chart makes for it is lost.
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/olla-operator-tls");
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/olla-operator");
    world.kill_operator()?;
    cluster.api().delete(&path)?;
    cluster.api().delete(&lease)?;
    world.start_operator()?;

    // Its certificate is about to end when it starts.
    world.kill_operator()?;
    let ends = json!({"metadata": {"annotations": {"olla.dev/not-after": "1"}}});
    cluster.api().patch(&path, &ends)?;
    world.start_operator()?;

    let granted = granted(cluster)?;
    assert!(granted.len() > 15, "{granted:?}");
    wait("each right has been used", SOON, || {
        let used = used(cluster)?;
        let idle: Vec<_> = granted.difference(&used).collect();
        ensure!(idle.is_empty(), "never used: {idle:?}");
        Ok(Some(()))
    })?;
    let asked = cluster.asked_by_the_operator()?;
    let refused = asked[before..].iter().filter(|asked| asked.code == 403);
    let refused: Vec<_> = refused.collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}
