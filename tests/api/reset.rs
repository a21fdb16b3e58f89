//! `temporal workflow reset` under a running agent: the workflow takes up the job where the AgentRuns are.

use koco::api::AgentRun;
use serde_json::json;

use crate::harness::{
    ExecutionMode, Job, Kubelet, Test, agent, audit,
    by_hand::{Heart, started, succeeds},
    job::{With, pod_name},
    kubelet::End,
    temporal,
};

/// Resets the job's workflow to its first or last workflow task.
async fn reset(job: &Job<'_>, to: &str) {
    let workflow = job.workflow().await;
    let words = ["workflow", "reset", "-w", &workflow, "--type", to, "--reason", "a test"];
    temporal::cli(&job.temporal, &words).expect("a reset");
}

fn execution(run: &AgentRun) -> Option<String> {
    run.spec.grant.as_ref()?.run_id.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_to_after_the_start_leaves_the_agent_alone() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(ExecutionMode::Temporal)).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    let before = job.until_run("the grant", |run| execution(run).is_some()).await;
    let (runner, _heart) = Heart::of(runner);
    reset(&job, "LastWorkflowTask").await;
    let anew = |run: &AgentRun| execution(run) != execution(&before);
    let run = job.until_run("the new execution's binding", anew).await;
    assert_eq!((run.uid(), run.spec.command.as_ref()), (before.uid(), None));
    let bound = run.spec.grant.map(|g| g.binding);
    job.until_run("its acknowledgement", |run| Some(run.acknowledged_binding()) >= bound).await;
    succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
    assert_eq!((job.status().await.attempt, audit::created(&test.namespace).len()), (Some(1), 1));
    assert_eq!(temporal::state(&job.temporal, &job.workflow().await), "COMPLETED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_to_the_beginning_starts_the_agent_anew_after_the_old_one_has_ended() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(ExecutionMode::Temporal)).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    let (_runner, heart) = Heart::of(runner);
    reset(&job, "FirstWorkflowTask").await;
    let old = pod_name(&pod);
    kubelet.deleted(&old).await;
    assert_eq!(audit::created(&test.namespace).len(), 1, "none beside it");
    drop(heart);
    kubelet.end(&old, &End::killed()).await;
    kubelet.remove(&old).await;
    let (pod, runner) = started(&kubelet, &job, 2).await;
    succeeds(&kubelet, &job, &pod, &runner, json!(2)).await;
    assert_eq!((job.status().await.attempt, audit::created(&test.namespace).len()), (Some(1), 2));
    assert_eq!(temporal::state(&job.temporal, &job.workflow().await), "COMPLETED");
}
