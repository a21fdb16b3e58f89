//! What agents report, what they have used up, and the budget that limits it.

use super::*;

#[test]
fn an_agent_beyond_the_jobs_budget_is_ended_and_not_retried() {
    for mode in ["Direct", "Temporal"] {
        let spec = json!({ "executionMode": mode, "timeouts": { "execution": "50m" }, "budget": { "activeTime": "50m" },
            "template": { "spec": { "terminationGracePeriodSeconds": 20 } } });
        let workflow = json!({ "workflow": { "id": "w", "runID": "r", "namespace": "t" } });
        let mut job = job(spec, merged(active(1), workflow));
        job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
        // Ready for 40 s, beside what earlier runs have used up.
        let requeue = |spent: i64| {
            let identity = json!({ "executionMode": mode, "spent": { "activeMillis": spent } });
            let over = merged(started(), json!({ "spec": { "identity": identity } }));
            decide(&job, &observed(&[run(1, over)], &[pod(1, AgentContainer::Running)])).requeue
        };
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds + 20 + 960 - 40));
        assert_eq!([requeue(0), requeue(600_000), requeue(9_000_000)], [seconds(3000), seconds(2400), seconds(0)]);
    }
    let mut late = merged(started(), json!({ "spec": { "identity": { "spent": { "activeMillis": 9_000_000 } } } }));
    late["spec"]["grant"]["time"] = json!("2026-01-01T00:30:00Z");
    late["status"]["readyTime"] = json!("2026-01-01T00:30:00Z");
    let spec = json!({ "timeouts": { "execution": "5m" }, "budget": { "activeTime": "5m" } });
    let plan = decide(&job(spec.clone(), active(1)), &observed(&[run(1, late)], &[pod(1, AgentContainer::Running)]));
    assert_eq!(closes(&plan), [(1, "BudgetExceeded".to_string())]);
    let ended = plan.actions.iter().find_map(|action| match action {
        Action::CloseRun { termination, .. } => Some(termination.non_retryable),
        _ => None,
    });
    assert_eq!(ended, Some(true));
    let mut over = ended_over_budget();
    over["spec"]["identity"] = json!({ "spent": { "activeMillis": 1000, "usage": { "inputTokens": 5 } } });
    let failed = decide(&job(spec, active(1)), &observed(&[run(1, over)], &[]));
    assert_eq!(failed.status.phase, Some(Phase::Failed));
    assert_eq!(condition(&failed, "Succeeded").1, "BudgetExceeded");
    let spent = failed.status.spent.unwrap();
    assert_eq!((spent.active_millis, spent.usage.input_tokens), (8000, 12));
}

/// The end of a run by its runner, after 7 s and 7 tokens.
fn ended_over_budget() -> Value {
    let more = json!({ "status": { "termination": { "nonRetryable": true, "activeMillis": 7000,
        "usage": { "inputTokens": 7 } } } });
    merged(ended("Failed", Some("BudgetExceeded"), "Runner"), more)
}

#[test]
fn what_is_spent_is_recorded_when_the_job_goes_on_and_counts_for_the_next_run() {
    let retried = json!({ "retryPolicy": { "maximumAttempts": 5 } });
    let over = merged(
        ended_over_budget(),
        json!({ "status": { "termination": { "nonRetryable": null,
        "error": { "type": "AgentFailed" } } } }),
    );
    let (mut job, plan) = next(&job(retried, active(1)), &observed(&[run(1, over)], &[]));
    let spent = plan.status.spent.unwrap();
    assert_eq!((plan.status.active_run, spent.active_millis, spent.usage.input_tokens), (Some(2), 7000, 7));
    job.status.as_mut().unwrap().retry.as_mut().unwrap().retry_after = None;
    let plan = decide(&job, &ObservedState::default());
    let created = plan.actions.iter().find_map(|action| match action {
        Action::CreateRun(new) => Some(new.spent),
        _ => None,
    });
    assert_eq!(created, Some(spent));
    assert_eq!(plan.status.spent, Some(spent));
}

#[test]
fn progress_is_the_newest_agents_and_usage_that_of_all() {
    let reported = |percent: i32, tokens: i64, second: i64| json!({ "percent": percent, "message": "m", "usage": { "inputTokens": tokens }, "time": format!("2026-01-01T00:59:{second}Z") });
    let with = |mut over: Value, progress: Value| {
        over["status"]["progress"] = progress;
        over
    };
    let (job, plan) = next(&job(json!({}), active(1)), &observed(&[run(1, with(started(), reported(90, 5, 30)))], &[]));
    let told = plan.status.progress.clone().unwrap();
    assert_eq!((told.percent, told.message.as_deref(), told.usage.input_tokens), (Some(90), Some("m"), 5));
    assert_eq!(plan.status.spent, None);
    let second = |resumed: bool, over: Value| {
        let mut job = job.clone();
        job.status.as_mut().unwrap().active_run = Some(2);
        let identity =
            json!({ "spec": { "identity": { "resumed": resumed, "spent": { "usage": { "inputTokens": 6 } } } } });
        decide(&job, &observed(&[run(2, merged(over, identity))], &[])).status.progress.unwrap()
    };
    assert_eq!(second(false, granted()), told, "the next agent has not started");
    let anew = second(false, started());
    assert_eq!((anew.percent, anew.message, anew.usage.input_tokens), (None, None, 6));
    assert_eq!(second(true, started()).percent, Some(90), "it goes on");
    let both = second(false, with(started(), reported(10, 3, 50)));
    assert_eq!((both.percent, both.usage.input_tokens), (Some(10), 9));
    let mut over = job.clone();
    over.status.as_mut().unwrap().phase = Some(Phase::Failed);
    let plan = decide(&over, &observed(&[run(1, with(started(), reported(95, 99, 50)))], &[]));
    assert_eq!(plan.status.progress, Some(told), "of a job that has ended nothing is written");
}
