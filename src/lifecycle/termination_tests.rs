//! Tests of [`super`].

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::api::RunCommand;

fn run(policy: &str, command: Option<&str>) -> AgentRun {
    let time = "2026-01-01T00:00:00Z";
    let mut run = json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
        "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
            "executionMode": "Direct", "heartbeat": "1s", "pausePolicy": policy },
            "grant": { "time": time, "binding": 0 } },
        "status": { "readyTime": "2026-01-01T00:00:10Z" },
    });
    if let Some(state) = command {
        run["spec"]["command"] = json!({ "state": state, "generation": 1, "time": time });
    }
    serde_json::from_value(run).unwrap()
}

fn ending(kind: TerminationType) -> AgentEnd {
    let error = Some(ErrorStatus { kind: "t".repeat(1000), message: "ü".repeat(5000) });
    AgentEnd {
        kind,
        started: true,
        error,
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: -5,
        usage: Usage { input_tokens: -5, ..Usage::default() },
        result_omitted: false,
    }
}

fn now() -> Time {
    Time("2026-01-01T01:00:15Z".parse::<Timestamp>().unwrap())
}

#[test]
fn whatever_a_runner_says_is_cut_to_limits() {
    let run = run("Freeze", None);
    let said = claimed(&run, &ending(TerminationType::Failed), &now());
    let error = said.error.unwrap();
    assert_eq!((error.kind.len(), error.message.len(), said.active_millis), (128, 2048, 0));
    assert!(said.usage.is_empty());
    assert_eq!(said.duration.as_deref(), Some("1h"));
    let mut deep = ending(TerminationType::Succeeded);
    let nested = |levels: usize| serde_json::from_str(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
    deep.result = Some(nested(MAX_RESULT_DEPTH).unwrap());
    assert!(claimed(&run, &deep, &now()).result.unwrap().get().starts_with("[["));
    deep.result = Some(nested(MAX_RESULT_DEPTH + 1).unwrap());
    assert!(claimed(&run, &deep, &now()).result.unwrap().get().contains("\"truncated\":true"));
}

#[test]
fn an_eviction_needs_a_pause() {
    let kind = |policy, command| claimed(&run(policy, command), &ending(TerminationType::Evicted), &now()).kind;
    assert_eq!(kind("Evict", Some("Paused")), TerminationType::Evicted);
    assert_eq!(kind("Evict", Some("Running")), TerminationType::Failed, "it was created with that");
    let mut resumed = run("Evict", Some("Running"));
    resumed.spec.command.as_mut().unwrap().last_pause = Some(0);
    let said = claimed(&resumed, &ending(TerminationType::Evicted), &now());
    assert_eq!(said.kind, TerminationType::Evicted, "resumed while it was evicted");
    assert_eq!(kind("Evict", None), TerminationType::Failed);
    assert_eq!(kind("Freeze", Some("Paused")), TerminationType::Failed);
}

#[test]
fn a_cancel_needs_a_command() {
    let kind = |command| claimed(&run("Freeze", command), &ending(TerminationType::Cancelled), &now());
    assert_eq!(kind(Some("Cancelled")).kind, TerminationType::Cancelled);
    for other in [None, Some("Running"), Some("Paused")] {
        let said = kind(other);
        assert_eq!((said.kind, said.error.unwrap().kind.as_str()), (TerminationType::Failed, "AgentFailed"));
    }
}

fn failing(kind: &str, started: bool) -> AgentEnd {
    let error = Some(ErrorStatus { kind: kind.into(), message: "m".into() });
    AgentEnd { error, started, active_millis: 7_000_000, ..ending(TerminationType::Failed) }
}

#[test]
fn only_a_run_that_may_not_have_started_has_not() {
    let at = |time: &str| Time(time.parse::<Timestamp>().unwrap());
    let (soon, late) = (at("2026-01-01T00:00:20Z"), at("2026-01-01T00:02:00Z"));
    let kind = |run: &AgentRun, end: AgentEnd, now: &Time| {
        let said = claimed(run, &end, now);
        (said.error.unwrap().kind, said.started)
    };
    let (lost, not) = (("RunnerLost".to_string(), true), ("NotStarted".to_string(), false));
    let free = run("Freeze", None);
    assert_eq!(kind(&free, failing("NotStarted", false), &soon), not, "it could not be started");
    assert_eq!(kind(&free, failing("NotStarted", false), &late), lost);
    assert_eq!(kind(&free, failing("Disrupted", false), &late), lost);
    assert_eq!(kind(&free, failing("StartFailed", false), &late), ("StartFailed".to_string(), false));
    assert_eq!(kind(&free, AgentEnd { started: false, ..ending(TerminationType::Succeeded) }, &late), lost);
    // Held by a pause before its start, and resumed just now.
    let mut held = run("Freeze", Some("Paused"));
    held.status.as_mut().unwrap().acknowledged = serde_json::from_value(
        json!({ "binding": 0, "generation": 1, "state": "Waiting", "time": "2026-01-01T00:00:11Z" }),
    )
    .unwrap();
    assert_eq!(kind(&held, failing("NotStarted", false), &late), not);
    let resumed = RunCommand::after(held.spec.command.as_ref(), DesiredState::Running, 2, at("2026-01-01T00:01:50Z"));
    held.spec.command = Some(resumed);
    assert_eq!(kind(&held, failing("NotStarted", false), &late), not);
    assert_eq!(kind(&held, failing("NotStarted", false), &now()), lost);
    let mut waiting = run("Freeze", None);
    waiting.spec.grant = None;
    assert_eq!(kind(&waiting, failing("NotStarted", false), &now()), not);
}

#[test]
fn a_runner_reports_no_type_that_koco_determines() {
    for kind in ["JobGone", "Cancelled", "Evicted", "PendingTimeout", "HeartbeatTimeout"] {
        assert_eq!(claimed(&run("Freeze", None), &failing(kind, true), &now()).error.unwrap().kind, "AgentFailed");
    }
    for kind in ["OOMKilled", "MyOwn"] {
        assert_eq!(claimed(&run("Freeze", None), &failing(kind, true), &now()).error.unwrap().kind, kind);
    }
}

#[test]
fn an_agent_was_active_for_no_longer_than_its_run() {
    let run = run("Freeze", None);
    assert_eq!(claimed(&run, &failing("X", true), &now()).active_millis, 3_606_000);
    let mut unready = run;
    unready.status = None;
    assert_eq!(claimed(&unready, &failing("X", true), &now()).active_millis, 0);
}

#[test]
fn an_agent_that_its_runner_does_not_end_is_ended_from_outside() {
    let (second, at) = (Duration::from_secs, |time: &str| Time(time.parse::<Timestamp>().unwrap()));
    let ready = at("2026-01-01T00:00:10Z");
    let left = |run: &AgentRun, now: &Time| time_left(run, second(600), second(30), now);
    let mut run = run("Freeze", Some("Running"));
    let whole = second(600 + 30) + UNENDED;
    assert_eq!(left(&run, &ready), Some(whole));
    assert_eq!(left(&run, &now()), Some(Duration::ZERO));
    // By a clock that is behind.
    assert_eq!(left(&run, &at("2025-12-31T00:00:00Z")), Some(whole));
    assert_eq!(time_left(&run, second(100), second(30), &ready), Some(whole - second(500)));
    run.status.as_mut().unwrap().paused_millis = 3_600_000;
    assert_eq!(left(&run, &now()), Some(whole - second(5)));
    run.status.as_mut().unwrap().paused_since = Some(ready.clone());
    assert_eq!(left(&run, &now()), None, "paused");
    run.spec.grant = None;
    assert_eq!(left(&run, &now()), None, "not started");
}

#[test]
fn what_is_spent_adds_up_over_runs_and_counts_the_time_of_those_that_no_runner_tells_of() {
    let at = |time: &str| Time(time.parse::<Timestamp>().unwrap());
    let usage = |input_tokens| Usage { input_tokens, ..Usage::default() };
    let mut run = run("Freeze", None);
    let before = Spent { active_millis: 1000, usage: usage(10) };
    run.spec.identity.spent = Some(before);
    let status = run.status.as_mut().unwrap();
    status.paused_millis = 20_000;
    status.progress =
        serde_json::from_value(json!({ "time": "2026-01-01T00:01:00Z", "usage": { "inputTokens": 5 } })).ok();
    assert_eq!((spent(&run), super::usage(&run)), (before, usage(5)), "it has not ended");
    let reported = AgentEnd { active_millis: 7000, usage: usage(6), ..ending(TerminationType::Failed) };
    let mut told = run.clone();
    told.status.as_mut().unwrap().termination = Some(claimed(&run, &reported, &at("2026-01-01T00:01:00Z")));
    assert_eq!(spent(&told), Spent { active_millis: 8000, usage: usage(16) });
    // 3,600 s after its start, less its pauses: a runner that says less by more than a minute isn't believed.
    told.status.as_mut().unwrap().termination = Some(claimed(&run, &reported, &at("2026-01-01T01:00:10Z")));
    assert_eq!(spent(&told).active_millis, 1000 + 3_580_000 - 60_000);
    told.status.as_mut().unwrap().termination.as_mut().unwrap().started = false;
    assert_eq!(spent(&told).active_millis, 8000, "its agent has not started");
    // From 00:00:10 on.
    let mut lost = run.clone();
    let silent = koco(&run, error_types::HEARTBEAT_TIMEOUT, "s".into(), &at("2026-01-01T00:01:00Z"));
    lost.status.as_mut().unwrap().termination = Some(silent);
    assert_eq!(spent(&lost), Spent { active_millis: 31_000, usage: usage(15) });
    lost.status.as_mut().unwrap().paused_since = Some(at("2026-01-01T00:00:40Z"));
    assert_eq!(spent(&lost).active_millis, 11_000);
    lost.status.as_mut().unwrap().ready_time = None;
    assert_eq!(spent(&lost).active_millis, 1000, "it has never started");
}

#[test]
fn a_budget_that_is_exceeded_ends_the_job_whatever_else_its_runner_says() {
    let said = |started| claimed(&run("Freeze", None), &failing("BudgetExceeded", started), &now());
    for (started, end) in [(true, said(true)), (false, said(false))] {
        assert_eq!((end.error.unwrap().kind.as_str(), end.non_retryable), ("BudgetExceeded", true));
        assert_eq!(end.started, started, "an hour after its grant");
    }
    let forged = AgentEnd { kind: TerminationType::Cancelled, ..failing("BudgetExceeded", true) };
    let end = claimed(&run("Freeze", None), &forged, &now());
    assert_eq!((end.error.unwrap().kind.as_str(), end.non_retryable), ("AgentFailed", false));
}

#[test]
fn a_pod_that_vanished_is_given_its_grace_period() {
    let at = |time: &str| Time(time.parse::<Timestamp>().unwrap());
    let mut gone = run("Freeze", None);
    let left = |run: &AgentRun, time: &str| lingers(run, Duration::from_secs(20), &at(time)).map(|l| l.as_secs());
    assert_eq!(left(&gone, "2026-01-01T00:01:00Z"), None);
    gone.status.as_mut().unwrap().termination = Some(vanished(&gone, &at("2026-01-01T00:01:00Z")));
    assert_eq!(left(&gone, "2026-01-01T00:01:00Z"), Some(25));
    assert_eq!(left(&gone, "2026-01-01T00:01:24Z"), Some(1));
    assert_eq!(left(&gone, "2026-01-01T00:01:25Z"), None);
    let mut unready = run("Freeze", None);
    unready.status = None;
    assert!(!vanished(&unready, &now()).pod_vanished, "no agent can have started");
    let silent = |run: &AgentRun| koco(run, error_types::HEARTBEAT_TIMEOUT, "s".into(), &at("2026-01-01T00:01:00Z"));
    gone.status.as_mut().unwrap().termination = Some(silent(&gone));
    assert_eq!(left(&gone, "2026-01-01T00:01:24Z"), Some(1), "it may have been deleted by force just before");
    unready.status = Some(Default::default());
    unready.status.as_mut().unwrap().termination = Some(silent(&unready));
    assert_eq!(left(&unready, "2026-01-01T00:01:01Z"), None, "it has not started");
}

#[test]
fn durations_read_as_kubectl_writes_them() {
    let text = |s| duration_text(Duration::from_secs(s));
    assert_eq!([text(0), text(119), text(120), text(303), text(3780)], ["0s", "119s", "2m", "5m3s", "1h3m"]);
    assert_eq!([text(86_400), text(187_200)], ["1d", "2d4h"]);
}

#[test]
fn a_tombstone_counts_as_a_disruption() {
    let mut gone = run("Freeze", None);
    (gone.spec.identity.tombstone, gone.spec.grant) = (true, None);
    assert!(matches!(end_of(&gone), Ended::Failed { error, .. } if error.kind == "Disrupted"));
}
