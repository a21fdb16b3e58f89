//! Attempts, failures, runners that never register, adoption, disruptions.

use koco::{
    api::*,
    protocol::{error_types, workflow::*},
    temporal::Closed,
};
use temporalio_common::protos::temporal::api::{
    failure::v1::failure::FailureInfo, history::v1::history_event::Attributes,
};

use crate::fixture::{Job, seconds};

/// The type and message of the failure that the workflow ended with.
async fn failure(job: &Job) -> (String, String) {
    let last = job.history().await.pop().unwrap();
    let Some(Attributes::WorkflowExecutionFailedEventAttributes(failed)) = last.attributes else { panic!("{last:?}") };
    let failure = failed.failure.unwrap();
    let Some(FailureInfo::ApplicationFailureInfo(info)) = failure.failure_info else { panic!("{failure:?}") };
    assert!(info.non_retryable);
    (info.r#type, failure.message)
}

#[tokio::test]
async fn two_failures_then_success() {
    let job = Job::start("two failures then success", |_| {}).await;
    for n in 1..=2 {
        let bound = job.run(n, n as usize).await;
        let running = job.stage(Stage::Running).await;
        assert_eq!((running.attempt, running.run), (n, n));
        job.fail(&bound, error_types::AGENT_FAILED).await;
        let retrying = job.stage(Stage::Retrying).await;
        assert_eq!(retrying.error.unwrap().kind, error_types::AGENT_FAILED);
    }
    let bound = job.run(3, 3).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    let status = job.status().await;
    assert_eq!((status.attempt, status.error), (3, None));
    assert_eq!(job.query::<Option<ErrorStatus>>(QUERY_ERROR).await, None);
}

#[tokio::test]
async fn attempts_are_used_up() {
    let job = Job::start("attempts used up", |i| i.retry_policy.maximum_attempts = 2).await;
    for n in 1..=2 {
        let bound = job.run(n, n as usize).await;
        job.fail(&bound, "Own").await;
    }
    assert_eq!(job.closed().await, Closed::Failed);
    assert_eq!(failure(&job).await, ("Own".into(), "attempt 2 of 2: simulated".into()));
    assert_eq!(job.query::<Option<ErrorStatus>>(QUERY_ERROR).await.unwrap().kind, "Own");
    assert_eq!(job.record(|r| r.starts.len()), 2);
}

#[tokio::test]
async fn a_type_that_is_not_retryable_ends_the_job() {
    let job = Job::start("not retryable", |_| {}).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, "Fatal").await;
    assert_eq!(job.closed().await, Closed::Failed);
    assert_eq!(failure(&job).await.0, "Fatal");
}

#[tokio::test]
async fn silence_is_answered_with_a_new_binding_and_uses_up_nothing() {
    let job = Job::start("adoption", |i| {
        i.timeouts.heartbeat = seconds("1s");
        i.retry_policy.maximum_attempts = 1;
    })
    .await;
    let old = job.run(1, 1).await;
    let (input, bound) = job.bound(2).await;
    assert_eq!((input.run, input.attempt), (1, 1));
    assert!(!job.is_current(&old).await);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    assert_eq!(job.status().await.attempt, 1);
}

#[tokio::test]
async fn what_ends_before_the_grant_uses_up_nothing() {
    let job = Job::start("ended before the grant", |i| i.retry_policy.maximum_attempts = 1).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    let failed = |run, fatal, kind: &str| RunnerFailed {
        run,
        error: ErrorStatus { kind: kind.into(), message: "simulated".into() },
        fatal,
    };
    job.signal(SIGNAL_RUNNER_FAILED, &failed(1, false, error_types::NOT_STARTED)).await;
    job.stage(Stage::Retrying).await;
    // The agent of the next one isn't started either, though it is granted.
    let bound = job.run(2, 1).await;
    job.fail(&bound, error_types::NOT_STARTED).await;
    job.seen("the third", |r| r.starts.len() >= 3).await;
    assert!(job.record(|r| r.starts.iter().all(|s| s.attempt == 1 && !s.resumed)));
    job.signal(SIGNAL_RUNNER_FAILED, &failed(2, true, "of an older run")).await;
    job.signal(SIGNAL_RUNNER_FAILED, &failed(3, true, error_types::PENDING_TIMEOUT)).await;
    assert_eq!(job.closed().await, Closed::Failed);
    assert_eq!(failure(&job).await, (error_types::PENDING_TIMEOUT.into(), "simulated".into()));
    assert_eq!(job.status().await.attempt, 0);
}

#[tokio::test]
async fn a_run_that_is_ahead_gives_its_number() {
    let job = Job::prepare("a run that is ahead", |_| {}, |r| (r.newest, r.stuck) = (7, true)).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    // The runner is faster than the activity's result.
    job.signal(SIGNAL_RUNNER_READY, &RunnerReady { run: 7 }).await;
    assert_eq!(job.status().await.status, Stage::Pending);
    job.record(|r| r.stuck = false);
    let (input, bound) = job.bound(1).await;
    assert_eq!((input.run, input.attempt), (7, 1));
    job.fail(&bound, error_types::AGENT_FAILED).await;
    job.seen("the next", |r| r.starts.len() >= 2).await;
    assert_eq!(job.record(|r| r.starts[1].run), 8);
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
}

#[tokio::test]
async fn a_job_that_is_gone_ends_as_cancelled() {
    let job = Job::prepare("a job that is gone", |_| {}, |r| r.refuse = Some(error_types::JOB_GONE.into())).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.binds.len()), 0);
}

#[tokio::test]
async fn disruptions_are_judged_by_the_jobs_policy() {
    let policy = |policy| {
        move |i: &mut Input| {
            (i.disruption_policy, i.retry_policy.maximum_attempts) = (policy, 1);
        }
    };
    let job = Job::start("disrupted and ignored", policy(DisruptionPolicy::Ignore)).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::DISRUPTED).await;
    let bound = job.run(2, 2).await;
    assert_eq!(job.record(|r| r.binds[1].0.attempt), 2);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);

    let job = Job::start("disrupted and counted", policy(DisruptionPolicy::Count)).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::DISRUPTED).await;
    assert_eq!(job.closed().await, Closed::Failed);
    assert_eq!(failure(&job).await.0, error_types::DISRUPTED);

    let fail = |i: &mut Input| i.disruption_policy = DisruptionPolicy::FailJob;
    let job = Job::start("disrupted and failed", fail).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::DISRUPTED).await;
    assert_eq!(job.closed().await, Closed::Failed);
}
