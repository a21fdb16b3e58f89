//! Two runners of one job never overlap.

use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, Test, agent,
    evidence::ticks,
    job::{With, pod_name},
    within,
};

async fn an_agent_that_ignores_its_end(mode: ExecutionMode, policy: &str) {
    let (test, _roles) = Test::with_operator().await;
    let spec = agent("ignore-term?every_ms=10").mode(mode).grace(5);
    let retry =
        json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "100ms" }, "disruptionPolicy": policy });
    let job = test.apply(spec.with(retry)).await;
    let first = pod_name(&job.running_pod().await);
    job.counts().await;
    let log = job.follow(&first);
    let deleted = crate::harness::evidence::now();
    job.delete_pod(&first, &DeleteParams::default()).await;
    within(DEADLINE, "the second agent to start", async || {
        let status = job.status().await;
        let second = status.runner_pod.as_deref().is_some_and(|pod| pod != first);
        if second && crate::harness::job::started(&status) { Ok(()) } else { Err(status.runner_pod) }
    })
    .await;
    let (old, new) = (ticks(&log.all().await), job.counts_on(3).await);
    let (last, next) = (old.last().expect("ticks"), new.first().expect("ticks"));
    assert!(last.at >= deleted + 3_000, "the first agent had its grace period: {} ms", last.at.saturating_sub(deleted));
    assert!(last.at < next.at, "the agents overlapped: {last:?} {next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_under_an_agent_that_ignores_sigterm_temporal() {
    an_agent_that_ignores_its_end(ExecutionMode::Temporal, "Count").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_under_an_agent_that_ignores_sigterm_direct() {
    an_agent_that_ignores_its_end(ExecutionMode::Direct, "Ignore").await;
}
