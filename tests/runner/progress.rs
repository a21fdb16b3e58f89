//! What an agent reports of its progress, and the end of one that exceeds its job's budget.

use std::{ffi::OsString, fs};

use koco::{
    api::{Budget, DesiredState, RunnerState, Spent, TerminationType, Usage},
    protocol::{
        error_types,
        runner::{Job, Progress},
    },
};
use serde_json::{Value, json};

use crate::harness::{Run, job};

/// Reports this, as an agent should, and lives until it is told to stop.
fn reports(report: &str) -> Vec<OsString> {
    let script = format!(
        "trap 'echo told to stop; exit 0' TERM; echo '{report}' >$KODO_PROGRESS_FILE.new; \
         mv $KODO_PROGRESS_FILE.new $KODO_PROGRESS_FILE; echo reported; while :; do sleep 0.05; done"
    );
    vec!["/bin/sh".into(), "-c".into(), script.into()]
}

fn usage(input_tokens: i64) -> Usage {
    Usage { input_tokens, ..Usage::default() }
}

fn budget(budget: Value) -> Option<Budget> {
    Some(serde_json::from_value(budget).unwrap())
}

impl Run {
    /// Waits for a heartbeat with progress like this, and says whether it came beside the regular ones.
    async fn reported(&self, what: &str, is: impl Fn(&Progress) -> bool) -> (Progress, bool) {
        self.until(what, |heard| {
            let mut all = heard.heartbeats.iter().map(|(_, heartbeat)| heartbeat);
            all.find_map(|heartbeat| Some((heartbeat.progress.clone().filter(|p| is(p))?, heartbeat.between)))
        })
        .await
    }
}

#[tokio::test]
async fn progress_comes_with_heartbeats_and_at_the_end() {
    let slow = Job { heartbeat_interval_millis: 600_000, ..job("x") };
    let agent = reports(r#"{"percent": 40.5, "message": "reads", "usage": {"inputTokens": 7}}"#);
    let run = Run::with(slow, agent, false, "koco-gateway").await;
    run.grant();
    let (progress, between) = run.reported("a report", |_| true).await;
    let wanted = Progress { percent: Some(40), message: Some("reads".into()), usage: usage(7) };
    assert_eq!((progress, between), (wanted, true));
    let file = run.dir.join("state/out/progress.json");
    let write = |text: &str| {
        fs::write(file.with_extension("new"), text).unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
    };
    write("not a report");
    run.until("a word", |_| run.log().contains("the agent's progress file is ignored").then_some(())).await;
    write(r#"{"percent": 60, "usage": {"inputTokens": 3}}"#);
    let (progress, _) = run.reported("another report", |progress| progress.percent == Some(60)).await;
    assert_eq!((progress.message, progress.usage), (None, usage(7)), "it takes nothing back");
    write(r#"{"percent": 99, "usage": {"inputTokens": 11}}"#);
    run.command(DesiredState::Cancelled, 1);
    let end = run.outcome().await;
    assert_eq!((end.kind, end.usage), (TerminationType::Cancelled, usage(11)));
    let last = run.gateway.heard().outcomes[0].progress.clone().unwrap();
    assert_eq!((last.percent, last.usage), (Some(99), usage(11)), "what was reported since the last look");
    assert_eq!(run.termination(), end, "the termination message says it, too");
}

#[tokio::test]
async fn a_report_waits_for_a_heartbeat_in_flight_and_no_longer() {
    let slow = Job { heartbeat_interval_millis: 600_000, ..job("x") };
    let run = Run::with(slow, reports(r#"{"percent": 40}"#), false, "koco-gateway").await;
    run.gateway.heard().hang_heartbeats = true;
    run.grant();
    run.until("a heartbeat that is not answered", |heard| heard.heartbeats.first().map(drop)).await;
    run.gateway.heard().hang_heartbeats = false;
    let (progress, between) = run.reported("a report", |_| true).await;
    assert_eq!((progress.percent, between), (Some(40), true));
}

#[tokio::test]
async fn an_agent_that_reports_more_than_the_budget_is_told_to_stop_and_fails() {
    let (budget, spent) = (budget(json!({ "inputTokens": 100 })), Spent { active_millis: 0, usage: usage(90) });
    let agent = reports(r#"{"usage": {"inputTokens": 11}}"#);
    let mut run = Run::with(Job { budget, spent, ..job("x") }, agent, false, "koco-gateway").await;
    run.grant();
    let end = run.failed(error_types::BUDGET_EXCEEDED).await;
    assert!(end.started && end.non_retryable, "{end:?}");
    assert_eq!((end.exit_code, end.usage), (Some(0), usage(11)), "as it was told to stop, and of this run");
    let message = end.error.unwrap().message;
    assert!(message.contains("budget.inputTokens is 100, and the job's agents have reported 101"), "{message}");
    assert!(run.stdout().contains("told to stop"));
    assert_eq!(run.exited().await.code(), Some(1), "no success");
}

#[tokio::test]
async fn an_agent_is_active_no_longer_than_its_jobs_budget_allows() {
    let (budget, spent) = (budget(json!({ "activeTime": "10s" })), Spent { active_millis: 9_700, usage: usage(0) });
    let limited = Job { budget, spent, execution_limit_millis: Some(60_000), ..job("count") };
    let mut run = Run::start(limited).await;
    run.grant();
    let end = run.failed(error_types::BUDGET_EXCEEDED).await;
    assert!(end.non_retryable && (300..9_000).contains(&end.active_millis), "{end:?}");
    assert!(end.error.unwrap().message.contains("budget.activeTime is 10 s"));
    assert!(run.stdout().contains("sigterm"));
    assert_eq!(run.exited().await.code(), Some(143));
}

#[tokio::test]
async fn no_agent_is_started_when_nothing_is_left_of_the_budget() {
    for (limits, spent) in [
        (json!({ "activeTime": "10s" }), Spent { active_millis: 10_000, usage: usage(0) }),
        (json!({ "inputTokens": 100 }), Spent { active_millis: 0, usage: usage(100) }),
    ] {
        let mut run = Run::start(Job { budget: budget(limits), spent, ..job("count") }).await;
        run.grant();
        let end = run.failed(error_types::BUDGET_EXCEEDED).await;
        assert!(!end.started && end.non_retryable, "{end:?}");
        assert_eq!(run.exited().await.code(), Some(1));
        assert_eq!(run.termination(), end);
        assert!(run.stdout().is_empty(), "{}", run.stdout());
        assert!(run.gateway.heard().confirms.iter().all(|confirm| confirm.state == RunnerState::Waiting));
    }
}
