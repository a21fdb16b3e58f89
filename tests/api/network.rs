//! The NetworkPolicy of agents' pods. That it is there and right, not that a network obeys it.

use futures::future::join_all;
use k8s_openapi::api::{core::v1::ResourceQuota, discovery::v1::EndpointSlice, networking::v1::NetworkPolicy};
use koco::{api::AgentRun, platform::store};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, ExecutionMode, MODES, Roles, Server, Test, agent,
    by_hand::{create, logged, patch_status},
    job::With,
    within,
};

const NAME: &str = "koco-agents";

/// What the chart gives the controller, in short.
pub fn spec() -> Value {
    json!({
        "podSelector": { "matchLabels": { "app.kubernetes.io/component": "agent-runner" } },
        "policyTypes": ["Ingress", "Egress"], "ingress": [],
        "egress": [{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"] } }] }],
    })
}

/// As the API server's own reconciler would say where it is. It is not there in this tier.
async fn api_server(test: &Test) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "namespace": "default" }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["192.0.2.1"] }],
    });
    let slices: Api<EndpointSlice> = Api::namespaced(test.client.clone(), "default");
    let params = PatchParams::apply("koco-tests").force();
    slices.patch("kubernetes", &params, &Patch::Apply(slice)).await.expect("where the API server is");
}

/// Waits for the policy, as it has to be.
pub async fn right(test: &Test) -> NetworkPolicy {
    let api: Api<NetworkPolicy> = Api::namespaced(test.client.clone(), &test.namespace);
    within(DEADLINE, "the policy", async || {
        let found = api.get_opt(NAME).await.expect("get").ok_or("none")?;
        let is = serde_json::to_value(&found.spec).expect("JSON");
        let world = &is["egress"][0]["to"][0]["ipBlock"]["except"];
        let blocked = [json!(["169.254.169.254/32", "192.0.2.1/32"]), json!(["169.254.169.254/32"])];
        let rest = (&is["podSelector"], &is["policyTypes"], is["ingress"].as_array().is_none_or(Vec::is_empty));
        match blocked.contains(world) && rest == (&spec()["podSelector"], &spec()["policyTypes"], true) {
            true => Ok(found),
            false => Err("another"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_is_there_before_the_first_pod_and_stays_as_it_is() {
    join_all(MODES.map(there_first)).await;
}

/// Also: a change of it is undone, in one mode's namespace, and in the other's its deletion.
async fn there_first(mode: ExecutionMode) {
    let test = Test::new().await;
    api_server(&test).await;
    let mut roles = Roles::separate(&test, Server::Shared);
    roles.set("KOCO_AGENT_NETWORK_POLICY", &spec().to_string());
    roles.start().await;
    let job = test.apply(agent("anything").mode(mode)).await;
    let pod = within(DEADLINE, "its pod", async || job.pods().await.pop().ok_or("none")).await;
    let policy = right(&test).await;
    let excepted = serde_json::to_value(&policy.spec).expect("JSON");
    assert_eq!(excepted["egress"][0]["to"][0]["ipBlock"]["except"][1], "192.0.2.1/32", "the API server");
    // Versions are the store's revisions: nothing has changed either since it was made.
    assert!(store::version(&policy) < store::version(&pod), "{mode:?}: the pod was first");
    let api: Api<NetworkPolicy> = Api::namespaced(test.client.clone(), &test.namespace);
    if mode == ExecutionMode::Direct {
        let open = Patch::Merge(json!({ "spec": { "egress": [{}], "ingress": [{}] } }));
        api.patch(NAME, &PatchParams::default(), &open).await.expect("a change");
    } else {
        api.delete(NAME, &DeleteParams::default()).await.expect("a deletion");
    }
    right(&test).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_policy_no_pod_is_created() {
    let test = Test::new().await;
    let count = "count/networkpolicies.networking.k8s.io";
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "none" },
        "spec": { "hard": { count: "0" } } });
    create(&test, &quota.to_string()).await;
    // As the quota's controller would.
    patch_status(&test, "resourcequota", "none", json!({ "hard": { count: "0" }, "used": { count: "0" } })).await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    roles.set("KOCO_AGENT_NETWORK_POLICY", &spec().to_string());
    roles.start().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("anything").mode(mode)).await);
    }
    for job in &jobs {
        let words = ["WARN", "NetworkPolicy koco-agents", "exceeded quota", &job.name];
        let said = async || if logged(&test, &words).is_empty() { Err("nothing is said") } else { Ok(()) };
        within(DEADLINE, "a refusal", said).await;
        assert!(job.pods().await.is_empty(), "{}", job.name);
    }
    let runs: Api<AgentRun> = test.runs();
    assert_eq!(runs.list_metadata(&Default::default()).await.expect("runs").items.len(), 0);
    let quotas: Api<ResourceQuota> = Api::namespaced(test.client.clone(), &test.namespace);
    quotas.delete("none", &DeleteParams::default()).await.expect("a deletion");
    for job in &jobs {
        within(DEADLINE, "its pod", async || job.pods().await.pop().map(drop).ok_or("none")).await;
    }
    right(&test).await;
}
