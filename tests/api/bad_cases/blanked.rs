//! The status of a job is emptied by hand, as by `kubectl replace --subresource status`, under a running agent.

use std::time::Duration;

use koco::api::AgentJobStatus;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Job, Kubelet, MODES, Phase, Test, agent, audit,
    by_hand::{Heart, started, succeeds},
    job::With,
    wait::always,
    within,
};

async fn blank(job: &Job<'_>) {
    let jobs = job.test.raw_jobs();
    within(DEADLINE, "an empty status", async || {
        let mut object = jobs.get(&job.name).await.expect("the job");
        object.data["status"] = json!({});
        jobs.replace_status(&job.name, &PostParams::default(), &object).await.map(drop)
    })
    .await;
}

/// What the job's status is about.
fn essence(status: &AgentJobStatus) -> Value {
    let workflow = status.workflow.as_ref().map(|w| &w.id);
    json!([status.phase, status.fid, status.attempt, status.active_run, status.runner_pod, status.resolved, workflow])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_emptied_comes_back_and_the_job_goes_on() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for (pods, mode) in MODES.into_iter().enumerate() {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let (runner, _heart) = Heart::of(runner);
        let before = job.until("its pod on record", |s| s.runner_pod.is_some()).await;
        assert_eq!(before.phase, Some(Phase::Running));
        blank(&job).await;
        job.until(&format!("its status in {mode:?}"), |s| essence(s) == essence(&before)).await;
        always(Duration::from_millis(1500), "one run and one pod", async || {
            let there = (job.runs().await.len(), job.pods().await.len());
            if there == (1, 1) { Ok(()) } else { Err(there) }
        })
        .await;
        succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
        assert_eq!((job.status().await.attempt, job.run_number().await), (Some(1), 1), "in {mode:?}");
        assert_eq!(audit::created(&test.namespace).len(), pods + 1, "in {mode:?}");
    }
}
