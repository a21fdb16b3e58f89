//! The NetworkPolicy of agents' pods: one in each namespace that has AgentJobs, if the operator wants it. It is there
//! before the first pod, and whatever others do to it is undone. It is never deleted: it selects agents' pods only, and
//! outlives the last of them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::api::{discovery::v1::EndpointSlice, networking::v1::NetworkPolicy};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{api::names, controller::ControllerError};

/// How often all policies are applied again.
const AGAIN: Duration = Duration::from_secs(30);
/// The ranges of a policy that stand for the world, by their address family.
const WORLD: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Keeps the policies.
pub(super) struct AgentNetwork {
    client: Client,
    /// What they have as `spec`; `None`: the operator wants none.
    spec: Option<Value>,
    /// The namespaces that have jobs, and whether the policy was applied there.
    namespaces: Mutex<HashMap<String, bool>>,
}

impl AgentNetwork {
    pub fn new(client: Client, spec: Option<Value>) -> Self {
        Self { client, spec, namespaces: Mutex::default() }
    }

    /// There are jobs in this namespace.
    pub fn serves(&self, namespace: &str) {
        if self.spec.is_some() {
            self.namespaces.lock().entry(namespace.into()).or_insert(false);
        }
    }

    /// Before a pod is created in a namespace. An error keeps it from being created.
    pub async fn ensure(&self, namespace: &str) -> Result<(), ControllerError> {
        if self.spec.is_none() || self.namespaces.lock().get(namespace) == Some(&true) {
            return Ok(());
        }
        let blocked = self.api_server().await.map_err(ControllerError::NetworkPolicy)?;
        self.apply(namespace, &blocked).await.map_err(ControllerError::NetworkPolicy)
    }

    /// Applies all of them again and again. Ends never.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(AGAIN).await;
            let namespaces: Vec<String> = self.namespaces.lock().keys().cloned().collect();
            if namespaces.is_empty() {
                continue;
            }
            let blocked = match self.api_server().await {
                Ok(blocked) => blocked,
                Err(error) => {
                    tracing::warn!(%error, "the API server's addresses, for NetworkPolicies");
                    continue;
                }
            };
            for namespace in namespaces {
                if let Err(error) = self.apply(&namespace, &blocked).await {
                    // It may be on its way out. The next reconcile of a job there brings it back.
                    tracing::warn!(%error, namespace, "NetworkPolicy {}", names::AGENT_NETWORK_POLICY);
                    self.namespaces.lock().remove(&namespace);
                }
            }
        }
    }

    async fn apply(&self, namespace: &str, blocked: &[String]) -> Result<(), kube::Error> {
        let Some(spec) = &self.spec else { return Ok(()) };
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "name": names::AGENT_NETWORK_POLICY,
                "labels": BTreeMap::from(names::LABELS),
            },
            "spec": block(spec.clone(), blocked),
        });
        let params = PatchParams::apply("koco").force();
        api.patch(names::AGENT_NETWORK_POLICY, &params, &Patch::Apply(&policy)).await?;
        self.namespaces.lock().insert(namespace.into(), true);
        Ok(())
    }

    /// The addresses of the API server itself: policies are about those, not about that of its Service.
    async fn api_server(&self) -> Result<Vec<String>, kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
        let slice = api.get_opt("kubernetes").await?;
        Ok(slice.into_iter().flat_map(|s| s.endpoints).flat_map(|e| e.addresses).collect())
    }
}

/// Excepts addresses from the ranges of a policy's spec that stand for the world.
fn block(mut spec: Value, addresses: &[String]) -> Value {
    let rules = spec.get_mut("egress").and_then(Value::as_array_mut);
    let peers = rules.into_iter().flatten().filter_map(|rule| rule.get_mut("to")?.as_array_mut()).flatten();
    for range in peers.filter_map(|peer| peer.get_mut("ipBlock")) {
        let Some(family) = WORLD.iter().position(|world| range["cidr"] == *world) else { continue };
        let v6 = family == 1;
        let ours = addresses.iter().filter(|a| a.contains(':') == v6);
        let single = ours.map(|a| json!(format!("{a}/{}", if v6 { 128 } else { 32 })));
        let mut except = range.get("except").and_then(Value::as_array).cloned().unwrap_or_default();
        for address in single {
            if !except.contains(&address) {
                except.push(address);
            }
        }
        range["except"] = Value::Array(except);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_no_part_of_the_world() {
        let spec = |v4: &[&str], v6: &[&str]| {
            let world = [json!({ "cidr": "0.0.0.0/0", "except": v4 }), json!({ "cidr": "::/0", "except": v6 })];
            let other = json!({ "ipBlock": { "cidr": "10.0.0.0/8" } });
            json!({ "egress": [
                { "ports": [{ "port": 53 }] },
                { "to": [{ "ipBlock": world[0] }, { "ipBlock": world[1] }, other] },
            ] })
        };
        let addresses = ["10.0.0.5".to_string(), "fd00::5".to_string()];
        let blocked = block(spec(&["169.254.169.254/32"], &[]), &addresses);
        assert_eq!(blocked, spec(&["169.254.169.254/32", "10.0.0.5/32"], &["fd00::5/128"]));
        assert_eq!(block(blocked.clone(), &addresses), blocked, "not twice");
        assert_eq!(block(json!({}), &addresses), json!({}));
    }
}
