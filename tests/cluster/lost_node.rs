//! A lost node: Kubernetes can't report that its pod has ended, so there is no second runner.

use std::time::Duration;

use koco::{
    api::{RunnerState, conditions, names},
    protocol::runner::{Heartbeat, Register, verb},
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::harness::{
    ExecutionMode, Test, agent, audit,
    cluster::{feed, kubectl},
    gateway_client::{Gateway, run_path, token},
    job::{With, condition, pod_name},
    wait::always,
};

/// A node without a kubelet.
struct Ghost<'t> {
    test: &'t Test,
    name: String,
}

impl<'t> Ghost<'t> {
    fn new(test: &'t Test) -> Self {
        let name = format!("ghost-{}", test.namespace);
        // No other test's pod is to come here.
        let spec = json!({ "unschedulable": true });
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": spec });
        feed(&test.cluster.dev, "kubectl", &["create", "-f", "-"], node.to_string().as_bytes()).expect("a node");
        Self { test, name }
    }
}

impl Drop for Ghost<'_> {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "pods", "--all", "-n", &self.test.namespace, "--grace-period=0", "--force"]);
        let _ = kubectl(&["delete", "node", &self.name, "--wait=false"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_second_runner_before_the_first_has_ended() {
    let (test, mut roles) = Test::with_operator().await;
    let ghost = Ghost::new(&test);
    let spec = agent("count").mode(ExecutionMode::Temporal).heartbeat("10s").with(json!({
        "template": { "spec": { "nodeName": ghost.name } },
        "retryPolicy": { "maximumAttempts": 3, "initialInterval": "1s" },
    }));
    let job = test.apply(spec).await;
    let pod = pod_name(&job.until_pod().await);
    // The last reports of kubelet and runner.
    let running = json!({ "status": { "phase": "Running", "containerStatuses": [{
        "name": "agent", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
    }] } });
    test.pods().patch_status(&pod, &PatchParams::default(), &Patch::Merge(running)).await.expect("the kubelet's word");
    let gateway = Gateway::of(&test, &roles).await;
    let token = token(&test.client, &test.namespace, Some(names::GATEWAY_AUDIENCE), Some(&pod)).await;
    let (run, hello) = (run_path(&job, 1), Register { state: RunnerState::Waiting, generation: 0, has_job: false });
    assert_eq!(gateway.say(verb::REGISTER, &run, Some(&token), &hello).await, 200);
    job.until_run("the start grant", |r| r.spec.grant.is_some()).await;
    let beat = Heartbeat { state: RunnerState::Running, generation: 0, progress: None, between: false };
    assert_eq!(gateway.say(verb::HEARTBEAT, &run, None, &beat).await, 204);
    job.until("the agent to start", |s| s.attempt == Some(1)).await;

    // From here on both are unreachable, and Kubernetes deletes the pod, as for an unreachable node.
    test.pods().delete(&pod, &DeleteParams::default()).await.expect("delete");
    job.until_run("the end of the first run", |r| r.is_closed() || r.number() == 2).await;
    job.until("somebody is told", |s| condition(s, conditions::STALLED).1 == "PodNotEnding").await;
    always(Duration::from_secs(5), "one pod", async || match audit::created(&test.namespace) {
        one if one.len() == 1 => Ok(()),
        more => Err(more),
    })
    .await;
    // It comes back, too late.
    assert_eq!(gateway.say(verb::HEARTBEAT, &run, None, &beat).await, 410);

    // An administrator confirms that the node is off.
    test.pods().delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("delete");
    let next = job.until_run("the second run", |r| r.number() == 2).await;
    assert_eq!(next.spec.identity.attempt, 2);
    assert_ne!(pod_name(&job.until_pod().await), pod);
    assert_eq!(audit::created(&test.namespace).len(), 2);
    roles.kill_all();
}
