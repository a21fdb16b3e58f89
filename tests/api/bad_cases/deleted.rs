//! Objects that koco needs are deleted or changed under a running agent.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use koco::api::{ErrorStatus, RunnerState};
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, ExecutionMode, Job, Kubelet, MODES, Node, Phase, Runner, Test, agent,
    by_hand::{dismissed, event, started, succeeds, touch},
    job::{With, error_type, pod_name},
    kubelet::End,
    run::number,
    runner::Refused,
    wait::always,
    within,
};

/// How long nothing may happen that must not.
const QUIET: Duration = Duration::from_millis(1500);

fn orphan() -> DeleteParams {
    DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() }
}

/// Policies by which the agent is started twice at the most.
fn twice(policy: &str) -> Value {
    let attempts = if policy == "Ignore" { 1 } else { 2 };
    let retry = json!({ "maximumAttempts": attempts, "initialInterval": "100ms" });
    json!({ "disruptionPolicy": policy, "retryPolicy": retry })
}

/// No other pod of the job than the first is there.
async fn is_alone(job: &Job<'_>) -> Result<(), Vec<i32>> {
    let numbers: Vec<_> = job.pods().await.iter().map(number).filter(|n| *n > 1).collect();
    if numbers.is_empty() { Ok(()) } else { Err(numbers) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_deleted_counts_as_its_pod_does() {
    let (test, _roles) = Test::with_operator().await;
    let cases = [
        ("Count", DeleteParams::background(), true),
        ("Ignore", DeleteParams::background(), true),
        ("FailJob", DeleteParams::background(), false),
        ("Count", orphan(), true),
    ];
    let all = MODES.iter().flat_map(|mode| cases.iter().map(move |case| (*mode, case)));
    join_all(all.map(|(mode, (policy, params, goes_on))| deleted(&test, mode, policy, params, *goes_on))).await;
}

/// The job's first run is deleted.
async fn deleted(test: &Test, mode: ExecutionMode, policy: &str, params: &DeleteParams, goes_on: bool) {
    let case = format!("{policy} in {mode:?}, {:?}", params.propagation_policy);
    let kubelet = Kubelet::of(test);
    let job = test.apply(agent("anything").mode(mode).with(twice(policy))).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    let (name, run) = (pod_name(&pod), job.run().await.expect("a run"));
    test.runs().delete(run.name(), params).await.expect("delete");
    let stone = within(DEADLINE, &format!("a tombstone: {case}"), async || {
        let found = test.runs().get_opt(run.name()).await.expect("get");
        found.filter(|r| r.spec.identity.tombstone).ok_or("none")
    })
    .await;
    assert_eq!((stone.number(), stone.uid() == run.uid()), (1, false), "{case}");
    dismissed(&runner).await;
    if !goes_on {
        assert_eq!(error_type(&job.phase(Phase::Failed).await), "Disrupted", "{case}");
        return;
    }
    let disrupted = |e: &ErrorStatus| e.kind == "Disrupted";
    job.until("a disruption", |s| s.error.as_ref().is_some_and(disrupted)).await;
    // By the garbage collector, or by koco.
    kubelet.deleted(&name).await;
    always(QUIET, &format!("no pod beside the old one: {case}"), async || is_alone(&job).await).await;
    kubelet.end(&name, &End::killed()).await;
    kubelet.remove(&name).await;
    let (pod, runner) = started(&kubelet, &job, 2).await;
    assert_eq!(job.status().await.attempt, Some(2), "{case}");
    succeeds(&kubelet, &job, &pod, &runner, json!(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_leaves_its_run_behind_leaves_no_agent() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        job.phase(Phase::Running).await;
        let run = job.run().await.expect("a run");
        job.delete(orphan()).await;
        job.gone(DEADLINE).await;
        within(DEADLINE, &format!("the run to be closed in {mode:?}"), async || {
            let left = test.runs().get(run.name()).await.expect("the run stays");
            assert_eq!(left.uid(), run.uid());
            if left.is_closed() { Ok(()) } else { Err("it is open") }
        })
        .await;
        job.nothing_runs().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_by_force_is_told() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode).grace(1).with(twice("Count"))).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let run = job.run().await.expect("a run");
        job.delete_pod(&pod_name(&pod), &DeleteParams::default().grace_period(0)).await;
        let told = event(&test, &job.name, "AttemptFailed").await;
        assert!(told.message.unwrap_or_default().contains("the pod was deleted"), "in {mode:?}");
        let run = test.runs().get(run.name()).await.expect("the run");
        let error = run.termination().and_then(|t| t.error.clone()).expect("an error");
        assert_eq!((error.kind.as_str(), error.message.as_str()), ("Disrupted", "the pod was deleted"));
        // Its token has gone with its pod, if it is asked for it again.
        within(DEADLINE, "its runner to be sent away", async || {
            match runner.heartbeat(RunnerState::Running, 0).await {
                Err(Refused::Code(401 | 403 | 410, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        let (pod, runner) = started(&kubelet, &job, 2).await;
        assert_eq!(job.status().await.attempt, Some(2), "in {mode:?}");
        succeeds(&kubelet, &job, &pod, &runner, json!(2)).await;
    }
}

/// The job's first pod, with an agent that has started, and without its labels since.
async fn unlabelled(kubelet: &Kubelet, job: &Job<'_>) -> (Pod, Runner) {
    let (pod, runner) = started(kubelet, job, 1).await;
    let none = Patch::Merge(json!({ "metadata": { "labels": null } }));
    job.test.pods().patch(&pod_name(&pod), &PatchParams::default(), &none).await.expect("no labels");
    (pod, runner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_its_labels_is_still_the_runs() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode).with(twice("Count"))).await;
        let (pod, runner) = unlabelled(&kubelet, &job).await;
        touch(&job, "once").await;
        always(QUIET, "one pod, and an agent that runs", async || {
            runner.heartbeat(RunnerState::Running, 0).await.map_err(|e| format!("{e:?}"))?;
            let (status, run) = (job.status().await, job.run_number().await);
            let same = (status.phase, status.attempt, run) == (Some(Phase::Running), Some(1), 1);
            if same { Ok(()) } else { Err(format!("{:?}, run {run}", status.phase)) }
        })
        .await;
        succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
        // And one that ends without a report: the watch of pods requeues no job.
        let job = test.apply(agent("anything").mode(mode).heartbeat("1s").with(twice("Count"))).await;
        let (pod, _runner) = unlabelled(&kubelet, &job).await;
        kubelet.end(&pod_name(&pod), &End::killed()).await;
        job.pod(2).await;
        assert_eq!(job.status().await.attempt, Some(1), "in {mode:?}");
    }
}
