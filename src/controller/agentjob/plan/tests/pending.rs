//! What is waited for before an agent starts: the same in both modes.

use super::*;
use crate::protocol::workflow::Stage;

fn word(mode: ExecutionMode) -> &'static str {
    if mode == ExecutionMode::Direct { "Direct" } else { "Temporal" }
}

/// A job that waits for its first or second agent.
fn pending(mode: ExecutionMode, status: Value) -> AgentJob {
    let mut job =
        job(json!({ "executionMode": word(mode), "runHistoryLimit": 0, "failedPodsHistoryLimit": 0 }), status);
    if mode == ExecutionMode::Temporal {
        job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
        let workflow = json!({ "id": "w", "namespace": "t", "runID": "x" });
        job.status.as_mut().unwrap().workflow = Some(serde_json::from_value(workflow).unwrap());
    }
    job
}

/// The workflow creates, or has created, the run of this number. In Direct mode there is none.
fn at_run(mode: ExecutionMode, number: i32, state: ObservedState) -> ObservedState {
    if mode == ExecutionMode::Direct {
        return state;
    }
    let answer = json!({ "status": Stage::Pending, "attempt": 0, "epoch": number, "desired": "Running", "seq": 0,
        "isPaused": false });
    let status = Some(serde_json::from_value(answer).unwrap());
    ObservedState { answer: Some(WorkflowSnapshot { status, ..WorkflowSnapshot::default() }), ..state }
}

/// A run without its runner: not granted in Temporal mode.
fn waits(mode: ExecutionMode, number: i32, over: Value) -> AgentRun {
    let before = if mode == ExecutionMode::Direct { granted() } else { json!({}) };
    run(number, merged(before, over))
}

fn never_started() -> Value {
    json!({ "status": { "termination": { "type": "Failed", "source": "Kubelet", "time": "2026-01-01T00:59:10Z",
        "started": false, "error": { "type": "NotStarted", "message": "m" } } } })
}

const MODES: [ExecutionMode; 2] = [ExecutionMode::Direct, ExecutionMode::Temporal];

#[test]
fn one_clock_counts_all_pods_whose_agent_never_starts_and_nothing_between_them() {
    for mode in MODES {
        let since = |plan: &Plan| plan.status.pending_since.clone().map(|t| t.0.to_string());
        // The first pod, from its creation.
        let created = |number, at: &str| PodView {
            created: Some(Time(at.parse().unwrap())),
            ..pod(number, AgentContainer::Waiting)
        };
        let first = created(1, "2026-01-01T00:59:00Z");
        let fresh = pending(mode, json!({ "activeRun": 1, "phase": "Pending" }));
        let state = at_run(mode, 1, observed(&[waits(mode, 1, json!({}))], std::slice::from_ref(&first)));
        let (waiting, plan) = next(&fresh, &state);
        assert_eq!(since(&plan).as_deref(), Some("2026-01-01T00:59:00Z"), "{mode:?}");
        // It ends after ten seconds.
        let over = || waits(mode, 1, never_started());
        let (between, plan) = next(&waiting, &at_run(mode, 1, observed(&[over()], &[first])));
        assert_eq!(since(&plan).as_deref(), Some("2026-01-01T00:59:00Z"), "{mode:?}");
        // The back-off, and the workflow that has moved on.
        let (between, plan) = next(&between, &at_run(mode, 2, observed(&[over()], &[])));
        assert_eq!(since(&plan).as_deref(), Some("2026-01-01T00:59:00Z"), "{mode:?}");
        // The second pod comes half a minute later. Its run's predecessor is not collected before it was counted.
        let runs = [over(), waits(mode, 2, json!({}))];
        let (between, plan) = next(&between, &at_run(mode, 2, observed(&runs, &[])));
        assert!(!plan.actions.iter().any(|a| matches!(a, Action::DeleteRun { .. })), "{mode:?}");
        let state = at_run(mode, 2, observed(&runs, &[created(2, "2026-01-01T00:59:40Z")]));
        let (again, plan) = next(&between, &state);
        assert_eq!(since(&plan).as_deref(), Some("2026-01-01T00:59:30Z"), "{mode:?}");
        assert_eq!(since(&next(&again, &state).1).as_deref(), Some("2026-01-01T00:59:30Z"), "once, in {mode:?}");
    }
}

#[test]
fn a_name_that_is_taken_stalls_the_job_that_needs_it() {
    for mode in MODES {
        let blocked = Some((Reason::RunNameTaken, "delete it".to_string()));
        let taken = |number, runs: &[AgentRun]| {
            let job = pending(mode, json!({ "activeRun": 2, "phase": "Pending" }));
            let state = ObservedState { blocked: blocked.clone(), ..observed(runs, &[]) };
            condition(&decide(&job, &at_run(mode, number, state)), "Stalled")
        };
        let before = waits(mode, 1, never_started());
        assert_eq!(taken(2, &[before]).1, "RunNameTaken", "{mode:?}");
    }
    // Not while the workflow doesn't create it, because a pause holds it or the attempts are used up.
    let job = pending(ExecutionMode::Temporal, json!({ "activeRun": 1, "phase": "Retrying" }));
    let blocked = Some((Reason::RunNameTaken, "delete it".to_string()));
    let state = ObservedState { blocked, ..observed(&[run(1, ended("Failed", Some("X"), "Runner"))], &[]) };
    assert_eq!(condition(&decide(&job, &at_run(ExecutionMode::Temporal, 1, state)), "Stalled").1, "Moving");
}

/// Its pod came and went while no controller was there, or was never created.
#[test]
fn a_pod_that_was_never_seen_is_created_after_a_while() {
    use crate::pods::PodView;
    let temporal = |run: AgentRun, pods: &[PodView], status: Value| {
        let job = pending(ExecutionMode::Temporal, merged(json!({ "activeRun": 1, "phase": "Pending" }), status));
        decide(&job, &at_run(ExecutionMode::Temporal, 1, observed(&[run], pods)))
    };
    let creates = |plan: &Plan| plan.actions.iter().any(|a| matches!(a, Action::CreatePod(run) if run.number() == 1));
    let created = |at: &str| waits(ExecutionMode::Temporal, 1, json!({ "metadata": { "creationTimestamp": at } }));
    let old = || created("2026-01-01T00:59:00Z");
    assert!(creates(&temporal(old(), &[], json!({}))));
    // The worker is about to do so.
    let fresh = temporal(created("2026-01-01T00:59:50Z"), &[], json!({}));
    assert!(!creates(&fresh) && fresh.requeue.is_some_and(|wait| wait <= Duration::from_secs(20)), "{fresh:?}");
    let seen = [pod(1, AgentContainer::Waiting)];
    assert!(!creates(&temporal(old(), &seen, json!({}))));
    assert!(!creates(&temporal(old(), &[], json!({ "runnerPod": "a-1", "runnerPodUID": "p1" }))));
    let refused = waits(ExecutionMode::Temporal, 1, json!({ "status": { "createError": "quota" } }));
    assert!(!creates(&temporal(refused, &[], json!({}))), "the worker repeats that");
    let tombstone = waits(ExecutionMode::Temporal, 1, json!({ "spec": { "identity": { "tombstone": true } } }));
    assert!(!creates(&temporal(tombstone, &[], json!({}))));
}
