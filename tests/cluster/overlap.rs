//! Two runners of one job never overlap.

use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, MODES, Test, agent,
    agent_log::ticks,
    job::{With, pod_name, started},
    node, within,
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
    let deleted = crate::harness::agent_log::now();
    job.delete_pod(&first, &DeleteParams::default()).await;
    within(DEADLINE, "the second agent to start", async || {
        let run = job.run().await.ok_or(None)?;
        let pod = run.spec.identity.pod_name.clone();
        if pod != first && started(&run) { Ok(()) } else { Err(Some(pod)) }
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
    an_agent_that_ignores_its_end(ExecutionMode::Direct, "Count").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_under_an_agent_that_ignores_sigterm_not_counted() {
    an_agent_that_ignores_its_end(ExecutionMode::Direct, "Ignore").await;
}

/// The object is gone at once, and with it the log; the kubelet goes on for a grace period.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_by_force_under_an_agent_that_ignores_sigterm() {
    for mode in MODES {
        let (test, _roles) = Test::with_operator().await;
        let spec = agent("ignore-term?every_ms=10").mode(mode).grace(5);
        let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "100ms" } });
        let job = test.apply(spec.with(retry)).await;
        let first = job.running_pod().await;
        job.counts().await;
        let (name, uid) = (pod_name(&first), first.metadata.uid.expect("a UID"));
        let agents = || node::processes(&uid, "test-agent");
        job.delete_pod(&name, &DeleteParams::default().grace_period(0)).await;
        assert!(!agents().is_empty(), "the first agent has its grace period");
        within(DEADLINE, "the second agent to start", async || {
            let run = job.run().await.ok_or(None)?;
            let pod = run.spec.identity.pod_name.clone();
            if pod != name && started(&run) { Ok(()) } else { Err(Some(pod)) }
        })
        .await;
        assert_eq!(agents(), Vec::<i32>::new(), "the agents overlap in {mode:?}");
    }
}
