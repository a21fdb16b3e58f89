//! What agents report of their progress and usage, and the end of a job that exceeds its budget.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koco::{
    api::{AgentRun, RunnerState, TerminationType, Usage},
    lifecycle,
    platform::clock,
    protocol::{
        error_types,
        runner::{AgentEnd, EndReport, Progress},
    },
};
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, Kubelet, MODES, Phase, Test, agent,
    by_hand::{in_hand, started},
    job::{With, condition, error_type, pod_name},
    kubelet::End,
    runner::failed,
    within,
};

fn reported(percent: i32, input_tokens: i64) -> Progress {
    let usage = Usage { input_tokens, ..Usage::default() };
    Progress { percent: Some(percent), message: Some(format!("step {percent}")), usage }
}

/// A report of the end of an agent that has reported this before.
fn end_of(end: AgentEnd, last: Progress) -> EndReport {
    let end = AgentEnd { usage: last.usage, ..end };
    EndReport { generation: 0, end, progress: Some(last), events: None, events_missing: None }
}

fn tokens(run: &AgentRun) -> i64 {
    run.spec.identity.spent.unwrap_or_default().usage.input_tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_shown_and_usage_adds_up_until_the_budget_is_exceeded() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let limited = json!({ "budget": { "inputTokens": 10, "activeTime": "1h" },
        "retryPolicy": { "maximumAttempts": 5, "initialInterval": "100ms" } });
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode).with(limited.clone())).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        runner.reports(&reported(40, 5)).await.expect("204");
        let status = job.until("progress", |s| s.progress.as_ref().is_some_and(|p| p.percent == Some(40))).await;
        let progress = status.progress.expect("progress");
        assert_eq!((progress.message.as_deref(), progress.usage.input_tokens), (Some("step 40"), 5), "in {mode:?}");
        // Within a minute no other is written, but for the last.
        runner.reports(&reported(50, 6)).await.expect("204");
        runner.confirm(RunnerState::Running, 0, None).await.expect("204");
        let run = job.run().await.expect("the run");
        assert_eq!(run.status.and_then(|s| s.progress).and_then(|p| p.percent), Some(40));
        runner.ends(&end_of(failed("AgentFailed", 1), reported(60, 8))).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;

        let (pod, runner) = in_hand(&kubelet, &job, 2).await;
        let told = runner.welcome().await;
        assert_eq!((told.attempt, told.spent.usage.input_tokens), (2, 8), "in {mode:?}");
        assert_eq!(told.budget.and_then(|budget| budget.input_tokens), Some(10));
        runner.messages().await.expect("a stream").grant().await;
        runner.confirm(RunnerState::Running, 0, None).await.expect("204");
        let over = AgentEnd { non_retryable: true, ..failed(error_types::BUDGET_EXCEEDED, 143) };
        runner.ends(&end_of(over, reported(70, 3))).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(143, None)).await;
        let status = job.phase(Phase::Failed).await;
        assert_eq!((error_type(&status), status.attempt), (error_types::BUDGET_EXCEEDED, Some(2)), "in {mode:?}");
        assert_eq!(condition(&status, "Succeeded").1, error_types::BUDGET_EXCEEDED);
        let progress = status.progress.expect("progress");
        assert_eq!((progress.percent, progress.usage.input_tokens), (Some(70), 11), "in {mode:?}");
        assert_eq!(status.spent.expect("what is used up").usage.input_tokens, 11, "in {mode:?}");
        let runs = job.runs().await;
        assert_eq!(runs.iter().map(tokens).collect::<Vec<_>>(), [0, 8], "there is no third");
        if mode == ExecutionMode::Temporal {
            assert_eq!(job.closed(&job.workflow().await).await, "FAILED");
        }
    }
}

/// It says so as soon as it is granted, and has started nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_a_job_whose_budget_is_used_up_ends_the_job() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let limited = json!({ "budget": { "activeTime": "1s" },
        "retryPolicy": { "maximumAttempts": 5, "initialInterval": "100ms" } });
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode).with(limited.clone())).await;
        let (pod, _runner) = started(&kubelet, &job, 1).await;
        // Its runner says nothing any more, so that koco's own record counts, which has whole seconds.
        within(DEADLINE, "two seconds of the agent's activity", async || {
            let runs = job.runs().await;
            let active = lifecycle::active(runs.last().expect("the run"), &Time(clock::now()));
            if active >= Duration::from_secs(2) { Ok(()) } else { Err(active) }
        })
        .await;
        kubelet.end(&pod_name(&pod), &End::killed()).await;
        let (pod, runner) = in_hand(&kubelet, &job, 2).await;
        let told = runner.welcome().await;
        assert!(told.spent.active_millis >= 1000, "in {mode:?}: {:?}", told.spent);
        runner.messages().await.expect("a stream").grant().await;
        let over = failed(error_types::BUDGET_EXCEEDED, 1);
        let over = AgentEnd { started: false, exit_code: None, ..over };
        assert_eq!(over.kind, TerminationType::Failed);
        runner.outcome(0, over).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
        let status = job.phase(Phase::Failed).await;
        assert_eq!(error_type(&status), error_types::BUDGET_EXCEEDED, "in {mode:?}");
        assert_eq!(job.runs().await.len(), 2, "there is no third");
    }
}
