//! Does each namespace with a route get its gateway, and only what the operator made? There is no
//! kubelet here: that its pods serve is seen on a node.

use anyhow::{Context, Result, ensure};
use e2e::{Tenant, World, wait};
use serde_json::{Value, json};

use crate::support::{SOON, endpoint, route, served};

/// Collections of a gateway's objects, and what the object is called there.
const PARTS: [(&str, &str); 6] = [
    ("/api/v1", "serviceaccounts/olla-gateway"),
    ("/apis/networking.k8s.io/v1", "networkpolicies/olla-gateway"),
    ("/apis/apps/v1", "deployments/olla-gateway"),
    ("/api/v1", "services/olla"),
    ("/apis/policy/v1", "poddisruptionbudgets/olla-gateway"),
    (
        "/apis/autoscaling/v2",
        "horizontalpodautoscalers/olla-gateway",
    ),
];

fn path(tenant: &Tenant, part: &str) -> String {
    let group = PARTS.iter().find(|(_, name)| *name == part);
    let group = group.map_or("/api/v1", |(group, _)| group);
    format!("{group}/namespaces/{}/{part}", tenant.namespace())
}

fn get(tenant: &Tenant, part: &str) -> Result<Option<Value>> {
    tenant.cluster().api().get(&path(tenant, part))
}

/// The object once it is as `is` wants it.
fn wait_part(tenant: &Tenant, part: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    wait(&format!("{part} of {}", tenant.namespace()), SOON, || {
        let object = get(tenant, part)?.with_context(|| format!("{part} does not exist"))?;
        ensure!(is(&object), "{object}");
        Ok(Some(object))
    })
}

fn wait_gone(tenant: &Tenant) -> Result<()> {
    wait("nothing is left of the gateway", SOON, || {
        for (_, part) in PARTS {
            ensure!(get(tenant, part)?.is_none(), "{part} is there");
        }
        Ok(Some(()))
    })
}

/// An endpoint and a route.
fn apply_route(tenant: &Tenant) -> Result<()> {
    let yaml = endpoint("base", "http://192.0.2.1", "") + &route("main", "{}");
    tenant.apply(&yaml).map(|_| ())
}

#[test]
fn a_route_brings_a_gateway_that_a_restricted_namespace_lets_in_and_takes_it_away() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    let cluster = tenant.cluster();
    cluster.kubectl(&["label", "namespace", tenant.namespace(), restricted])?;
    apply_route(&tenant)?;
    let role = cluster.get_json(&["get", "clusterrole", "olla-operator"])?;
    for (_, part) in &PARTS[..5] {
        let object = wait_part(&tenant, part, |_| true)?;
        let owner = &object["metadata"]["ownerReferences"][0]["uid"];
        assert_eq!(*owner, role["metadata"]["uid"], "{part}");
    }
    // Admission has seen them.
    let pods = format!("/api/v1/namespaces/{}/pods", tenant.namespace());
    wait("the gateway has its pods", SOON, || {
        let pods = cluster.api().get(&pods)?.unwrap_or_default();
        let items = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(items == 2, "{items} pods");
        Ok(Some(()))
    })?;
    tenant.kubectl(&["delete", "olr", "main"])?;
    wait_gone(&tenant)
}

#[test]
fn what_a_user_changes_or_deletes_of_a_gateway_is_put_right() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    apply_route(&tenant)?;
    let replicas = |wanted: u64| move |it: &Value| it["spec"]["replicas"] == wanted;
    wait_part(&tenant, "deployments/olla-gateway", replicas(2))?;
    tenant.kubectl(&["scale", "deployment", "olla-gateway", "--replicas=0"])?;
    wait_part(&tenant, "deployments/olla-gateway", replicas(2))?;
    let before = wait_part(&tenant, "services/olla", |_| true)?;
    tenant.kubectl(&["delete", "service", "olla"])?;
    wait_part(&tenant, "services/olla", |now| {
        now["metadata"]["uid"] != before["metadata"]["uid"]
    })?;
    Ok(())
}

#[test]
fn an_olla_gateway_sets_what_it_says_and_its_status_tells_what_became_of_it() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_backend, _data_plane) = served(&tenant)?;
    let gateway = |spec: &str| {
        let head = "apiVersion: olla.dev/v1alpha1\nkind: OllaGateway\nmetadata: {name: main}\n";
        format!("{head}spec: {spec}\n")
    };
    tenant.apply(&gateway(
        "{replicas: 3, service: {type: NodePort}, access: {from: All}}",
    ))?;
    let object = "ollagateways/main";
    tenant.wait_condition(object, "Programmed", "True")?;
    wait_part(&tenant, "deployments/olla-gateway", |it| {
        it["spec"]["replicas"] == 3
    })?;
    wait_part(&tenant, "services/olla", |it| {
        it["spec"]["type"] == "NodePort"
    })?;
    // No kubelet: the pods are not ready.
    tenant.wait_message(object, "Ready", "False", "0 of 3 gateway pods are ready")?;
    wait("the data plane is counted", SOON, || {
        let status = tenant.object(object)?["status"].clone();
        ensure!(status["dataPlanes"]["summary"] == "1/1", "{status}");
        let address = format!("http://olla.{}:40114", tenant.namespace());
        assert_eq!(status["addresses"][0]["value"], address);
        Ok(Some(()))
    })?;
    let scaled = "{autoscaling: {minReplicas: 4, maxReplicas: 9, targetCpuPercent: 70}}";
    tenant.apply(&gateway(scaled))?;
    wait_part(&tenant, PARTS[5].1, |it| it["spec"]["minReplicas"] == 4)?;
    tenant.apply(&gateway("{image: elsewhere/evil:1}"))?;
    tenant.wait_message(object, "Accepted", "False", "spec.image: ")?;
    tenant.apply(&gateway("{enabled: false}"))?;
    tenant.wait_message(object, "Programmed", "False", "spec.enabled is false")?;
    wait_gone(&tenant)?;
    let both = "{replicas: 1, autoscaling: {maxReplicas: 3, targetCpuPercent: 70}}";
    let refused = tenant.apply(&gateway(both)).expect_err("one of the two");
    assert!(refused.to_string().contains("not both"), "{refused:#}");
    Ok(())
}

#[test]
fn a_service_of_the_users_own_is_left_alone_and_named_in_the_status() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "olla"},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    });
    tenant.apply(&service.to_string())?;
    let gateway = json!({
        "apiVersion": "olla.dev/v1alpha1", "kind": "OllaGateway", "metadata": {"name": "main"},
        "spec": {},
    });
    tenant.apply(&gateway.to_string())?;
    apply_route(&tenant)?;
    let told = "Service `olla` was not made by the operator";
    tenant.wait_message("ollagateways/main", "Programmed", "False", told)?;
    let now = get(&tenant, "services/olla")?.context("the Service is gone")?;
    assert_eq!(now["spec"]["selector"], json!({"app": "mine"}));
    assert!(get(&tenant, "deployments/olla-gateway")?.is_none());
    tenant.kubectl(&["delete", "service", "olla"])?;
    tenant.wait_condition("ollagateways/main", "Programmed", "True")?;
    Ok(())
}

#[test]
fn a_label_on_the_namespace_keeps_the_gateway_out() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    apply_route(&tenant)?;
    wait_part(&tenant, "services/olla", |_| true)?;
    let label = |value: &str| {
        let namespace = tenant.namespace();
        let args = ["label", "namespace", "--overwrite", namespace, value];
        tenant.cluster().kubectl(&args)
    };
    label("olla.dev/gateway=disabled")?;
    wait_gone(&tenant)?;
    label("olla.dev/gateway-")?;
    wait_part(&tenant, "services/olla", |_| true)?;
    Ok(())
}
