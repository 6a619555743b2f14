//! Sidecar injection: `pod + labels of its namespace + settings → what to do`.
//!
//! ```text
//! opt_in       does the pod, or its namespace, ask for a sidecar?
//! obstacle     why it cannot have one
//! defaults     what the cluster's owner says about all sidecars
//! options      what its annotations say about the sidecar
//! sidecar      the container and its volumes
//! server       which containers serve models themselves
//! environment  which variables point its other containers at the sidecar
//! additions    all of that as a JSON patch
//! ```
//!
//! Pure. Pods are JSON values and the result is a JSON patch that only adds, so that what a pod
//! says otherwise stays as it was written, fields that we do not know included. A pod that has all
//! of it already gets no patch: the API server may ask again after other webhooks.

mod additions;
mod defaults;
mod environment;
mod obstacle;
mod opt_in;
mod options;
mod quantity;
mod server;
mod sidecar;

use std::collections::BTreeMap;

use json_patch::Patch;
use serde_json::Value;

use self::{additions::Additions, options::Options};

pub use self::{
    defaults::Defaults,
    environment::NOT_SET,
    obstacle::Obstacle,
    opt_in::LABEL,
    options::{
        CPU_LIMIT, CPU_REQUEST, MEMORY_LIMIT, MEMORY_REQUEST, START_AFTER,
        START_WITHOUT_TABLE_AFTER,
    },
    sidecar::{ADMIN_PORT, CONTAINER, PORT},
};

/// What is the same for all pods of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Image of the data plane; `None`: nobody has said which.
    pub image: Option<String>,
    /// Where sidecars reach the operator, such as `https://olla-operator.olla-system.svc:9443`.
    pub operator_url: String,
    /// ConfigMap with the operator's CA, which the operator keeps in each namespace in use.
    pub ca_config_map: String,
    /// The API server knows sidecars among the init containers (Kubernetes 1.29).
    pub native_sidecars: bool,
    /// The cluster chooses users for containers itself and refuses others (OpenShift).
    pub assigns_users: bool,
    pub defaults: Defaults,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The pod gets the patch, which only adds. Warnings are for whoever created it.
    Inject { patch: Patch, warnings: Vec<String> },
    /// Nobody has asked for a sidecar, or the pod has all of it.
    LeaveAlone,
    /// A sidecar was asked for and the pod cannot have one; it starts without.
    Refuse(Obstacle),
}

/// `pod`: a `v1` Pod as JSON, before it is stored.
pub fn decide(
    pod: &Value,
    namespace_labels: &BTreeMap<String, String>,
    settings: &Settings,
) -> Decision {
    // Anything else is for the API server to refuse.
    let whole = pod["spec"]["containers"].is_array();
    if !whole || !opt_in::asks(pod, namespace_labels) {
        return Decision::LeaveAlone;
    }
    let (image, own) = match obstacle::check(pod, settings) {
        Ok(found) => found,
        Err(Obstacle::Mirror) => return Decision::LeaveAlone,
        // It has one: nobody is told that it has none.
        Err(_) if obstacle::own(pod).is_some() => return Decision::LeaveAlone,
        Err(obstacle) => return Decision::Refuse(obstacle),
    };
    let (options, mut warnings) = Options::of(pod, &settings.defaults.resources);
    let mut additions = Additions::new(pod);
    let position = match own {
        // A second look: where it stands is where it was put, or where another webhook moved it.
        Some(position) => position,
        None => {
            let position = position(pod, &options, &mut warnings);
            additions
                .insert_init_container(position, sidecar::container(image, &options, settings));
            position
        }
    };
    additions.add_volumes(sidecar::volumes(settings));
    additions.add_pull_secrets(&settings.defaults.image_pull_secrets);
    let not_set = environment::add(pod, position, &mut additions);
    additions.annotate(NOT_SET, &not_set);
    match additions.into_patch() {
        None => Decision::LeaveAlone,
        Some(patch) => Decision::Inject { patch, warnings },
    }
}

/// Annotation of a pod that asked for a sidecar and cannot have one: why. Warnings end at whoever
/// creates pods, mostly a controller.
pub const NOT_INJECTED: &str = "olla.dev/not-injected";

/// That annotation; `None` where the pod has it, or no room for it.
pub fn refusal(pod: &Value, obstacle: &Obstacle) -> Option<Patch> {
    let mut additions = Additions::new(pod);
    additions.annotate(NOT_INJECTED, &obstacle.to_string());
    additions.into_patch()
}

/// Among the init containers. The first, so that all others can use it, unless the pod names one
/// that it needs itself.
fn position(pod: &Value, options: &Options, warnings: &mut Vec<String>) -> usize {
    let Some(before) = &options.start_after else {
        return 0;
    };
    let mut others = containers(pod, INIT_CONTAINERS);
    match others.position(|container| container["name"] == **before) {
        Some(position) => position + 1,
        None => {
            warnings.push(format!(
                "{START_AFTER}: the pod has no init container {before:?}; the sidecar starts first"
            ));
            0
        }
    }
}

const CONTAINERS: &str = "containers";
const INIT_CONTAINERS: &str = "initContainers";

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod["spec"][list].as_array().into_iter().flatten()
}

/// All containers but the sidecar.
fn others(pod: &Value) -> impl Iterator<Item = &Value> {
    let all = containers(pod, INIT_CONTAINERS).chain(containers(pod, CONTAINERS));
    all.filter(|container| container["name"] != CONTAINER)
}
