//! `OllaGateway`: settings for the gateway that the operator runs in a namespace.

#![allow(
    unreachable_pub,
    reason = "what KubeSchema derives repeats the structs inside functions"
)]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LabelSelector;

/// Settings for the gateway of a namespace. What is not set here is as the administrator of the
/// operator has set it for all gateways.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "olla.dev",
    version = "v1alpha1",
    kind = "OllaGateway",
    namespaced,
    status = "OllaGatewayStatus",
    shortname = "ollagw",
    category = "olla",
    doc = "Settings for the gateway that the operator runs in a namespace with an OllaRoute. Of several in a namespace the oldest counts.",
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Accepted')].status",
        name = "Accepted",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Programmed')].status",
        name = "Programmed",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        name = "Ready",
        type_ = "string"
    ),
    printcolumn(json_path = ".status.dataPlanes.summary", name = "Data planes", type_ = "string"),
    printcolumn(json_path = ".status.addresses[0].value", name = "Address", type_ = "string"),
    printcolumn(
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        name = "Message",
        type_ = "string"
    ),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new("!(has(self.spec.replicas) && has(self.spec.autoscaling))")
        .message("spec: set replicas or autoscaling, not both")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
pub struct OllaGatewaySpec {
    /// `false`: no gateway runs in this namespace; sidecars are not affected. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,

    /// Gateway pods. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub replicas: Option<u32>,

    /// Lets a HorizontalPodAutoscaler set the number of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,

    /// Resources of the gateway's container. Replaces the default as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The Service `olla`, by which clients reach the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSettings>,

    /// Clients must speak TLS. Without it the gateway speaks plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,

    /// Where the gateway's pods run, and what marks them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSettings>,

    /// Image of the data plane, if the operator allows gateways to choose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// How long requests that run may go on when a gateway pod is stopped, seconds. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub drain_seconds: Option<u32>,

    /// Who may call the gateway. Default: pods of the same namespace. Enforced by a NetworkPolicy,
    /// where the cluster's network enforces those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessSpec>,
}

/// Bounds and goals of the HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("autoscaling: minReplicas must not be above maxReplicas"))]
#[x_kube(validation = Rule::new("has(self.targetCpuPercent) || has(self.targetInFlight)")
    .message("autoscaling: set targetCpuPercent, targetInFlight or both"))]
pub struct AutoscalingSpec {
    /// Fewest gateway pods. Default 2.
    #[serde(default = "default_two")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: u32,
    /// Most gateway pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: u32,
    /// Average CPU use to aim at, in percent of the pods' CPU requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_percent: Option<u32>,
    /// Average number of requests in flight per pod to aim at. Needs a metrics adapter that serves
    /// the pods' metric `olla_in_flight_requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub target_in_flight: Option<u32>,
}

fn default_two() -> u32 {
    2
}

/// The Service `olla`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSettings {
    /// `ClusterIP` (default), `NodePort` or `LoadBalancer`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,
    /// Annotations of the Service, as load balancers of clouds read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancer, for type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub load_balancer_class: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// As the field `type` of a Service has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// The gateway's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayTls {
    /// Secret of type `kubernetes.io/tls` in the same namespace, with `tls.crt` and `tls.key`. A
    /// renewed one is used without a restart.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::common::SUBDOMAIN_PATTERN))]
    pub secret_name: String,
}

/// What of the gateway's pods can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// Labels beside those that the operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of nodes on which the pods may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that do not keep the pods away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// As in a pod; checked when the Deployment is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Affinity>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// The schema of `affinity` is ten times that of all other fields.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Who may call the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Namespaces') == has(self.namespaces)")
    .message("access: set namespaces with from: Namespaces, and only then"))]
pub struct AccessSpec {
    /// `SameNamespace` (default): pods of this namespace. `Namespaces`: those and pods of the
    /// namespaces that `namespaces` selects. `All`: everybody who can reach it.
    #[serde(default)]
    pub from: AccessFrom,
    /// Namespaces by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessFrom {
    #[default]
    SameNamespace,
    Namespaces,
    All,
}

/// What became of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OllaGatewayStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
    /// Where clients reach the gateway, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<GatewayAddress>,
    /// Data planes of the namespace, sidecars too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_planes: Option<DataPlaneCounts>,
}

/// One address of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayAddress {
    /// Base URL without a path, such as `http://olla.team-a:40114`.
    pub value: String,
}

/// How many data planes are connected, and how many of them use all routes as they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPlaneCounts {
    /// Connected to the operator.
    pub connected: i32,
    /// Of these, those that use all routes as they stand.
    pub programmed: i32,
    /// `programmed/connected`, for columns.
    pub summary: String,
}
