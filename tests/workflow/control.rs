//! Pause, resume, cancel and evict, in every state.

use std::time::{Duration, Instant};

use koco::{
    api::*,
    protocol::{error_types, workflow::*},
    temporal::Closed,
};
use serde_json::{Value, json};
use temporalio_common::{data_converters::RawValue, protos::temporal::api::common::v1::Payload};

use crate::fixture::Job;

const SIGNALS: [&str; 6] =
    [SIGNAL_PAUSE, SIGNAL_RESUME, SIGNAL_CANCEL, SIGNAL_RUNNER_READY, SIGNAL_RUNNER_FAILED, SIGNAL_RUNNER_CONFIRMED];

#[tokio::test]
async fn a_paused_job_does_not_start_and_holds_before_the_grant() {
    let job = Job::start("held", |i| i.progress.desired = DesiredState::Paused).await;
    let held = job.stage(Stage::Held).await;
    assert_eq!((held.is_paused, held.run), (true, 0));
    job.ask(SIGNAL_RESUME).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.ask(SIGNAL_PAUSE).await;
    job.signal(SIGNAL_RUNNER_READY, &RunnerReady { run: 1 }).await;
    let held = job.stage(Stage::Held).await;
    assert_eq!((held.is_paused, held.attempt), (true, 0));
    // Commands don't wait for the grant. Once it is written, the signal before it was handled.
    job.seen("the command", |r| r.controls.last().is_some_and(|c| c.generation == held.generation)).await;
    assert_eq!(job.record(|r| r.binds.len()), 0);
    job.ask(SIGNAL_RESUME).await;
    let (_, bound) = job.bound(1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn paused_is_said_when_the_runner_has_confirmed() {
    let job = Job::start("pause and resume", |_| {}).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.seen("the command", |r| r.controls.iter().any(|c| c.desired == DesiredState::Paused && c.generation == 1))
        .await;
    let status = job.status().await;
    assert_eq!((status.status, status.desired, status.is_paused), (Stage::Running, DesiredState::Paused, false));
    let confirm = |state, generation| RunnerConfirmed { run: 1, generation, state };
    job.signal(SIGNAL_RUNNER_CONFIRMED, &confirm(RunnerState::Frozen, 1)).await;
    assert!(job.status().await.is_paused && job.query::<bool>(QUERY_IS_PAUSED).await);
    job.ask(SIGNAL_RESUME).await;
    job.seen("the command", |r| r.controls.iter().any(|c| c.desired == DesiredState::Running && c.generation == 2))
        .await;
    assert!(!job.status().await.is_paused);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_pause_holds_across_a_retry() {
    let job =
        Job::start("paused in back-off", |i| i.retry_policy.initial_interval = crate::fixture::seconds("1h")).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::AGENT_FAILED).await;
    job.stage(Stage::Retrying).await;
    job.ask(SIGNAL_PAUSE).await;
    let held = job.stage(Stage::Held).await;
    assert!(held.is_paused && held.error.is_some());
    job.ask(SIGNAL_RESUME).await;
    job.stage(Stage::Pending).await;
    let bound = job.run(2, 2).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn an_evicted_agent_goes_on_in_the_same_attempt() {
    let evict = |i: &mut Input| (i.pause_policy, i.retry_policy.maximum_attempts) = (PausePolicy::Evict, 1);
    let job = Job::start("evict and resume", evict).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.seen("the command", |r| !r.controls.is_empty()).await;
    job.deliver(&bound, TerminationType::Evicted, None).await;
    let evicted = job.stage(Stage::Evicted).await;
    assert_eq!((evicted.attempt, evicted.is_paused), (1, true));
    assert_eq!(job.record(|r| r.starts.len()), 1);
    job.ask(SIGNAL_RESUME).await;
    job.seen("start_runner", |r| r.starts.len() >= 2).await;
    assert_eq!(job.record(|r| (r.starts[1].run, r.starts[1].attempt, r.starts[1].resumed)), (2, 1, true));
    let bound = job.run(2, 2).await;
    assert_eq!(job.status().await.attempt, 1);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn cancelled_before_anything_started() {
    let job = Job::start("cancelled while held", |i| i.progress.desired = DesiredState::Paused).await;
    job.stage(Stage::Held).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.starts.len()), 0);
}

#[tokio::test]
async fn cancelled_while_the_pod_is_made() {
    let job = Job::prepare("cancelled while starting", |_| {}, |r| r.stuck = true).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.stopped), 1, "no pod may be created after the cleanup");
}

#[tokio::test]
async fn cancelled_before_the_grant() {
    let job = Job::start("cancelled while pending", |_| {}).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.stage(Stage::Pending).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);

    let job = Job::start("cancelled at the grant", |_| {}).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.ask(SIGNAL_PAUSE).await;
    job.ready(1).await;
    job.stage(Stage::Held).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.binds.len()), 0);
}

#[tokio::test]
async fn cancelled_while_it_runs() {
    let job = Job::start("cancelled while running", |i| i.grace_seconds = 3600).await;
    let bound = job.run(1, 1).await;
    job.signal(SIGNAL_CANCEL, &json!({ "any": ["thing"] })).await;
    job.seen("the command", |r| r.controls.iter().any(|c| c.desired == DesiredState::Cancelled)).await;
    assert_eq!(job.status().await.status, Stage::Cancelling);
    // It is final.
    job.ask(SIGNAL_RESUME).await;
    job.ask(SIGNAL_PAUSE).await;
    assert_eq!(job.status().await.desired, DesiredState::Cancelled);
    job.deliver(&bound, TerminationType::Cancelled, None).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.controls.len()), 1);
}

#[tokio::test]
async fn cancelled_natively() {
    let job = Job::start("cancelled natively", |i| i.grace_seconds = 3600).await;
    let bound = job.run(1, 1).await;
    job.native_cancel().await;
    job.seen("the command", |r| r.controls.iter().any(|c| c.desired == DesiredState::Cancelled)).await;
    // However it ends.
    job.fail(&bound, error_types::AGENT_KILLED).await;
    assert_eq!(job.closed().await, Closed::Cancelled);

    let job = Job::start("cancelled natively while held", |i| i.progress.desired = DesiredState::Paused).await;
    job.native_cancel().await;
    assert_eq!(job.closed().await, Closed::Cancelled);
}

#[tokio::test]
async fn cancelled_with_a_runner_that_never_answers() {
    let job = Job::start("cancelled with a dead runner", |_| {}).await;
    job.run(1, 1).await;
    let since = Instant::now();
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert!(since.elapsed() >= Duration::from_secs(30), "it gets its grace period and a margin");
}

#[tokio::test]
async fn cancelled_in_back_off() {
    let long = |i: &mut Input| i.retry_policy.initial_interval = crate::fixture::seconds("1h");
    let job = Job::start("cancelled in back-off", long).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::AGENT_FAILED).await;
    job.stage(Stage::Retrying).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| r.starts.len()), 1);
    assert_eq!(job.status().await.error.unwrap().kind, error_types::AGENT_FAILED);
}

#[tokio::test]
async fn cancelled_while_evicted() {
    let job = Job::start("cancelled while evicted", |i| i.pause_policy = PausePolicy::Evict).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.deliver(&bound, TerminationType::Evicted, None).await;
    job.stage(Stage::Evicted).await;
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
}

#[tokio::test]
async fn success_wins_over_a_cancel() {
    let job = Job::start("success wins", |i| i.grace_seconds = 3600).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_CANCEL).await;
    job.stage(Stage::Cancelling).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_command_that_cannot_be_written_blocks_nothing() {
    let job = Job::prepare("commands fail", |_| {}, |r| r.command_fails = true).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.seen("the command", |r| !r.controls.is_empty()).await;
    job.ask(SIGNAL_RESUME).await;
    // The newer one isn't delayed by the back-off of the older, which failed.
    job.seen("the newer command", |r| r.controls.iter().any(|c| c.generation == 2)).await;
    job.record(|r| r.command_fails = false);
    job.ask(SIGNAL_PAUSE).await;
    job.seen("the newest command", |r| r.controls.iter().any(|c| c.generation == 3)).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn any_payload_is_survived() {
    let job = Job::start("any payload", |_| {}).await;
    let bound = job.run(1, 1).await;
    let odd: [Value; 9] = [
        Value::Null,
        json!(true),
        json!(-1.5e300),
        json!("text"),
        json!([]),
        json!([1, [2, {}]]),
        json!({}),
        json!({ "id": 7, "desired": "Sideways", "epoch": "one", "seq": {}, "state": null }),
        json!({ "epoch": 99999999999i64, "seq": -1, "state": "Frozen", "fatal": true, "error": {} }),
    ];
    let payload = |data: &[u8]| Payload { data: data.into(), ..Payload::default() };
    let binary =
        Payload { metadata: [("encoding".to_string(), b"binary/plain".to_vec())].into(), ..payload(&[0xff, 0, 0xfe]) };
    let raw = [vec![], vec![payload(b"{")], vec![binary.clone(), binary], vec![payload(b"")]];
    for signal in SIGNALS.into_iter().filter(|s| *s != SIGNAL_CANCEL) {
        for value in &odd {
            job.signal(signal, value).await;
        }
        for payloads in &raw {
            job.signal_raw(signal, RawValue::new(payloads.clone())).await;
        }
    }
    job.ask("no_such_signal").await;
    let status = job.status().await;
    assert_eq!((status.status, status.desired, status.generation), (Stage::Running, DesiredState::Running, 2));
    assert_eq!(status.last_request, None);
    job.signal_raw(SIGNAL_CANCEL, RawValue::new(vec![])).await;
    job.stage(Stage::Cancelling).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_request_is_taken_once() {
    let job = Job::start("requests", |_| {}).await;
    let bound = job.run(1, 1).await;
    let request = |id: &str, desired| Request { id: id.into(), desired };
    job.signal(SIGNAL_PAUSE, &request("a", DesiredState::Paused)).await;
    job.ask(SIGNAL_RESUME).await;
    // The controller lost the response and sends it again: a signal in between stays in effect.
    job.signal(SIGNAL_PAUSE, &request("a", DesiredState::Paused)).await;
    let status = job.status().await;
    assert_eq!((status.desired, status.generation), (DesiredState::Running, 2));
    assert_eq!(status.last_request, Some(request("a", DesiredState::Paused)));
    // A request for the current state is recorded, and changes nothing.
    job.signal(SIGNAL_RESUME, &request("b", DesiredState::Running)).await;
    let status = job.status().await;
    assert_eq!((status.generation, status.last_request), (2, Some(request("b", DesiredState::Running))));
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}
