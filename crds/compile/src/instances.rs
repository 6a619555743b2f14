//! Where an endpoint's requests can go now. In: its target (`url`, `service` or `podSelector`)
//! and what the cluster says. Out: one instance per usable address, sorted by id.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crds::{
    Port, Reason,
    endpoint::{PodSelectorTarget, ServiceTarget},
};
use dataplane_protocol::{
    InstanceId,
    table::{Instance, Scheme},
};

use crate::{
    Facts, Problem,
    facts::{PodFact, ServiceFact, ServicePort, SliceAddress},
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
            "Service `{}` is of type ExternalName and has no pods; use url: http://{name}{}",
            target.name,
            match &target.port {
                Port::Number(number) => format!(":{number}"),
                Port::Name(_) => String::new(),
            }
        );
        return Err(Problem::invalid("spec.service.name", message));
    }
    let named = |port: &&ServicePort| {
        let same = match &target.port {
            Port::Number(number) => port.port == *number,
            Port::Name(name) => port.name == *name,
        };
        same && port.tcp
    };
    let Some(port) = service.ports.iter().find(named) else {
        return Err(Problem::new(
            Reason::ServiceNotFound,
            "spec.service.port",
            missing_port(target, service),
        ));
    };
    let mut found = BTreeMap::new();
    for ((id, ip), seen) in addresses(endpoint, service, &port.name) {
        let instance = instance(id, ip, seen.port);
        // Slices may be made by hand, with what is no address.
        if seen.ready && instance.check().is_ok() {
            keep_preferred(&mut found, instance);
        }
    }
    Ok(found.into_values().collect())
}

/// What slices say of one address.
struct AddressState {
    port: u16,
    ready: bool,
}

/// All addresses behind the Service's port of this name. While slices are rebalanced, an address
/// may be in two of them, one out of date: it is ready if both say so.
fn addresses<'a>(
    endpoint: &str,
    service: &'a ServiceFact,
    port: &str,
) -> BTreeMap<(InstanceId, &'a str), AddressState> {
    let mut all: BTreeMap<_, AddressState> = BTreeMap::new();
    for slice in &service.slices {
        let Some(port) = slice.ports.get(port).copied() else {
            continue;
        };
        for address in &slice.addresses {
            let ready = address.ready;
            let key = (id_of(endpoint, address, port), address.ip.as_str());
            let seen = all.entry(key).or_insert(AddressState { port, ready });
            seen.ready &= ready;
            seen.port = seen.port.min(port);
        }
    }
    all
}

/// By its pod, where there is one. Other addresses are known by their port, too: one machine may
/// run several servers.
fn id_of(endpoint: &str, address: &SliceAddress, port: u16) -> InstanceId {
    let id = match &address.pod {
        Some(pod) => format!("{endpoint}/{pod}"),
        None if address.ip.contains(':') => format!("{endpoint}/[{}]:{port}", address.ip),
        None => format!("{endpoint}/{}:{port}", address.ip),
    };
    InstanceId::new(id)
}

/// Pods that can be used, for [`of_pods`].
pub(crate) fn usable_pods(facts: &Facts) -> LabelIndex<'_> {
    let mut index = LabelIndex::default();
    for (name, pod) in &facts.pods {
        if pod.is_usable() {
            index.add(name, &pod.labels);
        }
    }
    index
}

/// Instances of all endpoints of a namespace together. They are endpoints times pods: without a bound,
/// a few thousand small objects are a table of gigabytes.
pub(crate) const MOST_INSTANCES: usize = 100_000;

/// The pods among `usable` that are selected; of more than `room`, one more than that.
pub(crate) fn of_pods(
    endpoint: &str,
    target: &PodSelectorTarget,
    facts: &Facts,
    usable: &LabelIndex<'_>,
    room: usize,
) -> Result<Vec<Instance>, Problem> {
    require_cluster("spec.podSelector", facts)?;
    let mut any = false;
    let mut found = Vec::new();
    for name in usable.matching(&target.selector) {
        any = true;
        let pod = facts.pods.get(name);
        found.extend(pod.and_then(|pod| of_pod(endpoint, target, name, pod)));
        if found.len() > room {
            break;
        }
    }
    if found.is_empty() && any {
        return Err(Problem::new(
            Reason::PortNotFound,
            "spec.podSelector.port",
            format!(
                "no selected pod has a TCP container port named `{}`",
                target.port
            ),
        ));
    }
    Ok(found)
}

/// A pod as an instance, if it is selected and can be used.
pub(crate) fn of_pod(
    endpoint: &str,
    target: &PodSelectorTarget,
    name: &str,
    pod: &PodFact,
) -> Option<Instance> {
    if !pod.is_usable() || !target.selector.matches(&pod.labels) {
        return None;
    }
    let port = match &target.port {
        Port::Number(number) => *number,
        Port::Name(port) => *pod.ports.get(port)?,
    };
    let instance = instance(id_of_pod(endpoint, name), &pod.ip, port);
    instance.check().is_ok().then_some(instance)
}

/// What [`of_pod`] calls it.
pub(crate) fn id_of_pod(endpoint: &str, name: &str) -> InstanceId {
    InstanceId::new(format!("{endpoint}/{name}"))
}

fn require_cluster(field: &str, facts: &Facts) -> Result<(), Problem> {
    if facts.in_cluster {
        return Ok(());
    }
    Err(Problem::new(
        Reason::ClusterRequired,
        field,
        "can only be resolved inside a cluster; use url instead",
    ))
}

fn missing_port(target: &ServiceTarget, service: &ServiceFact) -> String {
    let tcp = service.ports.iter().filter(|port| port.tcp);
    let mut ports: Vec<_> = tcp.map(|port| (port.port, port.name.as_str())).collect();
    ports.sort_unstable();
    ports.dedup();
    let in_words = |(number, name): &(u16, &str)| match *name {
        "" => number.to_string(),
        name => format!("{number} ({name})"),
    };
    let ports: Vec<_> = ports.iter().map(in_words).collect();
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
fn keep_preferred(found: &mut BTreeMap<InstanceId, Instance>, new: Instance) {
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

fn instance(id: InstanceId, ip: &str, port: u16) -> Instance {
    Instance {
        id,
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
            slices: slices.into_iter().map(std::sync::Arc::new).collect(),
            ..ServiceFact::default()
        };
        let facts = Facts {
            in_cluster: true,
            services: BTreeMap::from([("s".to_owned(), service)]),
            ..Facts::default()
        };
        let target = ServiceTarget {
            name: "s".into(),
            port: Port::Number(80),
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
    fn addresses_without_a_pod_are_known_by_ip_and_port() {
        let slices = vec![
            slice("10.0.0.9", None, 8001),
            slice("10.0.0.9", None, 8000),
            slice("fd00::7", None, 8000),
        ];
        assert_eq!(
            resolve(slices),
            [
                "e/10.0.0.9:8000 10.0.0.9:8000",
                "e/10.0.0.9:8001 10.0.0.9:8001",
                "e/[fd00::7]:8000 fd00::7:8000",
            ]
        );
    }

    #[test]
    fn a_pod_that_one_slice_calls_unready_is_left_out() {
        let ready = slice("10.0.0.7", Some("p"), 8000);
        let mut stale = ready.clone();
        stale.addresses[0].ready = false;
        assert!(resolve(vec![ready.clone(), stale.clone()]).is_empty());
        assert!(resolve(vec![stale, ready]).is_empty());
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
