//! The first start of a runner is a local activity, within the first workflow task. With the cache, from which such a
//! workflow must not fall meanwhile.

use koco::{
    protocol::{error_types, workflow::*},
    temporal::Closed,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::EventType,
    history::v1::{HistoryEvent, history_event::Attributes},
};

use crate::fixture::Job;

fn count(events: &[HistoryEvent], kind: EventType) -> usize {
    events.iter().filter(|e| e.event_type() == kind).count()
}

/// The types of the activities that the server has scheduled.
fn activities(events: &[HistoryEvent]) -> Vec<String> {
    let name = |e: &HistoryEvent| match &e.attributes {
        Some(Attributes::ActivityTaskScheduledEventAttributes(a)) => a.activity_type.clone().map(|t| t.name),
        _ => None,
    };
    events.iter().filter_map(name).collect()
}

/// Sixteen events, three workflow tasks, one activity: what the server keeps and does for a job that just runs.
#[tokio::test]
async fn what_a_job_costs() {
    let job = Job::long("success", |_| {}, |_| {}).await;
    let bound = job.run(1, 1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    let events = job.history().await;
    assert_eq!(activities(&events), ["execute_agent"]);
    assert_eq!(count(&events, EventType::MarkerRecorded), 1);
    assert_eq!(count(&events, EventType::WorkflowExecutionSignaled), 1);
    assert_eq!((count(&events, EventType::WorkflowTaskCompleted), events.len()), (3, 16));
}

/// Each further attempt has its start and its agent as activities, its timer, and four tasks, or three where the signal of
/// its runner is as soon as the end of its start.
#[tokio::test]
async fn what_another_attempt_costs() {
    let job = Job::long("one failure", |i| i.retry_policy.maximum_attempts = 2, |_| {}).await;
    for n in 1..=2 {
        let bound = job.run(n, n as usize).await;
        job.fail(&bound, error_types::AGENT_FAILED).await;
    }
    assert_eq!(job.closed().await, Closed::Failed);
    let events = job.history().await;
    assert_eq!(activities(&events), ["execute_agent", "start_runner", "execute_agent"]);
    assert_eq!(job.record(|r| (r.local, r.starts.len())), (1, 2));
    let tasks = count(&events, EventType::WorkflowTaskCompleted);
    assert!((6..=7).contains(&tasks), "{tasks}");
    assert_eq!(events.len(), 16 + 9 + 3 * (tasks - 3));
}

/// It goes on meanwhile, and may still write.
#[tokio::test]
async fn a_start_that_takes_too_long_is_left_to_the_server() {
    let job = Job::long("local start timed out", |_| {}, |r| r.hangs = true).await;
    job.seen("the activity", |r| !r.starts.is_empty()).await;
    let bound = job.run(1, 1).await;
    job.record(|r| r.hangs = false);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    assert_eq!(activities(&job.history().await), ["start_runner", "execute_agent"]);
    assert_eq!(job.record(|r| (r.local, r.starts.len())), (1, 1));
}

#[tokio::test]
async fn a_start_that_is_refused_locally_is_left_to_the_server() {
    let job = Job::long("local start left", |_| {}, |r| r.newest = 1).await;
    let bound = job.run(1, 1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    assert_eq!(activities(&job.history().await), ["start_runner", "execute_agent"]);
}

#[tokio::test]
async fn a_pause_that_comes_while_starting_waits_for_the_start() {
    let job = Job::long("paused while starting", |_| {}, |r| r.hangs = true).await;
    job.seen("the local start", |r| r.local >= 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.record(|r| r.hangs = false);
    let held = job.stage(Stage::Held).await;
    assert_eq!((held.is_paused, held.run, held.generation), (true, 1, 1));
    job.signal(SIGNAL_RUNNER_READY, &RunnerReady { run: 1 }).await;
    assert_eq!(job.status().await.attempt, 0);
    job.ask(SIGNAL_RESUME).await;
    let (_, bound) = job.bound(1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
    assert_eq!(job.record(|r| (r.local, r.starts.len())), (1, 1), "once");
}

#[tokio::test]
async fn a_cancel_that_comes_while_starting_waits_for_the_start() {
    let job = Job::long("cancelled while starting locally", |_| {}, |r| r.hangs = true).await;
    job.seen("the local start", |r| r.local >= 1).await;
    job.ask(SIGNAL_CANCEL).await;
    job.record(|r| r.hangs = false);
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(activities(&job.history().await), ["cleanup"]);
    let job = Job::long("cancelled natively while starting", |_| {}, |r| r.hangs = true).await;
    job.seen("the local start", |r| r.local >= 1).await;
    job.native_cancel().await;
    job.record(|r| r.hangs = false);
    assert_eq!(job.closed().await, Closed::Cancelled);
    assert_eq!(job.record(|r| (r.local, r.starts.len())), (1, 1));
}
