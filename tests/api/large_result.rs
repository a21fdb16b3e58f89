//! Results that the controller's caches don't hold: they are whole wherever they are written.

use serde_json::{Value, json};

use crate::harness::{
    ExecutionMode, Kubelet, MODES, Phase, Server, Test, agent,
    by_hand::{started, succeeds},
    job::{With, pod_name},
    kubelet::End,
    runner::succeeded,
};

/// It fits a termination message.
fn large() -> Value {
    json!({ "text": "x".repeat(2000) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_outlives_all_later_writes_of_the_status() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        succeeds(&kubelet, &job, &pod, &runner, large()).await;
        for limit in [20, 21] {
            job.patch(json!({ "spec": { "runHistoryLimit": limit } })).await;
            let generation = job.get().await.metadata.generation;
            let after = job.until("a write", |s| s.observed_generation == generation).await;
            assert_eq!((after.phase, after.result), (Some(Phase::Succeeded), Some(large().into())), "in {mode:?}");
            // The next one is a new leader's.
            roles.role("controller").kill();
            roles.role("controller").start().await;
        }
    }
}

/// No gateway is there to do it, and no time-out makes a worker look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_the_controller_tells_of_an_end_has_the_whole_result() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(ExecutionMode::Temporal).heartbeat("600s")).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    roles.role("gateway").kill();
    let message = runner.termination_message(&succeeded(large()));
    kubelet.end(&pod_name(&pod), &End::exit(0, Some(message))).await;
    let status = job.phase(Phase::Succeeded).await;
    assert_eq!(status.result, Some(large().into()));
    let id = job.workflow().await;
    assert_eq!(job.closed(&id).await, "COMPLETED");
}
