//! Argo's workflow controller as a peer, if `ARGO` names its program and `ARGO_CRDS` the folder of its definitions: both
//! are in its Go module, which `benches/jobs/build-argo` builds. It runs as it is installed, with its defaults but for its
//! metrics, for one namespace, and listens on loopback; and what its sidecar in each pod writes is written by [`TaskResult`].

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::harness::{
    Test,
    cluster::{feed, kubectl},
    process::Process,
};

const COMPLETED: &str = "workflows.argoproj.io/report-outputs-completed";
const WORKFLOW: &str = "workflows.argoproj.io/workflow";

/// Whether it is to be measured.
pub fn is_there() -> bool {
    std::env::var_os("ARGO").is_some_and(|program| !program.is_empty())
}

/// Installs it for a namespace; it isn't started.
pub fn install(test: &Test) -> Process {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (ns, dev) = (test.namespace.as_str(), &test.cluster.dev);
    kubectl(&["apply", "--server-side", "-f", &variable("ARGO_CRDS")]).expect("its definitions");
    kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/workflows.argoproj.io"]).expect("them");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": format!("argo-{ns}") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": "argo", "namespace": ns }],
    });
    let objects = [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "argo", "namespace": ns } }),
        // Its metrics would be served to everybody who reaches this machine.
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "workflow-controller-configmap", "namespace": ns },
            "data": { "metricsConfig": "enabled: false\n" } }),
        role,
    ];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    feed(dev, "kubectl", &["apply", "--server-side", "-f", "-"], list.to_string().as_bytes()).expect("its account");
    let token = kubectl(&["create", "token", "argo", "-n", ns, "--duration=24h"]).expect("a token");
    let text = std::fs::read_to_string(variable("KUBECONFIG")).expect("the kubeconfig");
    let mut config: Value = serde_yaml_ng::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"] = json!({ "token": token.trim() });
    config["contexts"][0]["context"]["namespace"] = json!(ns);
    let file = dev.join("data/tests/kubeconfig-argo");
    std::fs::write(&file, config.to_string()).expect("a kubeconfig");
    let file = file.display().to_string();
    let args = ["--kubeconfig", &file, "--executor-image", "localhost/argoexec:none", "--namespaced"];
    let identity = [("LEADER_ELECTION_IDENTITY", Some("argo".to_string()))];
    Process::new("argo", variable("ARGO"), &args, &identity, &dev.join("log/tests/argo.log"))
}

/// What the sidecar of a pod reports about its node.
pub struct TaskResult {
    api: Api<DynamicObject>,
    object: Value,
    name: String,
}

impl TaskResult {
    /// `None` for pods that aren't Argo's.
    pub fn of(client: &Client, pod: &Pod) -> Option<Self> {
        let workflow = pod.metadata.labels.as_ref()?.get(WORKFLOW)?;
        let name = variable(pod, "ARGO_NODE_ID")?;
        let owner = pod.metadata.owner_references.iter().flatten().next()?;
        let object = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTaskResult",
            "metadata": {
                "name": name, "labels": { WORKFLOW: workflow, COMPLETED: "false" },
                "ownerReferences": [{ "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
                    "name": owner.name, "uid": owner.uid }],
            },
        });
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "WorkflowTaskResult"));
        let namespace = pod.metadata.namespace.as_deref()?;
        Some(Self { api: Api::namespaced_with(client.clone(), namespace, &kind), object, name })
    }

    /// It waits for the agent.
    pub async fn begin(&self) {
        let object = serde_json::from_value(self.object.clone()).expect("an object");
        self.api.create(&PostParams::default(), &object).await.expect("a task's result");
    }

    /// It has reported all: with outputs that there may be, then that it is done.
    pub async fn complete(&self) {
        for patch in [json!({ "outputs": {} }), json!({ "metadata": { "labels": { COMPLETED: "true" } } })] {
            self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patch");
        }
    }
}

/// A variable of any of a pod's containers.
fn variable(pod: &Pod, name: &str) -> Option<String> {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let mut set = containers.flat_map(|c| c.env.iter().flatten());
    set.find(|e| e.name == name).and_then(|e| e.value.clone())
}
