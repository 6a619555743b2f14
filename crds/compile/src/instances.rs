//! Where an endpoint's requests can go now. In: its target (`url`, `service` or `podSelector`)
//! and what the cluster says. Out: one instance per usable address, sorted by id.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crds::{
    Reason,
    endpoint::{PodSelectorTarget, ServiceTarget},
};
use dataplane_protocol::{
    InstanceId,
    table::{Instance, Scheme},
};

use crate::{
    Facts, Problem,
    facts::{ServiceFact, ServicePort, SliceAddress},
    labels::LabelIndex,
    url::Url,
    verdict::some_of,
};

/// The one instance of a URL; it bears the endpoint's name.
pub(crate) fn of_url(endpoint: &str, url: &Url) -> Vec<Instance> {
    vec![Instance {
        id: InstanceId::from(endpoint),
        scheme: url.scheme,
        host: url.host.clone(),
        port: url.port,
    }]
}

/// The ready addresses behind a Service. None at all is no error: pods come and go.
pub(crate) fn of_service(
    endpoint: &str,
    target: &ServiceTarget,
    facts: &Facts,
) -> Result<Vec<Instance>, Problem> {
    require_cluster("spec.service", facts)?;
    let Some(service) = facts.services.get(&target.name) else {
        return Err(Problem::new(
            Reason::ServiceNotFound,
            "spec.service.name",
            format!("there is no Service `{}` in this namespace", target.name),
        ));
    };
    if let Some(name) = &service.external_name {
        let message = format!(
            "Service `{}` is of type ExternalName and has no pods; use url: http://{name}:{}",
            target.name, target.port
        );
        return Err(Problem::invalid("spec.service.name", message));
    }
    let named = |port: &&ServicePort| port.port == target.port && port.tcp;
    let Some(port) = service.ports.iter().find(named) else {
        return Err(Problem::new(
            Reason::ServiceNotFound,
            "spec.service.port",
            missing_port(target, service),
        ));
    };
    let mut found = BTreeMap::new();
    for slice in &service.slices {
        let Some(target_port) = slice.ports.get(&port.name) else {
            continue;
        };
        for address in slice.addresses.iter().filter(|address| address.ready) {
            keep_preferred(&mut found, endpoint, address, *target_port);
        }
    }
    Ok(found.into_values().collect())
}

/// Pods that can be used, for [`of_pods`].
pub(crate) fn usable_pods(facts: &Facts) -> LabelIndex<'_> {
    let mut index = LabelIndex::default();
    for (name, pod) in &facts.pods {
        if pod.ready && !pod.ip.is_empty() {
            index.add(name, &pod.labels);
        }
    }
    index
}

/// The pods among `usable` that are selected.
pub(crate) fn of_pods(
    endpoint: &str,
    target: &PodSelectorTarget,
    facts: &Facts,
    usable: &LabelIndex<'_>,
) -> Result<Vec<Instance>, Problem> {
    require_cluster("spec.podSelector", facts)?;
    let found = usable.matching(&target.selector).filter_map(|name| {
        let pod = facts.pods.get(name)?;
        Some(instance(endpoint, name, &pod.ip, target.port))
    });
    Ok(found.collect())
}

fn require_cluster(field: &str, facts: &Facts) -> Result<(), Problem> {
    if facts.in_cluster {
        return Ok(());
    }
    Err(Problem::new(
        Reason::ClusterRequired,
        field,
        "can only be found out inside a cluster; use url outside a cluster",
    ))
}

fn missing_port(target: &ServiceTarget, service: &ServiceFact) -> String {
    let tcp = service.ports.iter().filter(|port| port.tcp);
    let mut ports: Vec<_> = tcp.map(|port| port.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let has = if ports.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has {}", some_of(&ports))
    };
    format!(
        "Service `{}` has no TCP port {}; {has}",
        target.name, target.port
    )
}

/// A pod of a dual-stack cluster has an address in two slices but is one instance: IPv4 wins,
/// since it works from more places, then the smaller text, so that the result does not depend
/// on the order of slices.
fn keep_preferred(
    found: &mut BTreeMap<InstanceId, Instance>,
    endpoint: &str,
    address: &SliceAddress,
    port: u16,
) {
    let name = address.pod.as_deref().unwrap_or(&address.ip);
    let new = instance(endpoint, name, &address.ip, port);
    let rank = |it: &Instance| {
        (
            it.host.parse::<Ipv4Addr>().is_err(),
            it.host.clone(),
            it.port,
        )
    };
    match found.get(&new.id) {
        Some(old) if rank(old) <= rank(&new) => {}
        _ => {
            found.insert(new.id.clone(), new);
        }
    }
}

fn instance(endpoint: &str, name: &str, ip: &str, port: u16) -> Instance {
    Instance {
        id: InstanceId::new(format!("{endpoint}/{name}")),
        scheme: Scheme::Http,
        host: ip.to_owned(),
        port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SliceFact;

    fn slice(ip: &str, pod: Option<&str>, port: u16) -> SliceFact {
        SliceFact {
            ports: BTreeMap::from([("http".to_owned(), port)]),
            addresses: vec![SliceAddress {
                ip: ip.to_owned(),
                ready: true,
                pod: pod.map(str::to_owned),
            }],
        }
    }

    fn resolve(slices: Vec<SliceFact>) -> Vec<String> {
        let service = ServiceFact {
            ports: vec![ServicePort {
                name: "http".into(),
                port: 80,
                tcp: true,
            }],
            slices,
            ..ServiceFact::default()
        };
        let facts = Facts {
            in_cluster: true,
            services: BTreeMap::from([("s".to_owned(), service)]),
            ..Facts::default()
        };
        let target = ServiceTarget {
            name: "s".into(),
            port: 80,
        };
        of_service("e", &target, &facts)
            .unwrap()
            .iter()
            .map(|it| format!("{} {}:{}", it.id, it.host, it.port))
            .collect()
    }

    #[test]
    fn a_dual_stack_pod_is_one_instance_at_its_ipv4_address() {
        let (six, four) = (
            slice("fd00::7", Some("p"), 8000),
            slice("10.0.0.7", Some("p"), 8000),
        );
        let expected = ["e/p 10.0.0.7:8000"];
        assert_eq!(resolve(vec![six.clone(), four.clone()]), expected);
        assert_eq!(resolve(vec![four, six.clone()]), expected);
        assert_eq!(resolve(vec![six]), ["e/p fd00::7:8000"]);
    }

    #[test]
    fn addresses_without_a_pod_are_known_by_ip() {
        let slices = vec![slice("10.0.0.9", None, 1), slice("10.0.0.8", None, 1)];
        assert_eq!(
            resolve(slices),
            ["e/10.0.0.8 10.0.0.8:1", "e/10.0.0.9 10.0.0.9:1"]
        );
    }

    #[test]
    fn pods_may_have_different_target_ports_behind_one_service_port() {
        let slices = vec![
            slice("10.0.0.1", Some("a"), 1),
            slice("10.0.0.2", Some("b"), 2),
        ];
        assert_eq!(resolve(slices), ["e/a 10.0.0.1:1", "e/b 10.0.0.2:2"]);
    }
}
