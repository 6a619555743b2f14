//! What the parts of the node are told. In: folders and addresses. Out: the texts of their files.
//! Nothing here is how a node should be set up elsewhere: it lives in a corner of somebody's machine,
//! may change no limit of it, and is thrown away.

use std::path::Path;

use serde_json::{Value, json};

use crate::names::{DNS_DOMAIN, HOST, NODE};

/// Addresses of pods; the gateway is the host's end of each pod's link.
pub(super) const POD_NETWORK: &str = "10.244.0.0/24";

/// Name that the pause image has in containerd.
pub(super) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// containerd's, its TOML. `run` may be a long path: sockets are elsewhere.
pub(super) fn containerd(root: &Path, cni: &Path, socket: &Path) -> String {
    format!(
        r#"version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE nobody may lower what the kernel kills last, and no sandbox would start.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
        root = root.display(),
        cni = cni.display(),
        socket = socket.display(),
    )
}

/// A link of its own to each pod, routed: on a bridge, answers between two pods would pass by
/// kube-proxy's translation of addresses.
pub(super) fn cni(addresses: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "e2e",
        "plugins": [
            {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {
                "type": "host-local", "dataDir": addresses,
                "ranges": [[{"subnet": POD_NETWORK}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

pub(super) fn kubelet(socket: &Path, client_ca: &Path, logs: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": HOST.to_string(),
        "containerRuntimeEndpoint": format!("unix://{}", socket.display()),
        "podLogsDir": logs,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [HOST.to_string()],
        "clusterDomain": DNS_DOMAIN,
        "resolvConf": "", // pods ask CoreDNS and nobody else
        // Limits of the machine are not the node's to set, and old kinds of cgroups do as well.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        // A developer's full disk is no reason to evict.
        "evictionHard": {
            "imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "memory.available": "10Mi",
        },
        "imageGCHighThresholdPercent": 100,
    })
}

pub(super) fn kube_proxy(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": NODE,
        "clusterCIDR": POD_NETWORK,
        // Of the whole machine: not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        // Rules reach the kernel sooner than by default (1 s).
        "iptables": {"minSyncPeriod": "100ms"},
    })
}

/// CoreDNS' Corefile: names of Services, and no others.
pub(super) fn coredns(kubeconfig: &Path) -> String {
    format!(
        "{DNS_DOMAIN}:53 {{\n  errors\n  ready {HOST}:8181\n  \
         kubernetes {{\n    kubeconfig {}\n    pods insecure\n  }}\n}}\n",
        kubeconfig.display()
    )
}
