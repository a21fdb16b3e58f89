//! Signals from outside, queries, and the resulting status.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, Job, Phase, Test, agent,
    agent_log::{same_process, ticks},
    job::With,
    temporal,
    wait::always,
};

async fn signal(job: &Job<'_>, name: &str, input: &str) {
    let id = job.workflow().await;
    let args = ["workflow", "signal", "-w", &id, "--name", name, "--input", input];
    temporal::cli(&job.temporal, &args).expect("signal");
}

async fn query(job: &Job<'_>, name: &str) -> String {
    let id = job.workflow().await;
    temporal::cli(&job.temporal, &["workflow", "query", "-w", &id, "--name", name, "-o", "json"]).expect("query")
}

async fn stays(job: &Job<'_>, phase: Phase) {
    always(Duration::from_secs(3), "it stays so", async || {
        let now = job.status().await.phase;
        if now == Some(phase) { Ok(()) } else { Err(now) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_from_outside_act_are_shown_and_not_fought() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count?every_ms=20").mode(ExecutionMode::Temporal)).await;
    job.counts().await;
    signal(&job, "pause", "{}").await;
    let status = job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    assert_eq!(
        status.control.expect("control").desired.map(|d| d.state),
        Some(DesiredState::Running),
        "the spec's wish stays"
    );
    job.until("is_paused", |s| s.workflow.as_ref().is_some_and(|w| w.is_paused == Some(true))).await;
    assert!(query(&job, "is_paused").await.contains("true"));
    stays(&job, Phase::Paused).await;
    // An edit of something else repeats nothing.
    job.patch(json!({ "spec": { "failedPodsHistoryLimit": 7 } })).await;
    job.until("the new generation", |s| s.observed_generation == Some(2)).await;
    stays(&job, Phase::Paused).await;
    // A new id requests the spec's state once more.
    job.patch(json!({ "metadata": { "annotations": { "kodosumi.io/control-request": "again-1" } } })).await;
    job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
    job.counts_on(5).await;
    // The spec's desired state changes, and is sent.
    job.want(DesiredState::Paused).await;
    job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    signal(&job, "resume", "{}").await;
    job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
    stays(&job, Phase::Running).await;
    same_process(&job.counts_on(5).await);
    signal(&job, "cancel", "{}").await;
    let status = job.phase(Phase::Cancelled).await;
    assert_eq!(job.closed(&status.workflow.expect("a workflow").id).await, "CANCELED");
    job.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_payload_is_survived() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count?every_ms=20").mode(ExecutionMode::Temporal)).await;
    job.counts().await;
    for name in ["runner_ready", "runner_failed", "runner_confirmed"] {
        for payload in
            ["null", "17", "\"text\"", "[]", "{}", "{\"epoch\":\"x\"}", "{\"epoch\":99,\"seq\":-1,\"state\":\"What\"}"]
        {
            signal(&job, name, payload).await;
        }
    }
    for payload in ["null", "17", "\"text\"", "[1,2]", "{\"id\":7}", "{\"id\":\"x\",\"desired\":\"Nonsense\"}"] {
        signal(&job, "pause", payload).await;
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        signal(&job, "resume", payload).await;
        job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
    }
    signal(&job, "no_such_signal", "{}").await;
    same_process(&job.counts_on(5).await);
    signal(&job, "cancel", "\"now\"").await;
    job.phase(Phase::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_answer_in_every_state() {
    let (test, _roles) = Test::with_operator().await;
    let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "1h", "maximumInterval": "2h" } });
    let job = test.apply(agent("exit?code=4").mode(ExecutionMode::Temporal).with(retry)).await;
    job.until("phase Retrying", |s| s.phase == Some(Phase::Retrying)).await;
    assert!(query(&job, "get_status").await.contains("retrying"));
    assert!(query(&job, "get_error").await.contains("AgentFailed"));
    assert!(query(&job, "is_paused").await.contains("false"));
    job.want(DesiredState::Cancelled).await;
    job.phase(Phase::Cancelled).await;
    assert!(query(&job, "get_status").await.contains("cancelled"));
    assert!(query(&job, "is_paused").await.contains("false"));
    let well = test.apply(agent("count?every_ms=20&until=20").mode(ExecutionMode::Temporal)).await;
    well.phase(Phase::Succeeded).await;
    assert!(query(&well, "get_status").await.contains("completed"));
    assert!(!ticks(&well.log().await).is_empty());
}
