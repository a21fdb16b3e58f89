//! Jobs that are still to be filled from their template, and inputs that don't fit.

use super::*;
use crate::protocol::error_types;

/// A job of a template, as it was applied, with this desired state.
fn unfilled(desired: &str) -> AgentJob {
    let of = json!({ "entryPoint": null, "template": null, "templateRef": { "name": "t" }, "desiredState": desired });
    job(of, Value::Null)
}

fn waits(reason: Reason) -> ObservedState {
    ObservedState { template: Some((reason, "why".into())), ..ObservedState::default() }
}

#[test]
fn a_job_without_its_template_waits_and_nothing_is_resolved() {
    for (reason, stalled) in [(Reason::TemplateNotFound, "False"), (Reason::TemplateInvalid, "True")] {
        let plan = decide(&unfilled("Running"), &waits(reason.clone()));
        assert_eq!(
            (plan.status.phase, plan.status.resolved.clone(), &plan.actions),
            (Some(Phase::Pending), None, &vec![])
        );
        assert_eq!(condition(&plan, "Stalled").0, stalled);
        assert_eq!(condition(&plan, "Ready"), ("False".into(), reason.as_str().into(), "why".into()));
        let message = format!("{}: why", reason.as_str());
        assert_eq!(condition(&plan, "Succeeded"), ("Unknown".into(), reason.as_str().into(), message));
        assert!(plan.requeue.is_some());
    }
}

#[test]
fn it_can_be_paused_and_cancelled() {
    let paused = decide(&unfilled("Paused"), &waits(Reason::TemplateNotFound));
    assert_eq!((paused.status.phase, condition(&paused, "Paused").0), (Some(Phase::Paused), "True".into()));
    let cancelled = decide(&unfilled("Cancelled"), &ObservedState::default());
    assert_eq!((cancelled.status.phase, &cancelled.actions), (Some(Phase::Cancelled), &vec![]));
}

#[test]
fn inputs_that_do_not_fit_fail_a_job_that_is_not_accepted_yet() {
    let observed = ObservedState { invalid_inputs: Some("why".into()), ..ObservedState::default() };
    let plan = decide(&job(json!({}), Value::Null), &observed);
    assert_eq!((plan.status.phase, &plan.actions), (Some(Phase::Failed), &vec![]));
    assert_eq!(plan.status.error.unwrap().kind, error_types::INVALID_INPUTS);
}
