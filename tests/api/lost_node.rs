//! A node that is lost takes its agents with it: that is a disruption, and no fault of theirs. And one that hears nobody
//! is rather cut off itself.

use std::time::Duration;

use futures::future::join_all;
use koco::api::ErrorStatus;
use serde_json::json;

use crate::harness::{
    ExecutionMode, Job, Kubelet, MODES, Node, Phase, Roles, Server, Service, Test, agent,
    by_hand::{started, succeeds},
    job::{With, error_type, pod_name},
    kubelet::End,
    wait::always,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_from_a_lost_node_is_a_disruption() {
    join_all(MODES.map(lost_with_each_policy)).await;
}

async fn lost_with_each_policy(mode: ExecutionMode) {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::on_a_node(&test).await;
    for policy in ["Count", "Ignore", "FailJob"] {
        let case = format!("{policy} in {mode:?}");
        let attempts = if policy == "FailJob" { 3 } else { 1 };
        let retry = json!({ "maximumAttempts": attempts, "initialInterval": "100ms" });
        let spec = agent("anything").mode(mode).heartbeat("1s");
        let job = test.apply(spec.with(json!({ "disruptionPolicy": policy, "retryPolicy": retry }))).await;
        let (pod, _silent) = started(&kubelet, &job, 1).await;
        kubelet.is_lost().await;
        if policy != "Ignore" {
            assert_eq!(error_type(&job.phase(Phase::Failed).await), "Disrupted", "{case}");
            kubelet.is_back().await;
            continue;
        }
        let disrupted = |e: &ErrorStatus| e.kind == "Disrupted" && e.message.contains("is not ready");
        job.until("a disruption", |s| s.error.as_ref().is_some_and(disrupted)).await;
        kubelet.is_back().await;
        let name = pod_name(&pod);
        kubelet.deleted(&name).await;
        kubelet.end(&name, &End::killed()).await;
        kubelet.remove(&name).await;
        let (pod, runner) = started(&kubelet, &job, 2).await;
        succeeds(&kubelet, &job, &pod, &runner, json!(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_a_word_on_a_lost_node_is_a_disruption() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::on_a_node(&test).await;
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    let unknown = End { exit_code: 137, reason: "ContainerStatusUnknown".into(), message: None };
    for (mode, (lost, end)) in
        MODES.iter().flat_map(|m| [(true, End::killed()), (false, unknown.clone())].map(|c| (*m, c)))
    {
        let job = test.apply(agent("anything").mode(mode).with(once.clone())).await;
        let (pod, _runner) = started(&kubelet, &job, 1).await;
        if lost {
            kubelet.is_lost().await;
        }
        kubelet.end(&pod_name(&pod), &end).await;
        assert_eq!(error_type(&job.phase(Phase::Failed).await), "Disrupted", "{end:?} in {mode:?}");
        kubelet.is_back().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_cut_off_calls_no_runner_lost() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    let service = Service::before(&mut roles).await;
    roles.start().await;
    let _node = Node::automatic(&test);
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for mode in [MODES, MODES, MODES].concat() {
        jobs.push(test.apply(agent("count").mode(mode).heartbeat("2s")).await);
    }
    for job in &jobs {
        job.phase(Phase::Running).await;
    }
    service.cut();
    for job in &jobs {
        job.until_run("the silence of many", |r| r.status.as_ref().is_some_and(|s| s.unresponsive_among_many)).await;
    }
    // Longer than it takes to call one lost.
    always(Duration::from_secs(8), "no verdict", async || {
        for job in &jobs {
            let run = job.run().await.ok_or_else(|| format!("{} has no run", job.name))?;
            if run.is_closed() || run.number() != 1 {
                return Err(format!("{}: {:?}", job.name, run.status));
            }
        }
        Ok(())
    })
    .await;
    service.lead_to(&roles);
    for job in &jobs {
        job.until_run("contact", |r| r.status.as_ref().is_some_and(|s| s.unresponsive_since.is_none())).await;
        assert_eq!((job.status().await.attempt, job.run_number().await), (Some(1), 1));
    }
}
