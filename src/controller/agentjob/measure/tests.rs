use serde_json::json;

use super::*;
use crate::platform::metrics::{Format, Metrics};

fn text(metrics: &Metrics) -> String {
    metrics.encode(Format::OpenMetrics).unwrap()
}

fn has(metrics: &Metrics, lines: &[&str]) {
    let text = text(metrics);
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "{line}: {text}");
    }
}

fn job() -> AgentJob {
    let mut job = AgentJob::default();
    job.metadata.creation_timestamp = serde_json::from_value(json!("2024-11-22T10:00:00Z")).unwrap();
    job
}

fn status_of(value: serde_json::Value) -> AgentJobStatus {
    serde_json::from_value(value).unwrap()
}

fn run_of(status: serde_json::Value) -> AgentRun {
    serde_json::from_value(json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
        "metadata": { "name": "r", "uid": "u", "creationTimestamp": "2024-11-22T10:00:02Z" },
        "spec": {
            "identity": { "jobName": "j", "jobUID": "ju", "number": 1, "attempt": 1, "podName": "p",
                "executionMode": "Temporal", "heartbeat": "10s" },
            "command": { "state": "Paused", "generation": 2, "time": "2024-11-22T10:00:10.500Z" },
        },
        "status": status,
    }))
    .unwrap()
}

fn resolved() -> serde_json::Value {
    json!({ "executionMode": "Temporal", "timeouts": { "heartbeat": "10s", "pending": "10s" }, "retryPolicy":
        { "maximumAttempts": 3, "initialInterval": "1s", "backoffCoefficient": 2.0, "maximumInterval": "9s" } })
}

#[test]
fn a_jobs_statuses_are_counted_as_they_change() {
    let metrics = Metrics::default();
    let none = AgentJobStatus::default();
    let running = status_of(json!({ "phase": "Running", "attempt": 1, "startTime": "2024-11-22T10:00:07Z",
        "resolved": resolved() }));
    status(&metrics.jobs, &job(), &none, &running, &[run_of(json!({}))]);
    // The same again, and what is only informative.
    status(&metrics.jobs, &job(), &running, &running, &[]);
    let again = AgentJobStatus { attempt: Some(3), ..running.clone() };
    status(&metrics.jobs, &job(), &running, &again, &[]);
    let failed = status_of(json!({ "phase": "Failed", "attempt": 3, "startTime": "2024-11-22T10:00:07Z",
        "completionTime": "2024-11-22T10:01:07Z", "error": { "type": "canary", "message": "m" },
        "resolved": resolved() }));
    status(&metrics.jobs, &job(), &again, &failed, &[]);
    status(&metrics.jobs, &job(), &failed, &failed, &[]);
    has(
        &metrics,
        &[
            r#"koco_attempts_started_total{mode="Temporal"} 3"#,
            r#"koco_retries_total{mode="Temporal"} 2"#,
            r#"koco_job_queue_seconds_sum{mode="Temporal"} 2.0"#,
            r#"koco_job_start_seconds_sum{mode="Temporal"} 7.0"#,
            r#"koco_job_start_seconds_count{mode="Temporal"} 1"#,
            r#"koco_jobs_ended_total{mode="Temporal",phase="Failed",error="Custom"} 1"#,
            r#"koco_job_duration_seconds_sum{mode="Temporal",phase="Failed"} 60.0"#,
        ],
    );
    assert!(!text(&metrics).contains("canary"));
}

#[test]
fn a_runs_end_and_acknowledgements_are_counted_once() {
    let metrics = Metrics::default();
    let acknowledged = json!({ "binding": 0, "generation": 2, "state": "Frozen", "time": "2024-11-22T10:00:10.750Z" });
    let open = run_of(json!({}));
    let paused = run_of(json!({ "acknowledged": acknowledged }));
    let closed = run_of(json!({ "acknowledged": acknowledged, "termination": { "type": "Failed", "source": "Koco",
        "time": "2024-11-22T10:01:00Z", "started": true, "activeMillis": 1500,
        "usage": { "inputTokens": 30, "outputTokens": i64::MAX, "costMicros": 250 },
        "error": { "type": "Disrupted", "message": "m" } } }));
    // From before this process: it says nothing of when it ended.
    run(&metrics.jobs, None, &closed);
    run(&metrics.jobs, None, &open);
    run(&metrics.jobs, Some(&open), &paused);
    run(&metrics.jobs, Some(&paused), &paused);
    run(&metrics.jobs, Some(&paused), &closed);
    run(&metrics.jobs, Some(&closed), &closed);
    has(
        &metrics,
        &[
            r#"koco_runs_ended_total{mode="Temporal",type="Failed",error="Disrupted",source="Koco"} 1"#,
            r#"koco_run_active_seconds_sum{mode="Temporal"} 1.5"#,
            r#"koco_agent_tokens_total{mode="Temporal",kind="input"} 30"#,
            // No agent makes the sum of all worthless.
            r#"koco_agent_tokens_total{mode="Temporal",kind="output"} 1000000000000"#,
            r#"koco_agent_cost_micros_total{mode="Temporal"} 250"#,
            r#"koco_control_seconds_sum{mode="Temporal",state="Paused"} 0.25"#,
            r#"koco_control_seconds_count{mode="Temporal",state="Paused"} 1"#,
        ],
    );
}

#[test]
fn a_command_that_was_not_carried_out_has_no_latency() {
    let metrics = Metrics::default();
    let answer = |extra: serde_json::Value| {
        let mut answer =
            json!({ "binding": 0, "generation": 1, "state": "Running", "time": "2024-11-22T10:00:10.750Z" });
        answer.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        run_of(json!({ "acknowledged": answer }))
    };
    run(&metrics.jobs, Some(&run_of(json!({}))), &answer(json!({})));
    run(&metrics.jobs, Some(&answer(json!({}))), &answer(json!({ "generation": 2, "problem": "it moves" })));
    assert!(!text(&metrics).contains("koco_control_seconds_count"), "{}", text(&metrics));
}

#[test]
fn a_foreign_reason_is_one_word() {
    let stalled = |reason: &str| {
        let condition = json!({ "type": "Stalled", "status": "True", "reason": reason, "message": "m",
            "lastTransitionTime": "2024-11-22T10:00:00Z" });
        let status = status_of(json!({ "conditions": [condition] }));
        stall(&AgentJob { status: Some(status), ..job() })
    };
    assert_eq!(stalled(Reason::PodNotEnding.as_str()), Some("PodNotEnding"));
    assert_eq!(stalled("ErrImagePull"), Some("ErrImagePull"));
    assert_eq!(stalled("Canary"), Some("Other"));
    assert_eq!(stalled("Failed"), None, "it waits for nobody");
    assert_eq!(stall(&job()), None);
}
