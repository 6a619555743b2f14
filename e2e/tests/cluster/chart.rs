//! Does the chart install what its users need? The installation itself is in `World`: here is
//! what they find afterwards.

use anyhow::{Result, ensure};
use e2e::names::SYSTEM;
use e2e::world::{REGISTRY, chart};
use e2e::{Cluster, World, wait};

use crate::support::{SOON, served};

#[test]
fn the_operators_pod_is_let_in_where_pods_are_restricted() -> Result<()> {
    let world = World::shared()?;
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods");
    wait("the Deployment has its pod", SOON, || {
        let pods = world.cluster().api().get(&path)?.unwrap_or_default();
        let pod = &pods["items"][0];
        ensure!(pod["status"]["phase"] == "Pending", "{pods}");
        assert_eq!(pod["spec"]["serviceAccountName"], "olla-operator", "{pod}");
        Ok(Some(()))
    })
}

/// What the chart makes of values, without a cluster; the registry is set.
fn template(cluster: &Cluster, values: &str) -> Result<String> {
    template_of(cluster, &format!("{REGISTRY},{values}"))
}

/// The same of these values alone.
fn template_of(cluster: &Cluster, values: &str) -> Result<String> {
    let chart = chart();
    let chart = chart.to_string_lossy();
    let version = ["--kube-version", "1.31.0"];
    let template = ["template", "olla", &chart, "--set", values];
    cluster.helm(&[&template[..], &version].concat())
}

#[test]
fn without_a_registry_the_error_says_how_to_fill_one() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    let refused = template_of(cluster, "logLevel=debug").expect_err("there is no default");
    let command = "deploy/images/build --registry REGISTRY --push";
    assert!(refused.to_string().contains(command), "{refused:#}");
    for wrong in ["https://example.com", "example.com/"] {
        let values = format!("image.registry={wrong}");
        let refused = template_of(cluster, &values).expect_err(wrong);
        assert!(
            refused.to_string().contains("without scheme"),
            "{refused:#}"
        );
    }
    Ok(())
}

#[test]
fn an_image_is_named_by_its_digest_else_its_tag_else_the_charts_version() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    let image = |values: &str| -> Result<String> {
        let text = template(cluster, values)?;
        let mut lines = text.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix("image: "));
        Ok(line.unwrap_or_default().to_owned())
    };
    let version = env!("CARGO_PKG_VERSION");
    let name = "olla.test/olla-operator";
    assert_eq!(image("logLevel=info")?, format!("\"{name}:{version}\""));
    assert_eq!(image("image.tag=v1")?, format!("\"{name}:v1\""));
    let digest = format!("sha256:{}", "a".repeat(64));
    let both = format!("image.tag=v1,image.digest={digest}");
    assert_eq!(image(&both)?, format!("\"{name}@{digest}\""));
    for wrong in ["image.digest=v1", "dataPlane.image.digest=sha256:1"] {
        template(cluster, wrong).expect_err(wrong);
    }
    Ok(())
}

#[test]
fn a_misspelt_value_is_refused_before_anything_is_installed() -> Result<()> {
    let world = World::shared()?;
    template(world.cluster(), "image.tag=v1")?;
    for (wrong, word) in [
        ("image.tga=v1", "tga"),
        ("crds.keep=perhaps", "crds"),
        ("replica=3", "replica"),
    ] {
        let refused = template(world.cluster(), wrong).expect_err(wrong);
        assert!(refused.to_string().contains(word), "{refused:#}");
    }
    Ok(())
}

#[test]
fn a_certificate_of_somebody_else_is_mounted_where_the_operator_reads_it() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    let text = template(cluster, "tls.secretName=bought")?;
    for line in [
        "- --cert-dir=/etc/olla/tls",
        "mountPath: /etc/olla/tls",
        "secretName: \"bought\"",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}: {text}");
    }
    let text = template(cluster, "tls.sans={olla.example.com,10.0.0.1}")?;
    assert!(text.contains("- \"--tls-san=olla.example.com\""), "{text}");
    assert!(!text.contains("cert-dir"), "{text}");
    let both = "tls.secretName=bought,tls.sans={olla.example.com}";
    let refused = template(cluster, both).expect_err("one of the two would do nothing");
    assert!(refused.to_string().contains("tls.sans"), "{refused:#}");
    Ok(())
}

#[test]
fn without_injection_there_is_no_webhook_no_port_and_no_right_to_it() -> Result<()> {
    let world = World::shared()?;
    let cluster = world.cluster();
    let with = template(cluster, "dataPlane.image.tag=v7")?;
    let without = template(cluster, "injection.enabled=false")?;
    for (line, times) in [
        ("kind: MutatingWebhookConfiguration", 1),
        ("resources: [mutatingwebhookconfigurations]", 1),
        ("name: webhook", 2),
        ("--webhook-listen", 1),
        ("failurePolicy: Ignore", 2),
        ("--data-plane-image=olla.test/olla-dataplane:v7", 1),
    ] {
        assert_eq!(with.matches(line).count(), times, "{line}: {with}");
        assert_eq!(without.matches(line).count(), 0, "{line}: {without}");
    }
    assert!(without.contains("- --injection=false"), "{without}");
    Ok(())
}

#[test]
fn an_upgrade_keeps_kinds_objects_and_traffic() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, data_plane) = served(&tenant)?;
    let before = tenant.object("llmendpoints/base")?["metadata"]["generation"].clone();
    let chart = chart();
    let chart = chart.to_string_lossy();
    let cluster = world.cluster();
    let certificate = format!("/api/v1/namespaces/{SYSTEM}/secrets/olla-operator-tls");
    let certificate =
        || Ok::<_, anyhow::Error>(cluster.api().get(&certificate)?.unwrap_or_default());
    let held = certificate()?["data"].clone();
    ensure!(
        held["tls.crt"].is_string(),
        "the operator has made its certificate"
    );
    let upgrade = ["upgrade", "olla", &chart, "-n", SYSTEM, "--set", REGISTRY];
    let change = ["--set", "podAnnotations.e2e=upgraded"];
    cluster.helm(&[&upgrade[..], &change].concat())?;
    assert!(
        certificate()?["data"] == held,
        "it is another certificate now"
    );
    let path = format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/olla-operator");
    let deployment = cluster.api().get(&path)?.unwrap_or_default();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["e2e"], "upgraded");
    let after = tenant.object("llmendpoints/base")?["metadata"]["generation"].clone();
    assert_eq!(after, before);
    assert_eq!(data_plane.client().answerer(crate::support::MODEL)?, "base");
    Ok(())
}

#[test]
fn who_may_edit_a_namespace_may_edit_its_endpoints_and_who_may_view_may_view() -> Result<()> {
    let world = World::shared()?;
    let tenant = world.tenant()?;
    let (_base, _data_plane) = served(&tenant)?;
    let cluster = world.cluster();
    let ns = tenant.namespace();
    for role in ["view", "edit"] {
        tenant.kubectl(&["create", "serviceaccount", role])?;
        let subject = format!("--serviceaccount={ns}:{role}");
        let role_flag = format!("--clusterrole={role}");
        tenant.kubectl(&["create", "rolebinding", role, &role_flag, &subject])?;
    }
    let (viewer, editor, nobody) = (
        cluster.kubeconfig_for(ns, "view")?,
        cluster.kubeconfig_for(ns, "edit")?,
        cluster.kubeconfig_for(ns, "default")?,
    );
    let list = ["get", "llmep,olr", "-n", ns];
    let change = |more: &'static str| {
        let patch = r#"{"spec": {"priority": 3}}"#;
        [
            "patch",
            "llmep",
            "base",
            "-n",
            ns,
            "--type=merge",
            "-p",
            patch,
            more,
        ]
    };
    wait("the roles have spread", SOON, || {
        cluster.kubectl_as(&editor, &list)?;
        cluster.kubectl_as(&viewer, &list).map(Some)
    })?;
    cluster.kubectl_as(&editor, &change("--subresource="))?;
    for (who, what, args) in [
        (&viewer, "change", &change("--subresource=")[..]),
        (
            &editor,
            "write the status",
            &change("--subresource=status")[..],
        ),
        (&nobody, "look", &list[..]),
    ] {
        let refused = cluster.kubectl_as(who, args).expect_err(what);
        assert!(refused.to_string().contains("Forbidden"), "{refused:#}");
    }
    Ok(())
}
