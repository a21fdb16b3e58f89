//! The node of a pod: whether it is lost. It is read only when a run is about to be judged, so nodes cost nothing
//! otherwise. Used by the controller and the worker.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::PodError;

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It is ready, or nothing is known against it.
    Ready,
    /// It is not ready, or gone: why its pods can't be judged by what they don't say.
    Lost(String),
}

impl NodeState {
    /// Reads a node; `None` if the API server has none of this name.
    pub fn of(name: &str, node: Option<&Node>) -> Self {
        let Some(node) = node else { return Self::Lost(format!("node {name} is gone")) };
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        match conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready")) {
            Some(ready) if ready.status == "True" => Self::Ready,
            Some(ready) => {
                let why = ready.reason.as_deref().unwrap_or("no reason given");
                Self::Lost(format!("node {name} is not ready ({why})"))
            }
            None => Self::Lost(format!("node {name} has never been ready")),
        }
    }

    /// Why it is lost, if it is.
    pub fn lost(&self) -> Option<&str> {
        match self {
            Self::Ready => None,
            Self::Lost(why) => Some(why),
        }
    }
}

/// Reads a node from the API server. Without the right to read nodes, nothing is known against it.
pub async fn read(client: &Client, name: &str) -> Result<NodeState, PodError> {
    match Api::<Node>::all(client.clone()).get_opt(name).await {
        Ok(node) => Ok(NodeState::of(name, node.as_ref())),
        Err(kube::Error::Api(e)) if e.code == 403 => {
            tracing::warn!(node = name, "no right to get nodes: a lost node can't be told from a lost runner");
            Ok(NodeState::Ready)
        }
        Err(e) => Err(PodError::Api(format!("get node {name}"), e)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lost(conditions: serde_json::Value) -> Option<String> {
        let node = serde_json::from_value(json!({ "status": { "conditions": conditions } })).unwrap();
        NodeState::of("n", Some(&node)).lost().map(str::to_string)
    }

    #[test]
    fn only_a_node_that_is_ready_is_not_lost() {
        let ready = |status: &str| json!([{ "type": "Ready", "status": status, "reason": "R" }]);
        assert_eq!(lost(ready("True")), None);
        assert_eq!(lost(ready("Unknown")).as_deref(), Some("node n is not ready (R)"));
        assert_eq!(lost(ready("False")).as_deref(), Some("node n is not ready (R)"));
        assert_eq!(lost(json!([])).as_deref(), Some("node n has never been ready"));
        assert_eq!(NodeState::of("n", None).lost(), Some("node n is gone"));
    }
}
