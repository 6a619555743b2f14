//! The sidecar's container and volumes.

use dataplane_protocol::sync::AUDIENCE;
use serde_json::{Value, json};

use crate::{Settings, options::Options};

/// Name of the sidecar among the init containers. Whatever has it there is taken for the sidecar.
pub const CONTAINER: &str = "olla-sidecar";
/// Where the sidecar listens for clients, on the loopback addresses of the pod.
pub const PORT: u16 = 40114;
/// Where it tells its status, on 127.0.0.1.
pub const ADMIN_PORT: u16 = 40115;

const OPERATOR_VOLUME: &str = "olla-sidecar-operator";
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const STATE_VOLUME: &str = "olla-sidecar-state";

/// As in the image; any that is not root would do. Said here because a pod may say 0 for all its
/// containers, and then this one, which refuses root, would never start.
const USER: u32 = 65532;

/// One probe a second while it starts. Beyond the time after which it says that it has started in
/// any case: for a node so busy that the sidecar comes late.
const MORE_PROBES: u64 = 60;

pub(crate) fn container(image: &str, options: &Options, settings: &Settings) -> Value {
    let wait = options.start_without_table_after;
    // Whole seconds are what the flag takes; a part of one is waited for as one.
    let wait = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let mut container = json!({
        "name": CONTAINER,
        "image": image,
        // A sidecar: it runs beside the containers, from before they start to after they end, and
        // does not keep a Job from completing.
        "restartPolicy": "Always",
        "command": ["olla-dataplane"],
        "args": [
            "run",
            format!("--operator={}", settings.operator_url),
            format!("--listen=localhost:{PORT}"),
            format!("--start-without-table-seconds={wait}"),
            // One pod's traffic; a thread per core of a large node would be most of its memory.
            "--workers=1",
            // Its clients have ended before it is told to.
            "--drain-delay-seconds=0",
            "--drain-seconds=5",
            "--log-format=json",
        ],
        "env": [{
            "name": "POD_NAME",
            "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } },
        }],
        // By a program in the container: the kubelet cannot reach a loopback address in the pod.
        "startupProbe": {
            "exec": { "command": ["olla-dataplane", "health", "--started"] },
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": wait + MORE_PROBES,
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": OPERATOR_VOLUME, "mountPath": "/var/run/secrets/olla.dev", "readOnly": true },
            { "name": STATE_VOLUME, "mountPath": "/var/lib/olla" },
            // Where the API server would mount the token of the pod's ServiceAccount, which is the
            // app's: it passes over containers that have something there.
            { "name": OPERATOR_VOLUME, "mountPath": API_TOKEN, "readOnly": true },
        ],
    });
    if !settings.assigns_users {
        for field in ["runAsGroup", "runAsUser"] {
            container["securityContext"][field] = USER.into();
        }
    }
    if let Some(policy) = settings.defaults.image_pull_policy {
        container["imagePullPolicy"] = policy.word().into();
    }
    if options.resources.as_object().is_some_and(|r| !r.is_empty()) {
        container["resources"] = options.resources.clone();
    }
    container
}

pub(crate) fn volumes(settings: &Settings) -> [Value; 2] {
    [
        json!({
            "name": OPERATOR_VOLUME,
            "projected": { "sources": [
                { "serviceAccountToken": {
                    "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token",
                } },
                // Not there before the namespace's first endpoint or route, and no reason for the
                // pod to wait; the kubelet mounts it when it comes.
                { "configMap": { "name": settings.ca_config_map, "optional": true } },
            ] },
        }),
        // The last good table outlives the container, not the pod, and lies on no disk.
        json!({
            "name": STATE_VOLUME,
            "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" },
        }),
    ]
}
