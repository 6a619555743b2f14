//! Do pods that ask for a sidecar get one, does the API server let them in, and do all others stay
//! as they are? Asked by the real kubectl, answered by the webhook that the chart installs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, ensure};
use e2e::names::SYSTEM;
use e2e::{Cluster, DataPlane, MockLlm, Tenant, World, data_plane, wait};
use serde_json::{Value, json};

use crate::support::{MODEL, SOON, endpoint, route, wait_answer};

const LABEL: &str = "olla.dev/inject";
const SIDECAR: &str = "olla-sidecar";

/// Pods as people write them, of one namespace, without the label.
fn corpus(namespace: &str) -> Result<Vec<Value>> {
    let documents = include_str!("injection/pods.yaml").split("\n---\n");
    let pods = documents.map(|text| {
        let mut pod: Value = serde_saphyr::from_str(text).with_context(|| text.to_owned())?;
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["namespace"] = namespace.into();
        Ok(pod)
    });
    pods.collect()
}

fn labelled(mut pod: Value, value: &str) -> Value {
    pod["metadata"]["labels"][LABEL] = value.into();
    pod
}

/// What would be stored, if all of them are let in.
fn dry_run(cluster: &Cluster, pods: &[Value]) -> Result<Vec<Value>> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
    let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let text = cluster.kubectl_stdin(&args, &list.to_string())?;
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let mut document = document.context("kubectl's JSON")?;
        match document.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) => all.append(items),
            None => all.push(document),
        }
    }
    Ok(all)
}

fn one_dry_run(cluster: &Cluster, pod: &Value) -> Result<Value> {
    let mut pods = dry_run(cluster, std::slice::from_ref(pod))?;
    pods.pop().context("kubectl printed no pod")
}

fn sidecar(pod: &Value) -> Option<&Value> {
    let mut all = pod["spec"]["initContainers"].as_array()?.iter();
    all.find(|container| container["name"] == SIDECAR)
}

fn plain(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "plain", "namespace": namespace},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

/// The volume with the token of the pod's ServiceAccount is named anew for each pod.
fn without_random_names(pod: &Value) -> Result<Value> {
    let text = pod.to_string();
    let mut parts = text.split("kube-api-access-");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("kube-api-access-");
        plain.push_str(part.get(5..).context("five random letters")?);
    }
    Ok(serde_json::from_str(&plain)?)
}

/// All of `before` is in `after`: maps and lists may have grown, nothing else differs.
fn ensure_kept(before: &Value, after: &Value, path: &str) -> Result<()> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let now = after.get(name).unwrap_or(&Value::Null);
                ensure_kept(value, now, &format!("{path}/{name}"))?;
            }
            Ok(())
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            for value in before {
                let name = &value["name"];
                let same = |it: &&Value| it["name"] == *name;
                let found = if name.is_null() {
                    rest.next()
                } else {
                    rest.find(same)
                };
                let found = found.ok_or_else(|| anyhow!("{path}: {value} is gone"))?;
                ensure_kept(value, found, &format!("{path}[{name}]"))?;
            }
            Ok(())
        }
        (Value::Null, _) => Ok(()),
        (before, after) => {
            ensure!(before == after, "{path}: {before} has become {after}");
            Ok(())
        }
    }
}

#[test]
fn every_pod_of_the_corpus_is_let_in_with_a_sidecar_and_keeps_what_it_said() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let cluster = tenant.cluster();
    let pods = corpus(tenant.namespace())?;
    ensure!(pods.len() >= 40, "{} shapes", pods.len());
    let before = dry_run(cluster, &pods)?;
    let asking: Vec<Value> = pods.into_iter().map(|pod| labelled(pod, "true")).collect();
    let after = dry_run(cluster, &asking)?;
    ensure!(before.len() == asking.len() && after.len() == asking.len());
    for (before, after) in before.iter().zip(&after) {
        let name = after["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(sidecar(before).is_none(), "{name} did not ask");
        let sidecar = sidecar(after).with_context(|| format!("{name} has no sidecar: {after}"))?;
        ensure!(sidecar["restartPolicy"] == "Always", "{name}: {sidecar}");
        // None of them the token of the pod's ServiceAccount.
        let mounts = sidecar["volumeMounts"].as_array().map_or(0, Vec::len);
        ensure!(mounts == 3, "{name}: {sidecar}");
        let (before, after) = (without_random_names(before)?, without_random_names(after)?);
        for part in ["/spec", "/metadata/labels", "/metadata/annotations"] {
            let part = |pod: &Value| pod.pointer(part).cloned().unwrap_or_default();
            ensure_kept(&part(&before), &part(&after), "").with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn a_pod_that_has_its_sidecar_is_let_in_again_as_it_is() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let pods = corpus(tenant.namespace())?;
    let asking: Vec<Value> = pods.into_iter().map(|pod| labelled(pod, "true")).collect();
    let once = dry_run(tenant.cluster(), &asking)?;
    // As `kubectl get -o yaml` and `kubectl create` of it.
    let mut again = once.clone();
    for pod in &mut again {
        for name in ["uid", "creationTimestamp", "managedFields", "generation"] {
            pod["metadata"].as_object_mut().map(|m| m.remove(name));
        }
        pod.as_object_mut().map(|pod| pod.remove("status"));
    }
    let twice = dry_run(tenant.cluster(), &again)?;
    for (once, twice) in once.iter().zip(&twice) {
        ensure!(once["spec"] == twice["spec"], "{once}\n{twice}");
        let annotations = |pod: &Value| pod["metadata"]["annotations"].clone();
        ensure!(annotations(once) == annotations(twice), "{once}\n{twice}");
    }
    Ok(())
}

#[test]
fn the_label_of_the_pod_wins_over_that_of_its_namespace() -> Result<()> {
    let world = World::shared()?;
    for (namespace, cases) in [
        (
            None,
            [
                ("", false),
                ("true", true),
                ("false", false),
                ("yes", false),
            ],
        ),
        (
            Some("true"),
            [("", true), ("true", true), ("false", false), ("yes", true)],
        ),
        (
            Some("false"),
            [
                ("", false),
                ("true", true),
                ("false", false),
                ("yes", false),
            ],
        ),
    ] {
        let labels: Vec<(&str, &str)> = namespace.map(|value| (LABEL, value)).into_iter().collect();
        let tenant = world.tenant_labelled(&labels)?;
        let pods = cases.iter().enumerate().map(|(n, (label, _))| {
            let mut pod = plain(tenant.namespace());
            pod["metadata"]["name"] = format!("plain-{n}").into();
            if label.is_empty() {
                pod
            } else {
                labelled(pod, label)
            }
        });
        let pods = dry_run(tenant.cluster(), &pods.collect::<Vec<_>>())?;
        for (pod, (label, injected)) in pods.iter().zip(cases) {
            let has = sidecar(pod).is_some();
            ensure!(has == injected, "pod {label:?} in {namespace:?}: {pod}");
        }
    }
    Ok(())
}

#[test]
fn the_operator_s_own_namespace_and_the_cluster_s_are_left_alone() -> Result<()> {
    let world = World::shared()?;
    for namespace in [SYSTEM, "kube-system", "kube-public", "kube-node-lease"] {
        let mut pod = labelled(plain(namespace), "true");
        // Nothing makes a ServiceAccount's pods run here; the namespace is as strict as can be.
        pod["spec"] = json!({
            "securityContext": {
                "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{"name": "app", "image": "app", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            }}],
        });
        let pod = one_dry_run(world.cluster(), &pod)?;
        ensure!(sidecar(&pod).is_none(), "{pod}");
    }
    Ok(())
}

#[test]
fn a_sidecar_is_let_in_where_pods_are_restricted() -> Result<()> {
    let world = World::shared()?;
    let restricted = ("pod-security.kubernetes.io/enforce", "restricted");
    let tenant = world.tenant_labelled(&[restricted, (LABEL, "true")])?;
    let pods = corpus(tenant.namespace())?;
    let pod = pods
        .iter()
        .find(|pod| pod["metadata"]["name"] == "restricted");
    let pod = one_dry_run(tenant.cluster(), pod.context("it is in the corpus")?)?;
    ensure!(sidecar(&pod).is_some(), "{pod}");
    Ok(())
}

#[test]
fn pods_that_cannot_have_a_sidecar_start_without_and_kubectl_says_why() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant_labelled(&[(LABEL, "true")])?;
    for (change, words) in [
        (json!({"hostNetwork": true}), "the host's network"),
        (json!({"os": {"name": "windows"}}), "for Windows"),
        (
            json!({"containers": [{"name": "app", "image": "a", "ports": [{"containerPort": 40114}]}]}),
            "uses port 40114",
        ),
    ] {
        let mut pod = plain(tenant.namespace());
        for (name, value) in change.as_object().into_iter().flatten() {
            pod["spec"][name] = value.clone();
        }
        let stored = one_dry_run(tenant.cluster(), &pod)?;
        ensure!(sidecar(&stored).is_none(), "{stored}");
        let strict = [
            "create",
            "--dry-run=server",
            "--warnings-as-errors",
            "-f",
            "-",
        ];
        let told = tenant.cluster().kubectl_stdin(&strict, &pod.to_string());
        let told = format!("{:#}", told.expect_err("a warning"));
        ensure!(
            told.contains("no sidecar was injected") && told.contains(words),
            "{told}"
        );
    }
    Ok(())
}

#[test]
fn the_pods_of_a_deployment_and_of_a_job_get_sidecars() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant_labelled(&[(LABEL, "true")])?;
    let template = |restart: &str| {
        json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "restartPolicy": restart, "containers": [{"name": "app", "image": "app"}],
            },
        })
    };
    let objects = [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}}, "template": template("Always"),
            },
        }),
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
            "spec": {"template": template("Never")},
        }),
    ];
    for object in objects {
        tenant.apply(&object.to_string())?;
    }
    let path = format!("/api/v1/namespaces/{}/pods", tenant.namespace());
    wait("both have a pod with a sidecar", SOON, || {
        let pods = tenant.cluster().api().get(&path)?.unwrap_or_default();
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let kinds: BTreeSet<String> = pods
            .iter()
            .filter(|pod| sidecar(pod).is_some())
            .map(|pod| pod["metadata"]["ownerReferences"][0]["kind"].to_string())
            .collect();
        ensure!(
            kinds.len() == 2,
            "with a sidecar: {kinds:?} of {}",
            pods.len()
        );
        Ok(Some(()))
    })
}

/// One backend behind one route, for whoever asks.
fn routed(tenant: &Tenant) -> Result<MockLlm> {
    let backend = MockLlm::start("base", &[MODEL])?;
    tenant.apply(&(endpoint("base", &backend.url(), "") + &route("main", "{}")))?;
    Ok(backend)
}

#[test]
fn what_is_injected_starts_is_waited_for_and_answers_where_the_app_is_pointed() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant_labelled(&[(LABEL, "true")])?;
    let _backend = routed(&tenant)?;
    let pod = one_dry_run(tenant.cluster(), &plain(tenant.namespace()))?;
    let container = sidecar(&pod).context("a sidecar")?;
    let started = &container["startupProbe"];
    ensure!(!data_plane::probe(started)?, "nothing runs yet");
    let mut running = DataPlane::start_sidecar(tenant.cluster(), tenant.namespace(), container)?;
    wait("the app may start", SOON, || {
        ensure!(data_plane::probe(started)?);
        Ok(Some(()))
    })?;
    wait_answer(&running, "base")?;
    let env = pod["spec"]["containers"][0]["env"].as_array();
    let base = env.and_then(|env| env.iter().find(|it| it["name"] == "OPENAI_BASE_URL"));
    let base = base.context("OPENAI_BASE_URL")?["value"].clone();
    assert_eq!(base, running.client().url() + "/v1");
    running.terminate()?;
    ensure!(running.wait_exit()?.success());
    Ok(())
}

#[test]
fn the_ca_of_the_webhooks_is_put_right_when_somebody_changes_it() -> Result<()> {
    let world = World::alone()?;
    let cluster = world.cluster();
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/olla-injection";
    let bundles = || -> Result<Vec<Value>> {
        let object = cluster.api().get(path)?.unwrap_or_default();
        let webhooks = object["webhooks"].as_array().into_iter().flatten();
        Ok(webhooks
            .map(|it| it["clientConfig"]["caBundle"].clone())
            .collect())
    };
    let right = bundles()?;
    ensure!(right.len() == 2 && right[0].is_string(), "{right:?}");
    let wrong = r#"[{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]"#;
    let webhooks = "mutatingwebhookconfiguration/olla-injection";
    cluster.kubectl(&["patch", webhooks, "--type=json", "-p", wrong])?;
    wait("it is right again", 3 * SOON, || {
        let bundles = bundles()?;
        ensure!(bundles == right, "{bundles:?}");
        Ok(Some(()))
    })
}

#[test]
fn without_the_operator_pods_start_uninjected_and_with_it_again_injected() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant_labelled(&[(LABEL, "true")])?;
    let pod = plain(tenant.namespace());
    world.kill_operator()?;
    let without = one_dry_run(tenant.cluster(), &pod);
    world.start_operator()?;
    let without = without?;
    ensure!(sidecar(&without).is_none(), "{without}");
    wait("pods get sidecars again", SOON, || {
        let with = one_dry_run(tenant.cluster(), &pod)?;
        ensure!(sidecar(&with).is_some(), "{with}");
        Ok(Some(()))
    })
}

/// An API server that waits for the webhook's answer does not wait for long.
#[test]
fn a_frozen_operator_holds_up_pods_for_no_longer_than_the_webhook_s_limit() -> Result<()> {
    let mut world = World::alone()?;
    let tenant = world.tenant_labelled(&[(LABEL, "true")])?;
    world.freeze_operator()?;
    let begun = std::time::Instant::now();
    let pod = one_dry_run(tenant.cluster(), &plain(tenant.namespace()));
    let waited = begun.elapsed();
    world.thaw_operator()?;
    let pod = pod?;
    ensure!(sidecar(&pod).is_none(), "{pod}");
    // Five seconds, and kubectl's own.
    ensure!(waited < SOON, "{waited:?}");
    Ok(())
}
