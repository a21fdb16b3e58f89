//! The operator's limits.

use super::*;
use crate::protocol::error_types;

const LIMIT: usize = 256 * 1024;

/// A job with that many bytes in a field, as the cache has it.
fn with(field: &str, bytes: usize, status: Value) -> AgentJob {
    let mut job = job(json!({ field: { "a": "x".repeat(bytes - 8) } }), status);
    job.trim();
    job
}

#[test]
fn a_job_with_large_inputs_fails_before_anything_is_created() {
    for mode in ["Direct", "Temporal"] {
        for field in ["inputs", "extra"] {
            let mut job = with(field, LIMIT + 1, Value::Null);
            job.spec.execution_mode = serde_json::from_value(json!(mode)).unwrap();
            let plan = decide(&job, &ObservedState::default());
            assert_eq!((plan.status.phase, &plan.actions), (Some(Phase::Failed), &vec![]));
            let error = plan.status.error.clone().unwrap();
            assert_eq!(error.kind, error_types::INPUTS_TOO_LARGE);
            let words = format!("spec.{field} is 262145 bytes of JSON, and the operator's limit is 262144 bytes");
            assert!(error.message.starts_with(&words), "{}", error.message);
            assert_eq!(condition(&plan, "Succeeded"), ("False".into(), "InputsTooLarge".into(), error.message));
        }
    }
    let taken = decide(&with("inputs", LIMIT, Value::Null), &ObservedState::default());
    assert_eq!(taken.status.phase, Some(Phase::Pending));
}

#[test]
fn a_job_with_a_large_template_fails_before_anything_is_created() {
    let padded = |bytes: usize| {
        let template = |pad: usize| json!({ "template": { "pad": "x".repeat(pad) } });
        let rest = job(template(0), Value::Null).spec.template.size();
        let mut job = job(template(bytes - rest), Value::Null);
        job.trim();
        job
    };
    assert_eq!(decide(&padded(1024 * 1024), &ObservedState::default()).status.phase, Some(Phase::Pending));
    let plan = decide(&padded(1024 * 1024 + 1), &ObservedState::default());
    assert_eq!((plan.status.phase, &plan.actions), (Some(Phase::Failed), &vec![]));
    assert_eq!(condition(&plan, "Succeeded").1, error_types::TEMPLATE_TOO_LARGE);
    let message = plan.status.error.unwrap().message;
    assert!(message.starts_with("spec.template is 1048577 bytes of JSON"), "{message}");
}

#[test]
fn a_job_that_was_accepted_stays_so() {
    let accepted = next(&job(json!({ "desiredState": "Paused" }), Value::Null), &ObservedState::default()).0;
    let status = serde_json::to_value(accepted.status).unwrap();
    let mut old = with("inputs", LIMIT + 1, status);
    assert_eq!(decide(&old, &ObservedState::default()).status.phase, Some(Phase::Pending));
    // As after a restore of the cluster: there is a run, and no status.
    old.status = None;
    let runs = [run(1, started())];
    assert_ne!(decide(&old, &observed(&runs, &[])).status.phase, Some(Phase::Failed));
}

#[test]
fn a_heartbeat_below_the_operators_least_is_raised_and_said() {
    let plan = decide(&job(json!({ "timeouts": { "heartbeat": "500ms" } }), Value::Null), &ObservedState::default());
    let heartbeat = plan.status.resolved.as_ref().unwrap().timeouts.heartbeat;
    assert_eq!(heartbeat.get(), Duration::from_secs(1));
    let (_, _, message) = condition(&plan, "Ready");
    assert!(message.ends_with("with timeouts.heartbeat raised to 1s, the operator's least"), "{message}");
    let plan = decide(&job(json!({ "timeouts": { "heartbeat": "1s" } }), Value::Null), &ObservedState::default());
    assert!(!condition(&plan, "Ready").2.contains("raised"));
}
