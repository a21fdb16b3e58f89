//! Cancel, at every moment: one final phase, and no pod left running. One table for both modes:
//!
//! | [`Moment`] | when | attempts | SIGTERM, as the agent saw it |
//! |---|---|---|---|
//! | `Created` | from the beginning | none, and no pod | |
//! | `Pending` | its pod fits on no node | none | |
//! | `Running` | | 1 | once, long before a heartbeat is due |
//! | `Deaf` | the agent ignores SIGTERM | 1 | it is killed, and not before its grace period is over |
//! | `BackOff` | between two attempts | 1 | |
//! | `Frozen` | under a pause | 1 | once: it is thawed for it |
//! | `Evicted` | under a pause that has ended its pod | 1 | |
//!
//! The modes must differ in one thing only: in Temporal mode the workflow is closed as cancelled, too.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    DesiredState, ExecutionMode, Job, MODES, Phase, Roles, Test, agent,
    agent_log::{now, said, starts, ticks},
    audit,
    job::{Follow, With, pod_name, started},
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

/// When a job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Created,
    Pending,
    Running,
    Deaf,
    BackOff,
    Frozen,
    Evicted,
}

const MOMENTS: [Moment; 7] =
    [Moment::Created, Moment::Pending, Moment::Running, Moment::Deaf, Moment::BackOff, Moment::Frozen, Moment::Evicted];
/// The pods that all of them take.
const PODS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_each_moment() {
    let (test, _roles) = Test::with_operator().await;
    for (i, mode) in MODES.into_iter().enumerate() {
        join_all(MOMENTS.map(|moment| cancelled_at(&test, moment, mode))).await;
        assert_eq!(audit::created(&test.namespace).len(), PODS * (i + 1), "pods in {mode:?}");
    }
}

async fn cancelled_at(test: &Test, moment: Moment, mode: ExecutionMode) {
    let at = format!("{moment:?} in {mode:?}");
    let job = test.apply(moment.spec().mode(mode)).await;
    let log = moment.reached(&job).await;
    let patched = now();
    job.want(DesiredState::Cancelled).await;
    if moment == Moment::Deaf {
        job.until("phase Cancelling", |s| s.phase == Some(Phase::Cancelling)).await;
    }
    ends_cancelled(&job).await;
    let none = matches!(moment, Moment::Created | Moment::Pending);
    assert_eq!(job.status().await.attempt, (!none).then_some(1), "{at}");
    let Some(log) = log else { return };
    let log = log.all().await;
    if moment == Moment::Deaf {
        let lived = ticks(&log).last().expect("ticks").at - patched;
        assert!(lived >= 14_500, "killed after {lived} ms: {at}");
    } else {
        assert_eq!(said(&log, "sigterm").len(), 1, "{at}");
    }
}

impl Moment {
    fn spec(self) -> Value {
        let count = agent("count?every_ms=20").heartbeat("10m");
        match self {
            Self::Created => count.with(json!({ "desiredState": "Cancelled" })),
            Self::Pending => {
                count.with(json!({ "template": { "spec": { "nodeSelector": { "no-node": "has-this" } } } }))
            }
            Self::Running | Self::Frozen => count,
            Self::Deaf => agent("ignore-term?every_ms=10").grace(15),
            Self::BackOff => agent("exit?code=1").with(
                json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "1h", "maximumInterval": "2h" } }),
            ),
            Self::Evicted => count.with(json!({ "pausePolicy": "Evict" })),
        }
    }

    /// Waits until it is time for the cancel. Answers the log of an agent that is alive then.
    async fn reached(self, job: &Job<'_>) -> Option<Follow> {
        match self {
            Self::Created => return None,
            Self::Pending => {
                job.until_pod().await;
                return None;
            }
            Self::BackOff => {
                job.until("phase Retrying", |s| s.phase == Some(Phase::Retrying)).await;
                return None;
            }
            Self::Running | Self::Deaf | Self::Frozen | Self::Evicted => {}
        }
        let pod = pod_name(&job.running_pod().await);
        job.counts().await;
        let log = job.follow(&pod);
        if matches!(self, Self::Frozen | Self::Evicted) {
            job.want(DesiredState::Paused).await;
            job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        }
        if self == Self::Evicted {
            job.nothing_runs().await;
            return None;
        }
        Some(log)
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
