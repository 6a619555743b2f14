//! Why a pod that asks for a sidecar cannot have one.

use serde_json::Value;

use crate::{
    CONTAINERS, INIT_CONTAINERS, Settings, containers, opt_in, others, server,
    sidecar::{ADMIN_PORT, CONTAINER, PORT},
};

/// Of nodes; the second is what it was called before.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// As it is told to whoever creates the pod, which starts without a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error(
        "olla: no sidecar was injected: the operator does not know the data plane's image (--data-plane-image)"
    )]
    NoImage,
    #[error(
        "olla: no sidecar was injected: this API server has no native sidecars; Kubernetes 1.29 or newer is required"
    )]
    NoNativeSidecars,
    #[error(
        "olla: no sidecar was injected: the pod uses the host's network, where other pods could use its sidecar"
    )]
    HostNetwork,
    #[error("olla: no sidecar was injected: the pod is for Windows")]
    Windows,
    #[error(
        "olla: no sidecar was injected: with dnsPolicy {policy:?} the sidecar cannot resolve the operator's name; add the cluster's search domain, such as svc.cluster.local, to dnsConfig.searches if dnsConfig.nameservers has the cluster's DNS"
    )]
    NoClusterDns { policy: &'static str },
    #[error(
        "olla: no sidecar was injected: container {container:?} is a model server or proxy by its image ({image}); label the pod olla.dev/inject=true if it should have one"
    )]
    ModelServer { container: String, image: String },
    #[error("olla: no sidecar was injected: container {container:?} uses port {port}")]
    PortTaken { container: String, port: u16 },
    #[error("olla: no sidecar was injected: the pod has a container named {CONTAINER:?}")]
    NameTaken,
    /// A copy of what a kubelet runs from a file: it must stay as it is. Told to nobody.
    #[error("olla: no sidecar was injected: the pod is a static one")]
    Mirror,
}

/// The image, and where in the init containers the sidecar is if the pod has it already.
pub(crate) fn check<'a>(
    pod: &Value,
    settings: &'a Settings,
) -> Result<(&'a str, Option<usize>), Obstacle> {
    let spec = &pod["spec"];
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return Err(Obstacle::Mirror);
    }
    let own = own(pod);
    let image = settings.image.as_deref().ok_or(Obstacle::NoImage)?;
    if !settings.native_sidecars {
        return Err(Obstacle::NoNativeSidecars);
    }
    if spec["hostNetwork"] == true {
        return Err(Obstacle::HostNetwork);
    }
    if is_for_windows(spec) {
        return Err(Obstacle::Windows);
    }
    if let Some(policy) = without_cluster_dns(spec)
        && is_service(&settings.operator_url)
    {
        return Err(Obstacle::NoClusterDns { policy });
    }
    if containers(pod, CONTAINERS).any(|container| container["name"] == CONTAINER) {
        return Err(Obstacle::NameTaken);
    }
    if !opt_in::itself_asks(pod)
        && let Some((container, image)) = server::in_pod(pod)
    {
        return Err(Obstacle::ModelServer {
            container: container.to_owned(),
            image: image.to_owned(),
        });
    }
    match others(pod).find_map(port_taken) {
        Some(taken) => Err(taken),
        None => Ok((image, own)),
    }
}

/// Where in the init containers the sidecar is.
pub(crate) fn own(pod: &Value) -> Option<usize> {
    containers(pod, INIT_CONTAINERS).position(|container| container["name"] == CONTAINER)
}

/// By what it says of its nodes, or by settings that Linux refuses.
fn is_for_windows(spec: &Value) -> bool {
    let windows = |value: &Value| value == "windows";
    let selector = &spec["nodeSelector"];
    if windows(&spec["os"]["name"]) || OS_LABELS.iter().any(|label| windows(&selector[*label])) {
        return true;
    }
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = || list(&required["nodeSelectorTerms"]);
    // One term that fits is enough, so all of them must be for Windows.
    if terms().next().is_some()
        && terms().all(|term| list(&term["matchExpressions"]).any(is_windows))
    {
        return true;
    }
    let all = containers_of(spec).chain([spec]);
    all.map(|it| &it["securityContext"]["windowsOptions"])
        .any(|options| options.as_object().is_some_and(|map| !map.is_empty()))
}

fn is_windows(expression: &Value) -> bool {
    let of_os = OS_LABELS.iter().any(|label| expression["key"] == *label);
    let mut values = list(&expression["values"]).peekable();
    let some = values.peek().is_some();
    of_os && expression["operator"] == "In" && some && values.all(|value| value == "windows")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn containers_of(spec: &Value) -> impl Iterator<Item = &Value> {
    list(&spec[INIT_CONTAINERS]).chain(list(&spec[CONTAINERS]))
}

/// The policy that leaves the cluster's DNS out. Who has put its search domain in speaks to it.
fn without_cluster_dns(spec: &Value) -> Option<&'static str> {
    let mut policies = ["Default", "None"].into_iter();
    let policy = policies.find(|policy| spec["dnsPolicy"] == *policy)?;
    let mut searches = spec["dnsConfig"]["searches"]
        .as_array()
        .into_iter()
        .flatten();
    let of_services = |domain: &Value| domain.as_str().is_some_and(|d| d.starts_with("svc."));
    (!searches.any(of_services)).then_some(policy)
}

/// The host of the URL is the name of a Service.
fn is_service(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split([':', '/']).next().unwrap_or_default();
    host.split('.').skip(2).any(|label| label == "svc")
}

/// Ports are of the whole pod: two containers cannot listen on the same one.
fn port_taken(container: &Value) -> Option<Obstacle> {
    let ports = container["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|port| port["protocol"].as_str().unwrap_or("TCP") == "TCP");
    let mut numbers = tcp.filter_map(|port| port["containerPort"].as_u64());
    let port = numbers.find_map(|number| {
        [PORT, ADMIN_PORT]
            .into_iter()
            .find(|own| u64::from(*own) == number)
    })?;
    Some(Obstacle::PortTaken {
        container: container["name"].as_str().unwrap_or_default().to_owned(),
        port,
    })
}
