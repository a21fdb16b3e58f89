//! A kubelet without a node, and the scheduler with it: writes the statuses of pods as they would, step by step, when
//! the test says so. [`super::Node`] takes these steps by itself.

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use super::{DEADLINE, Test, within};

/// The node that pods are on, if the test says nothing else. It is always ready.
pub const NODE: &str = "played";

/// How a container ended.
#[derive(Clone, Debug)]
pub struct End {
    pub exit_code: i32,
    /// The kubelet's reason: `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// What the runner left as its termination message.
    pub message: Option<String>,
}

impl End {
    /// As the kubelet calls an exit with this code.
    pub fn exit(exit_code: i32, message: Option<String>) -> Self {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        Self { exit_code, reason: reason.into(), message }
    }

    /// SIGKILL, without a termination message.
    pub fn killed() -> Self {
        Self::exit(137, None)
    }

    pub fn out_of_memory() -> Self {
        Self { exit_code: 137, reason: "OOMKilled".into(), message: None }
    }
}

#[derive(Clone)]
pub struct Kubelet {
    pods: Api<Pod>,
    nodes: Api<Node>,
    node: String,
}

impl Kubelet {
    pub fn of(test: &Test) -> Self {
        Self { pods: test.pods(), nodes: Api::all(test.client.clone()), node: NODE.into() }
    }

    /// That of a node of its own, which is ready.
    pub async fn on_a_node(test: &Test) -> Self {
        let kubelet = Self { node: test.namespace.clone(), ..Self::of(test) };
        let node = serde_json::from_value(node(&kubelet.node, "True")).expect("a node");
        kubelet.nodes.create(&PostParams::default(), &node).await.expect("a node");
        kubelet
    }

    /// The node is not ready any more, as the node controller says of one that nothing is heard of.
    pub async fn is_lost(&self) {
        let lost = Patch::Merge(node(&self.node, "Unknown"));
        self.nodes.patch_status(&self.node, &PatchParams::default(), &lost).await.expect("a node's status");
    }

    /// The node is ready again.
    pub async fn is_back(&self) {
        let back = Patch::Merge(node(&self.node, "True"));
        self.nodes.patch_status(&self.node, &PatchParams::default(), &back).await.expect("a node's status");
    }

    /// The scheduler binds it; its containers are being created.
    pub async fn schedule(&self, pod: &str) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod },
            "target": { "apiVersion": "v1", "kind": "Node", "name": self.node },
        });
        let bound = self.pods.create_subresource::<_, Value>("binding", pod, &PostParams::default(), &binding).await;
        bound.unwrap_or_else(|e| panic!("binding {pod}: {e}"));
        self.waiting(pod, "PodInitializing", "").await;
    }

    /// No node for it.
    pub async fn unschedulable(&self, pod: &str, message: &str) {
        let condition =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message });
        self.write(pod, json!({ "phase": "Pending", "conditions": [condition] })).await;
    }

    /// The agent's container waits, for this reason: `ContainerCreating`, `ErrImagePull`, ...
    pub async fn waiting(&self, pod: &str, reason: &str, message: &str) {
        let state = json!({ "waiting": { "reason": reason, "message": message } });
        let object = self.get(pod).await;
        let init = if matches!(reason, "PodInitializing" | "ContainerCreating") { state.clone() } else { done() };
        let status = json!({
            "phase": "Pending", "startTime": now(), "hostIP": "127.0.0.1", "conditions": conditions(&object, false),
            "initContainerStatuses": statuses(&object, true, &init),
            "containerStatuses": statuses(&object, false, &state),
        });
        self.write(pod, status).await;
    }

    /// `koco-install` is done, and the containers run.
    pub async fn run(&self, pod: &str) {
        let object = self.get(pod).await;
        let running = json!({ "running": { "startedAt": now() } });
        let status = json!({
            "phase": "Running", "podIP": "127.0.0.1", "conditions": conditions(&object, true),
            "initContainerStatuses": statuses(&object, true, &done()),
            "containerStatuses": statuses(&object, false, &running),
        });
        self.write(pod, status).await;
    }

    /// This container has ended like this, and the others go on.
    pub async fn end_container(&self, pod: &str, container: &str, end: &End) {
        let status = self.get(pod).await.status.unwrap_or_default();
        let mut statuses = json!(status.container_statuses);
        let ours = statuses.as_array_mut().into_iter().flatten().find(|c| c["name"] == container);
        let ours = ours.unwrap_or_else(|| panic!("pod {pod} has no container {container}"));
        (ours["state"], ours["ready"], ours["started"]) = (ended(end), json!(false), json!(false));
        self.write(pod, json!({ "containerStatuses": statuses })).await;
    }

    /// All containers have ended like this.
    pub async fn end(&self, pod: &str, end: &End) {
        let object = self.get(pod).await;
        let phase = if end.exit_code == 0 { "Succeeded" } else { "Failed" };
        let status = json!({
            "phase": phase, "conditions": conditions(&object, false),
            "containerStatuses": statuses(&object, false, &ended(end)),
        });
        self.write(pod, status).await;
    }

    /// Says, as who drains a node or preempts a pod does, why the pod is taken away.
    pub async fn disrupt(&self, pod: &str, reason: &str, message: &str) {
        let mut conditions = self.get(pod).await.status.and_then(|s| s.conditions).unwrap_or_default();
        let target = json!({ "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message });
        conditions.push(serde_json::from_value(target).expect("a condition"));
        self.write(pod, json!({ "conditions": conditions })).await;
    }

    /// Waits until the pod is deleted. A pod that is gone already was deleted.
    pub async fn deleted(&self, pod: &str) {
        within(DEADLINE, &format!("pod {pod} to be deleted"), async || match self.find(pod).await {
            Some(object) if object.metadata.deletion_timestamp.is_none() => Err("it is not"),
            _ => Ok(()),
        })
        .await;
    }

    /// Takes a pod away that is being deleted and has ended: the last thing a kubelet does.
    pub async fn remove(&self, pod: &str) {
        let Some(object) = self.find(pod).await else { return };
        assert!(object.metadata.deletion_timestamp.is_some(), "pod {pod} is not being deleted");
        let exact = Preconditions { uid: object.metadata.uid, resource_version: None };
        let params = DeleteParams { preconditions: Some(exact), ..DeleteParams::default() }.grace_period(0);
        match self.pods.delete(pod, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => {}
            Err(e) => panic!("removing {pod}: {e}"),
        }
    }

    async fn find(&self, pod: &str) -> Option<Pod> {
        self.pods.get_opt(pod).await.expect("get")
    }

    async fn get(&self, pod: &str) -> Pod {
        self.find(pod).await.unwrap_or_else(|| panic!("pod {pod} is gone"))
    }

    async fn write(&self, pod: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        let written = self.pods.patch_status(pod, &PatchParams::default(), &patch).await;
        written.unwrap_or_else(|e| panic!("the status of {pod}: {e}"));
    }
}

/// A node, and whether it is ready.
pub fn node(name: &str, ready: &str) -> Value {
    let condition = json!({ "type": "Ready", "status": ready, "reason": "Played" });
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "unschedulable": true },
        "status": { "conditions": [condition] },
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The state of a container that has done its work.
fn done() -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now() } })
}

/// The state of a container that has ended.
fn ended(end: &End) -> Value {
    json!({ "terminated": {
        "exitCode": end.exit_code, "reason": end.reason, "message": end.message,
        "startedAt": now(), "finishedAt": now(),
    } })
}

/// The kubelet's own conditions, and those that others have written.
fn conditions(pod: &Pod, ready: bool) -> Value {
    let word = if ready { "True" } else { "False" };
    let ours = [("PodScheduled", "True"), ("Initialized", word), ("ContainersReady", word), ("Ready", word)];
    let there = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let foreign = there.iter().filter(|c| ours.iter().all(|(kind, _)| *kind != c.type_)).map(|c| json!(c));
    foreign.chain(ours.iter().map(|(kind, status)| json!({ "type": kind, "status": status }))).collect()
}

/// One status for each container, or each init container, all in the same state.
fn statuses(pod: &Pod, init: bool, state: &Value) -> Value {
    let spec = pod.spec.as_ref().expect("a spec");
    let none = Vec::new();
    let containers = if init { spec.init_containers.as_ref().unwrap_or(&none) } else { &spec.containers };
    let runs = state.get("running").is_some();
    let one = |c: &k8s_openapi::api::core::v1::Container| {
        let image = c.image.clone().unwrap_or_default();
        json!({
            "name": c.name, "image": image, "imageID": image, "ready": runs, "started": runs, "restartCount": 0,
            "state": state,
        })
    };
    containers.iter().map(one).collect()
}
