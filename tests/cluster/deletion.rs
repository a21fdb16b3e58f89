//! Deleting a job cancels it, in bounded time, whichever other component is down.

use kube::{
    Api,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, MODES, Server, TemporalServer, Test, agent,
    agent_log::{now, said},
    audit,
    job::{With, pod_name},
    within,
};

async fn deleted_while_it_runs(params: DeleteParams) {
    let (test, _roles) = Test::with_operator().await;
    for (made, mode) in MODES.into_iter().enumerate() {
        let job = test.apply(agent("count").mode(mode).heartbeat("10m")).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts().await;
        let workflow = if mode == ExecutionMode::Temporal { Some(job.workflow().await) } else { None };
        let log = job.follow(&pod);
        job.delete(params.clone()).await;
        job.gone(DEADLINE).await;
        assert_eq!(said(&log.all().await, "sigterm").len(), 1, "SIGTERM, as the agent saw it, in {mode:?}");
        within(DEADLINE, "its pods to be gone", async || {
            let pods = job.pods().await;
            if pods.is_empty() { Ok(()) } else { Err(pods.len()) }
        })
        .await;
        if let Some(id) = workflow {
            assert_eq!(job.closed(&id).await, "CANCELED");
        }
        assert_eq!(audit::created(&test.namespace).len(), made + 1, "no second pod in {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_background() {
    deleted_while_it_runs(DeleteParams::background()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_foreground() {
    deleted_while_it_runs(DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_end() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("succeed").mode(mode)).await;
        job.phase(crate::harness::Phase::Succeeded).await;
        job.delete(DeleteParams::default()).await;
        job.gone(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_temporal_down() {
    let mut server = TemporalServer::new("deleted-with-temporal-down");
    server.start().await;
    let test = Test::new().await;
    let _roles = test.operator(Server::Own(&server)).await;
    let job = test.apply(agent("count").mode(ExecutionMode::Temporal).heartbeat("2s")).await;
    let job = job.on(&server.address);
    let pod = pod_name(&job.running_pod().await);
    let workflow = job.workflow().await;
    let log = job.follow(&pod);
    server.kill();
    job.delete(DeleteParams::default()).await;
    job.gone(DEADLINE).await;
    let log = log.all().await;
    let end: Vec<&str> = log.lines().rev().take(3).collect();
    assert_eq!(said(&log, "sigterm").len(), 1, "the log's last lines are {end:?} at {}", now());
    job.nothing_runs().await;
    // Once Temporal is back, the workflow finds its job gone, and ends.
    server.start().await;
    let end = job.closed(&workflow).await;
    assert_ne!(end, "RUNNING");
    assert_eq!(audit::created(&test.namespace).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_namespace() {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("count").mode(mode).grace(2)).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    let workflow = jobs[1].workflow().await;
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(test.client.clone());
    api.delete(&test.namespace, &DeleteParams::default()).await.expect("delete");
    within(DEADLINE, "the namespace to be gone", async || {
        let there = api.get_opt(&test.namespace).await.expect("get");
        there.map_or(Ok(()), |ns| Err(ns.status.and_then(|s| s.conditions)))
    })
    .await;
    assert_eq!(audit::created(&test.namespace).len(), 2, "no pod was made anew");
    assert_eq!(jobs[1].closed(&workflow).await, "CANCELED");
}

/// Without a controller to remove finalizers, only jobs wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_operator_down() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("count").mode(mode).grace(2)).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    roles.kill_all();
    for job in &jobs {
        job.delete(DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() })
            .await;
    }
    for job in &jobs {
        within(DEADLINE, "its pods to be gone", async || {
            let pods = job.pods().await;
            if pods.is_empty() { Ok(()) } else { Err(pods.len()) }
        })
        .await;
    }
    jobs[0].gone(DEADLINE).await;
    assert!(jobs[1].find().await.is_some(), "the finalizer waits for its workflow's end");
    roles.start().await;
    jobs[1].gone(DEADLINE).await;
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_its_own_time_to_live() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("succeed").with(json!({ "ttlSecondsAfterFinished": 1 }))).await;
    job.gone(DEADLINE).await;
}
