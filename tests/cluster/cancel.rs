//! Cancel, at every moment: one final phase, no pod left running, the workflow closed as cancelled.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, Job, MODES, Phase, Roles, Test, agent,
    agent_log::{said, starts},
    audit,
    job::{With, pod_name, started},
    temporal,
};

async fn ends_cancelled(job: &Job<'_>) {
    let status = job.phase(Phase::Cancelled).await;
    job.nothing_runs().await;
    assert!(status.completion_time.is_some());
    assert_eq!(status.result, None);
    if let Some(workflow) = status.workflow {
        assert_eq!(job.closed(&workflow.id).await, "CANCELED");
        assert_eq!(workflow.status.as_deref(), Some("cancelled"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_is_submitted() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).with(json!({ "desiredState": "Cancelled" }))).await;
        ends_cancelled(&job).await;
        assert!(job.pods().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_operator_runs() {
    let test = Test::new().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        job.want(DesiredState::Cancelled).await;
        jobs.push(job);
    }
    let _roles = test.operator(crate::harness::Server::Shared).await;
    for job in &jobs {
        ends_cancelled(job).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending() {
    let (test, _roles) = Test::with_operator().await;
    let nowhere = json!({ "template": { "spec": { "nodeSelector": { "no-node": "has-this" } } } });
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("count").mode(mode).with(nowhere.clone())).await);
    }
    for job in &jobs {
        job.until_pod().await;
        job.want(DesiredState::Cancelled).await;
    }
    for job in &jobs {
        ends_cancelled(job).await;
        assert_eq!(job.status().await.attempt, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts().await;
        let log = job.follow(&pod);
        let patched = crate::harness::agent_log::now();
        job.want(DesiredState::Cancelled).await;
        ends_cancelled(&job).await;
        let terms = said(&log.all().await, "sigterm");
        assert_eq!(terms.len(), 1, "SIGTERM, as the agent saw it, in {mode:?}");
        // Not by the next heartbeat; this machine is busy with other tests.
        assert!(terms[0] - patched < 5_000, "{} ms in {mode:?}", terms[0] - patched);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("ignore-term?every_ms=10").mode(mode).grace(3)).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts().await;
        let log = job.follow(&pod);
        let patched = crate::harness::agent_log::now();
        job.want(DesiredState::Cancelled).await;
        job.until("phase Cancelling", |s| s.phase == Some(Phase::Cancelling)).await;
        ends_cancelled(&job).await;
        let ticks = crate::harness::ticks(&log.all().await);
        let lived = ticks.last().expect("ticks").at - patched;
        assert!((2_500..15_000).contains(&lived), "the agent went on for {lived} ms in {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_back_off() {
    let (test, _roles) = Test::with_operator().await;
    let slow = json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "1h", "maximumInterval": "2h" } });
    for mode in MODES {
        let job = test.apply(agent("exit?code=1").mode(mode).with(slow.clone())).await;
        job.until("phase Retrying", |s| s.phase == Some(Phase::Retrying)).await;
        job.want(DesiredState::Cancelled).await;
        ends_cancelled(&job).await;
        assert_eq!(job.status().await.attempt, Some(1), "in {mode:?}");
    }
}

/// As Temporal's own tools do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_temporals_own_cancel() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count").mode(ExecutionMode::Temporal)).await;
    let pod = pod_name(&job.running_pod().await);
    job.counts().await;
    let log = job.follow(&pod);
    temporal::cli(&job.temporal, &["workflow", "cancel", "-w", &job.workflow().await]).expect("cancel");
    ends_cancelled(&job).await;
    assert_eq!(said(&log.all().await, "sigterm").len(), 1);
}

/// Termination runs no code of the workflow: the controller cleans up once Temporal reports it closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_temporals_own_terminate() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count").mode(ExecutionMode::Temporal).heartbeat("2s")).await;
    job.counts().await;
    temporal::cli(&job.temporal, &["workflow", "terminate", "-w", &job.workflow().await]).expect("terminate");
    let status = job.phase(Phase::Failed).await;
    assert_eq!(crate::harness::job::error_type(&status), "WorkflowClosed");
    job.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_dead_runner_and_a_restarted_controller() {
    let test = Test::new().await;
    let mut roles: Roles = test.separate_roles(crate::harness::Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).heartbeat("10m").grace(2)).await;
        let pod = job.running_pod().await;
        let runner = crate::harness::node::runner(&crate::harness::job::pod_uid(&pod)).await;
        jobs.push((job, runner));
    }
    roles.role("controller").kill();
    for (job, runner) in &jobs {
        crate::harness::node::signal(*runner, nix::sys::signal::Signal::SIGKILL);
        job.want(DesiredState::Cancelled).await;
    }
    roles.role("controller").start().await;
    for (job, _) in &jobs {
        ends_cancelled(job).await;
    }
}

/// A cancel at any moment of a short life: each job ends once, with the same end as its workflow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races() {
    const EACH: u64 = 100;
    let (test, _roles) = Test::with_operator().await;
    // Not all at the same time: this tests timing, not load.
    for batch in 0..EACH / 10 {
        let race = |n: u64, mode: ExecutionMode| {
            let (test, i) = (&test, n % 30);
            async move {
                let job = test.apply(agent(&format!("exit0-after?ms={}", 150 + i * 10)).mode(mode).grace(3)).await;
                if !i.is_multiple_of(3) {
                    job.until_run("the agent to start, or to have ended", |r| started(r) || r.is_closed()).await;
                    tokio::time::sleep(Duration::from_millis(i * 13)).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(i * 60)).await;
                }
                job.want(DesiredState::Cancelled).await;
                let status = job.until("a final phase", |s| s.phase.is_some_and(Phase::is_terminal)).await;
                job.nothing_runs().await;
                let phase = status.phase.expect("a phase");
                if let Some(workflow) = &status.workflow {
                    let closed = job.closed(&workflow.id).await;
                    let same = [("COMPLETED", Phase::Succeeded), ("CANCELED", Phase::Cancelled)]
                        .contains(&(closed.as_str(), phase));
                    assert!(same, "{}: the workflow is {closed}, the job {phase:?}: {:?}", job.name, status.error);
                }
                assert!(
                    matches!(phase, Phase::Succeeded | Phase::Cancelled),
                    "{}: {phase:?} {:?}",
                    job.name,
                    status.error
                );
                assert!(job.pods().await.len() <= 1);
                phase
            }
        };
        let races = (batch * 10..batch * 10 + 10).flat_map(|i| MODES.map(|mode| race(i, mode)));
        let phases = join_all(races).await;
        eprintln!(
            "batch {batch}: {} cancelled of {}",
            phases.iter().filter(|p| **p == Phase::Cancelled).count(),
            phases.len()
        );
    }
    assert!(audit::created(&test.namespace).len() <= 2 * EACH as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_is_final() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("succeed").mode(mode)).await;
        job.phase(Phase::Succeeded).await;
        // Too late: nothing changes, and the closed workflow isn't signalled for ever.
        job.want(DesiredState::Cancelled).await;
        job.until("the new generation", |s| s.observed_generation == Some(2)).await;
        assert_eq!(job.status().await.phase, Some(Phase::Succeeded));
        let patch = kube::api::Patch::Merge(json!({ "spec": { "desiredState": "Running" } }));
        let refused = test.jobs().patch(&job.name, &Default::default(), &patch).await;
        assert!(refused.is_err_and(|e| e.to_string().contains("Cancelled is final")));
        assert!(starts(&job.log().await) <= 1);
    }
}
