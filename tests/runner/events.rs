//! Events on their way to the gateway, and that nothing else waits for them.

use axum::http::StatusCode;
use koco::{
    api::{DesiredState, RunnerState, TerminationType},
    protocol::{
        error_types,
        events::{EventsConfig, Kind},
        runner::Job,
    },
};
use serde_json::{Value, json};

use crate::harness::{Run, job, python};

/// A job whose events are kept, but not what it prints.
fn quiet(entry_point: &str) -> Job {
    Job { events: Some(EventsConfig { stdio: false }), ..job(entry_point) }
}

#[tokio::test]
async fn a_runner_tells_how_its_agent_starts_and_ends() {
    let mut run = Run::start(quiet("succeed")).await;
    run.until("a hello", |heard| heard.hellos.first().map(drop)).await;
    run.grant();
    assert!(run.exited().await.success());
    let heard = run.gateway.heard();
    let kinds: Vec<Kind> = heard.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Status, Kind::Inputs, Kind::Status, Kind::Debug]);
    assert_eq!(heard.payloads(Kind::Status), ["starting", "running"]);
    assert_eq!(heard.payloads(Kind::Inputs), [r#"{"dict":{"topic":"octopuses"}}"#]);
    let end: Value = serde_json::from_str(&heard.events[3].payload).unwrap();
    assert_eq!(end["koco"]["end"]["kind"], "Succeeded");
    assert!(heard.events.is_sorted_by(|a, b| a.ts <= b.ts) && heard.events[0].ts > 1.7e9);
    assert_eq!(heard.events_before_outcome, [4], "all are stored before the end is reported");
    assert_eq!((heard.outcomes[0].events, heard.outcomes[0].events_missing), (Some(4), None));
}

#[tokio::test]
async fn a_failed_attempt_has_its_error() {
    let mut run = Run::start(quiet("error-file?type=Foo&message=bar")).await;
    run.grant();
    run.exited().await;
    assert_eq!(run.gateway.heard().payloads(Kind::Error), ["Foo: bar"]);

    let command = ["/no/such/program"].map(Into::into);
    let mut run = Run::with(quiet("x"), command.to_vec(), false, "koco-gateway").await;
    run.grant();
    run.failed(error_types::START_FAILED).await;
    run.exited().await;
    let heard = run.gateway.heard();
    assert_eq!(heard.payloads(Kind::Status), ["starting"]);
    assert!(heard.payloads(Kind::Error)[0].starts_with("StartFailed: "), "{:?}", heard.events);
}

#[tokio::test]
async fn where_none_are_kept_none_are_sent() {
    let mut run = Run::start(job("succeed")).await;
    run.grant();
    assert!(run.exited().await.success());
    let outcome = run.gateway.heard().outcomes[0].clone();
    assert_eq!((run.gateway.heard().batches, outcome.events, outcome.events_missing), (0, None, None));

    let mut run = Run::start(quiet("succeed")).await;
    run.command(DesiredState::Cancelled, 1);
    run.exited().await;
    assert_eq!(run.gateway.heard().batches, 0, "nor of an agent that never started");
}

#[tokio::test]
async fn an_end_does_not_wait_for_a_store_that_is_away() {
    let mut run = Run::start(quiet("exit?code=4")).await;
    run.gateway.heard().answer_events = StatusCode::SERVICE_UNAVAILABLE;
    run.grant();
    assert_eq!(run.outcome().await.exit_code, Some(4));
    let outcome = run.gateway.heard().outcomes[0].clone();
    assert_eq!((outcome.events, outcome.events_missing), (Some(5), Some(5)));
    assert!(run.gateway.heard().events.is_empty());
    // And what is late is stored nevertheless.
    run.gateway.heard().answer_events = StatusCode::OK;
    assert_eq!(run.exited().await.code(), Some(4));
    let heard = run.gateway.heard();
    assert_eq!((heard.events.len(), heard.outcomes.len()), (5, 1));
}

#[tokio::test]
async fn a_runner_without_a_store_ends_with_its_grace_period() {
    let mut run = Run::start(Job { grace_seconds: 3, ..quiet("succeed") }).await;
    run.gateway.heard().answer_events = StatusCode::NOT_FOUND;
    run.grant();
    assert!(run.exited().await.success());
    let heard = run.gateway.heard();
    assert_eq!((heard.outcomes.len(), heard.outcomes[0].events_missing), (1, Some(4)));
}

#[tokio::test]
async fn an_agent_without_a_grace_period_loses_no_events() {
    let mut run = Run::start(Job { grace_seconds: 0, ..quiet("succeed") }).await;
    run.grant();
    assert!(run.exited().await.success());
    assert_eq!(run.gateway.heard().events_before_outcome, [4]);
}

#[tokio::test]
async fn a_run_that_takes_no_more_events_is_not_waited_for() {
    let mut run = Run::start(Job { grace_seconds: 1000, ..quiet("succeed") }).await;
    run.gateway.heard().answer_events = StatusCode::GONE;
    run.grant();
    assert!(run.exited().await.success());
    let heard = run.gateway.heard();
    assert_eq!((heard.batches, heard.outcomes.len()), (1, 1));
}

#[tokio::test]
async fn events_without_an_answer_hold_up_nothing_else() {
    let mut run = Run::start(Job { grace_seconds: 2, ..quiet("count") }).await;
    run.gateway.heard().hang_events = true;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.until("a batch", |heard| (heard.batches > 0).then_some(())).await;
    run.heartbeats(5).await;
    run.command(DesiredState::Cancelled, 1);
    assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    run.exited().await;
}

#[tokio::test]
async fn the_python_package_tells_events_and_the_end() {
    let job = Job { inputs: json!({ "text": "Råin 雨" }).into(), ..quiet("sample:tells") };
    let mut run = Run::with(job, python(), false, "koco-gateway").await;
    run.grant();
    assert!(run.exited().await.success(), "{}", run.log());
    let heard = run.gateway.heard();
    assert_eq!(
        heard.payloads(Kind::Result),
        [r#"{"Text":{"body":"Råin 雨"}}"#, r#"{"Markdown":{"body":"*Råin 雨*"}}"#]
    );
    assert_eq!(heard.payloads(Kind::Final), [r#"{"dict":{"told":"Råin 雨"}}"#]);
    assert_eq!(heard.outcomes[0].end.result, Some(json!({ "told": "Råin 雨" })));
}

#[tokio::test]
async fn what_threads_of_a_python_agent_tell_is_stored_once_and_in_order() {
    let job = Job { inputs: json!({ "threads": 4, "count": 250 }).into(), ..quiet("sample:tells_from_threads") };
    let mut run = Run::with(job, python(), false, "koco-gateway").await;
    run.gateway.heard().events_fail_at_random = true;
    run.grant();
    assert!(run.exited().await.success(), "{}", run.log());
    let heard = run.gateway.heard();
    let told: Vec<Value> =
        heard.payloads(Kind::Action).iter().map(|told| serde_json::from_str(told).unwrap()).collect();
    assert_eq!(told.len(), 4 * 250);
    for thread in 0..4 {
        let of = told.iter().filter(|told| told["dict"]["thread"] == thread);
        assert!(of.map(|told| told["dict"]["n"].as_u64()).eq((0..250).map(Some)), "thread {thread}: {told:?}");
    }
}
