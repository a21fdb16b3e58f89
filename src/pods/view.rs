//! A pod's status, reduced to what decisions need. Pure.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};

use crate::api::names;

/// The state of the agent's container. Decisions use it and not the pod's phase, because sidecars may run on.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AgentContainer {
    /// Not running yet.
    #[default]
    Waiting,
    /// Running.
    Running,
    /// Ended.
    Ended {
        /// Its exit code.
        exit_code: i32,
        /// The kubelet's reason: `OOMKilled`, `Error`, `Completed`, ...
        reason: String,
        /// The termination message. The agent may have written it: see [`crate::protocol::termination::verify`].
        message: Option<String>,
    },
}

/// A runner pod, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The UID of the AgentRun that owns it, if one does.
    pub run_uid: Option<String>,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// When it was created.
    pub created: Option<Time>,
    /// If it is being deleted, the end of its grace period.
    pub deletion_deadline: Option<Time>,
    /// Whether a scheduling gate holds it back.
    pub gated: bool,
    /// Whether the scheduler has found no node for it.
    pub unscheduled: bool,
    /// `Succeeded` or `Failed`: all its containers have ended.
    pub ended: bool,
    /// The pod's own reason for its failure, such as `Evicted`.
    pub reason: Option<String>,
    /// The agent's container.
    pub agent: AgentContainer,
    /// Why it does not start, from the kubelet or the scheduler: (reason, message).
    pub waiting_reason: Option<(String, String)>,
    /// Why it was disrupted: the `DisruptionTarget` condition's (reason, message).
    pub disruption: Option<(String, String)>,
}

impl PodView {
    /// Whether the agent's container has ended, so that no process of the agent is left.
    pub fn agent_ended(&self) -> bool {
        self.ended || matches!(self.agent, AgentContainer::Ended { .. })
    }

    /// Whether it is being deleted.
    pub fn deleting(&self) -> bool {
        self.deletion_deadline.is_some()
    }

    /// Reads a pod. Missing fields count as not set yet.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let status = pod.status.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let said = meta.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_AGENT_CONTAINER)).cloned();
        let first = || spec.and_then(|s| s.containers.first()).map(|c| c.name.clone());
        let agent_name = said.or_else(first).unwrap_or_default();
        let containers = status.container_statuses.clone().unwrap_or_default();
        let agent = containers.iter().find(|c| c.name == agent_name);
        let conditions = status.conditions.clone().unwrap_or_default();
        let condition = |kind: &str, value: &str| conditions.iter().find(|c| c.type_ == kind && c.status == value);
        let words = |c: &k8s_openapi::api::core::v1::PodCondition, or: &str| {
            (c.reason.clone().unwrap_or_else(|| or.into()), c.message.clone().unwrap_or_default())
        };
        let phase = status.phase.as_deref().unwrap_or_default();
        let scheduling = condition("PodScheduled", "False").map(|c| words(c, "Unschedulable"));
        let gated = scheduling.as_ref().is_some_and(|(reason, _)| reason == "SchedulingGated");
        let inits = status.init_container_statuses.clone().unwrap_or_default();
        let waiting = inits.iter().chain(&containers).find_map(waiting_reason);
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            run_uid: owner(meta).map(|o| o.uid.clone()),
            node: spec.and_then(|s| s.node_name.clone()),
            created: meta.creation_timestamp.clone(),
            deletion_deadline: meta.deletion_timestamp.clone(),
            gated,
            unscheduled: scheduling.is_some() && !gated,
            ended: matches!(phase, "Succeeded" | "Failed"),
            reason: status.reason.clone(),
            agent: agent.map_or(AgentContainer::Waiting, container),
            waiting_reason: scheduling.filter(|_| !gated).or(waiting),
            disruption: condition("DisruptionTarget", "True").map(|c| words(c, "DisruptionTarget")),
        }
    }
}

/// The AgentRun that controls a pod. Users may write any owner reference, so callers must also check the run's own
/// record of its pod.
pub fn owner(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_ref()?;
    let ours =
        |o: &&OwnerReference| o.api_version == names::API_VERSION && o.kind == "AgentRun" && o.controller == Some(true);
    owners.iter().find(ours)
}

fn container(status: &ContainerStatus) -> AgentContainer {
    let state = status.state.clone().unwrap_or_default();
    if let Some(ended) = state.terminated {
        let reason = ended.reason.unwrap_or_default();
        AgentContainer::Ended { exit_code: ended.exit_code, reason, message: ended.message }
    } else if state.running.is_some() {
        AgentContainer::Running
    } else {
        AgentContainer::Waiting
    }
}

/// What keeps a container from starting; `None` for the ordinary steps of a start.
fn waiting_reason(status: &ContainerStatus) -> Option<(String, String)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let said = waiting.message.clone().unwrap_or_default();
    Some((reason, format!("container {}: {said}", status.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> PodView {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "uid": "u", "ownerReferences": [{ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "name": "r", "uid": "r-3",
                "controller": true }] },
            "spec": { "containers": [{ "name": "agent", "image": "i" }, { "name": "mesh", "image": "i" }] },
            "status": status,
        }))
        .unwrap();
        PodView::of(&pod)
    }

    #[test]
    fn a_sidecar_that_lives_on_does_not_hide_the_agents_end() {
        let view = pod(json!({ "phase": "Running", "containerStatuses": [
            { "name": "mesh", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } },
            { "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } },
        ] }));
        assert!(view.agent_ended());
        assert!(!view.ended);
        assert_eq!(view.run_uid.as_deref(), Some("r-3"));
        assert_eq!(view.agent, AgentContainer::Ended { exit_code: 137, reason: "OOMKilled".into(), message: None });
    }

    #[test]
    fn pulling_in_vain_is_trouble_and_creating_is_not() {
        let waiting = |reason: &str| {
            pod(json!({ "phase": "Pending", "containerStatuses": [{ "name": "agent", "image": "i", "imageID": "",
                "ready": false, "restartCount": 0, "state": { "waiting": { "reason": reason, "message": "no such image" } } }] }))
        };
        assert_eq!(waiting("ContainerCreating").waiting_reason, None);
        let (reason, message) = waiting("ErrImagePull").waiting_reason.unwrap();
        assert_eq!((reason.as_str(), message.as_str()), ("ErrImagePull", "container agent: no such image"));
    }

    #[test]
    fn a_gate_is_not_trouble() {
        let view = pod(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "held" } ] }));
        assert!(view.gated && view.waiting_reason.is_none());
        let view = pod(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" } ] }));
        assert_eq!(view.waiting_reason, Some(("Unschedulable".into(), "0/1 nodes".into())));
    }

    #[test]
    fn the_agent_is_known_by_name_wherever_a_webhook_put_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "annotations": { names::ANNOTATION_AGENT_CONTAINER: "agent" } },
            "spec": { "containers": [{ "name": "mesh", "image": "i" }, { "name": "agent", "image": "i" }] },
            "status": { "phase": "Running", "containerStatuses": [
                { "name": "mesh", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                  "state": { "terminated": { "exitCode": 1 } } },
                { "name": "agent", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                  "state": { "running": {} } },
            ] },
        }))
        .unwrap();
        assert_eq!(PodView::of(&pod).agent, AgentContainer::Running);
    }

    #[test]
    fn a_foreign_owner_is_none() {
        for (version, kind, controller) in [
            ("nowhere.example/v1", "AgentRun", true),
            ("kodosumi.io/v1alpha1", "AgentJob", true),
            ("kodosumi.io/v1alpha1", "AgentRun", false),
        ] {
            let owner =
                json!({ "apiVersion": version, "kind": kind, "name": "r", "uid": "u", "controller": controller });
            let pod = serde_json::from_value(json!({ "metadata": { "ownerReferences": [owner] } })).unwrap();
            assert_eq!(PodView::of(&pod).run_uid, None);
        }
    }
}
