//! How a job stands, as kstatus and the checks in deploy/gitops read it: the jobs that are planned here are committed in
//! tests/gitops/jobs, where `make gitops-test` reads them with the tools' own libraries.

use std::{collections::BTreeSet, fs, path::Path};

use kube::CustomResourceExt;

use super::*;
use crate::protocol::workflow::Stage;

/// A job that waits for its first agent, in a pod that was created then.
fn pending(spec: Value, created: &str, over: impl Fn(&mut PodView)) -> (AgentJob, ObservedState) {
    let mut waiting = pod(1, AgentContainer::Waiting);
    waiting.created = Some(Time(created.parse().unwrap()));
    over(&mut waiting);
    let status = json!({ "activeRun": 1, "phase": "Pending" });
    (job(spec, status), observed(&[run(1, granted())], &[waiting]))
}

fn no_node(pod: &mut PodView) {
    pod.unscheduled = true;
    pod.waiting_reason = Some(("Unschedulable".into(), "0/3 nodes are available: 3 Insufficient memory.".into()));
}

/// A job whose agent has started.
fn running(spec: Value, over: Value) -> (AgentJob, ObservedState) {
    let status = json!({ "activeRun": 1, "phase": "Running", "attempt": 1 });
    (job(spec, status), observed(&[run(1, over)], &[pod(1, AgentContainer::Running)]))
}

/// The same, whose pod has ended.
fn after(spec: Value, over: Value) -> (AgentJob, ObservedState) {
    let (job, state) = running(spec, over);
    (job, ObservedState { pods: vec![], ..state })
}

/// A job in Temporal mode whose agent is frozen, and which is asked by the spec and by the workflow for these states.
fn frozen_temporal(spec: &str, workflow: &str) -> (AgentJob, ObservedState) {
    let over = merged(
        commanded("Paused", 1, answered("Frozen", 1)),
        json!({ "spec": { "identity": { "executionMode": "Temporal" } } }),
    );
    let (mut job, state) = running(json!({ "executionMode": "Temporal", "desiredState": spec }), over);
    job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    let request = json!({ "state": spec, "id": "1", "time": "2026-01-01T00:59:30Z" });
    let known = json!({ "workflow": { "id": "w", "namespace": "t", "runID": "x" }, "control": { "sent": request } });
    let mut status = serde_json::to_value(job.status.take()).unwrap();
    json_patch::merge(&mut status, &known);
    job.status = serde_json::from_value(status).unwrap();
    let answer = json!({ "status": Stage::Running, "attempt": 1, "epoch": 1, "desired": workflow, "seq": 1,
        "isPaused": workflow == "Paused", "lastRequest": { "id": "1", "desired": spec } });
    let status = Some(serde_json::from_value(answer).unwrap());
    (job, ObservedState { answer: Some(WorkflowSnapshot { status, ..WorkflowSnapshot::default() }), ..state })
}

fn temporal_trouble() -> (AgentJob, ObservedState) {
    let (job, state) = frozen_temporal("Running", "Running");
    let temporal_trouble = Some((Reason::other("TemporalUnavailable"), "no connection".to_string()));
    (job, ObservedState { temporal_trouble, ..state })
}

/// A job, and what is observed of it, by the name of its file.
fn cases() -> Vec<(&'static str, (AgentJob, ObservedState))> {
    let (soon, late) = ("2026-01-01T00:59:00Z", "2026-01-01T00:54:00Z");
    let state = |state: &str| json!({ "desiredState": state });
    let frozen = || commanded("Paused", 1, answered("Frozen", 1));
    let mut stuck = answered("Running", 1);
    stuck["problem"] = json!("process 7 (agent) does not stop");
    let no_image = |pod: &mut PodView| {
        pod.waiting_reason = Some(("ErrImagePull".into(), "container agent: not found".into()));
    };
    let overdue = PodView {
        deletion_deadline: Some(Time("2026-01-01T00:50:00Z".parse().unwrap())),
        ..pod(1, AgentContainer::Running)
    };
    let failed = || ended("Failed", Some("AgentFailed"), "Runner");
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    let (retrying, ending) = after(json!({}), failed());
    let ending = ObservedState { pods: vec![overdue], ..ending };
    vec![
        ("submitted", (job(json!({}), Value::Null), ObservedState::default())),
        ("starting", pending(json!({}), soon, |_| {})),
        ("waiting-for-a-node", pending(json!({}), soon, no_node)),
        ("without-a-node", pending(json!({}), late, no_node)),
        (
            "without-a-node-for-longer-than-its-time",
            after(json!({}), {
                let error = json!({ "type": "PendingTimeout", "message": "Unschedulable: 0/3 nodes are available" });
                merged(
                    granted(),
                    json!({ "status": { "termination": { "type": "Failed", "source": "Koco", "time": NOW,
                "started": false, "error": error } } }),
                )
            }),
        ),
        ("without-its-image", pending(json!({}), soon, no_image)),
        ("held-back-by-a-gate", pending(json!({}), late, |pod| pod.gated = true)),
        ("running", running(json!({}), started())),
        ("unresponsive", running(json!({}), merged(started(), json!({ "status": { "unresponsiveSince": soon } })))),
        ("pausing", running(state("Paused"), commanded("Paused", 1, answered("Running", 0)))),
        ("not-pausable", running(state("Paused"), commanded("Paused", 1, stuck))),
        ("paused", running(state("Paused"), frozen())),
        ("paused-before-its-start", (job(state("Paused"), Value::Null), ObservedState::default())),
        ("paused-without-a-node", {
            let (job, state) = pending(state("Paused"), late, no_node);
            let command = json!({ "spec": { "command": { "state": "Paused", "generation": 1, "time": late } } });
            (job, ObservedState { runs: vec![run(1, merged(granted(), command))], ..state })
        }),
        ("resuming", running(state("Running"), commanded("Running", 2, answered("Frozen", 1)))),
        ("retrying", after(json!({}), failed())),
        ("retrying-behind-a-pod-that-does-not-end", (retrying, ending)),
        ("cancelling", running(state("Cancelled"), commanded("Cancelled", 1, answered("Stopping", 1)))),
        ("cancelled", after(state("Cancelled"), ended("Cancelled", None, "Koco"))),
        ("succeeded", after(json!({}), ended("Succeeded", None, "Runner"))),
        ("failed", after(once, failed())),
        ("temporal-paused-by-the-spec", frozen_temporal("Paused", "Paused")),
        ("temporal-paused-by-a-signal", frozen_temporal("Running", "Paused")),
        ("temporal-resuming", frozen_temporal("Running", "Running")),
        ("temporal-unavailable", temporal_trouble()),
    ]
}

/// The jobs as they are after the status is written, by the names of their files.
fn jobs() -> Vec<(String, AgentJob)> {
    let mut all: Vec<_> = cases().into_iter().map(|(name, (job, state))| (name.into(), next(&job, &state).0)).collect();
    let crd = serde_json::to_value(AgentJob::crd()).unwrap();
    let default = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"];
    assert_ne!(default, &Value::Null);
    all.push(("created".into(), job(json!({}), default.clone())));
    let (_, mut resumed) = all.iter().find(|(name, _)| name == "paused").unwrap().clone();
    resumed.metadata.generation = Some(2);
    resumed.spec.desired_state = DesiredState::Running;
    all.push(("resumed-and-not-seen".into(), resumed));
    let unconfigured = job(json!({ "executionMode": "Temporal" }), Value::Null);
    let status = Some(planned(&unconfigured, &ObservedState::default(), false).status);
    all.push(("temporal-not-configured".into(), AgentJob { status, ..unconfigured }));
    all
}

#[test]
fn the_jobs_of_the_gitops_tests_are_as_they_are_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gitops/jobs");
    let mut names = BTreeSet::new();
    for (name, job) in jobs() {
        let mut object = serde_json::to_value(&job).unwrap();
        // The rest of the spec says nothing of how it stands.
        object["spec"] = json!({ "desiredState": job.spec.desired_state });
        let file = format!("{name}.json");
        let path = folder.join(&file);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, serde_json::to_string_pretty(&object).unwrap() + "\n").unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
        assert_eq!(committed, object, "{name}: UPDATE=1 writes it");
        names.insert(file);
    }
    let files = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), names);
}

#[test]
fn a_job_is_under_way_or_stuck_or_neither() {
    for (name, job) in jobs() {
        let status = job.status.unwrap();
        let word = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str());
        let both = [word("Reconciling"), word("Stalled")];
        assert_ne!(both, [Some("True"), Some("True")], "{name}");
        let failed = status.phase == Some(Phase::Failed);
        assert_eq!(
            word("Ready") == Some("False") && word("Stalled") == Some("True"),
            failed || name == "temporal-not-configured",
            "{name}"
        );
    }
}

#[test]
fn a_node_has_half_of_the_pending_time_to_come() {
    let at = |created: &str, limit: &str| {
        let (job, state) = pending(json!({ "timeouts": { "pending": limit } }), created, no_node);
        let plan = decide(&job, &state);
        let (reconciling, stalled) = (condition(&plan, "Reconciling"), condition(&plan, "Stalled"));
        assert_eq!(reconciling.1, "Unschedulable");
        assert!(condition(&plan, "Succeeded").2.contains("Insufficient memory"), "it is said at once");
        let warned = plan.events.iter().any(|event| event.reason == "Unschedulable");
        assert_eq!((stalled.0 == "True", reconciling.0 == "True"), (warned, !warned));
        (warned, plan.requeue)
    };
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(at("2026-01-01T00:59:00Z", "10m"), (false, seconds(240)));
    assert_eq!(at("2026-01-01T00:55:00Z", "10m"), (true, seconds(300)));
    assert_eq!(at("2026-01-01T00:55:00Z", "20m"), (false, seconds(300)));
}

#[test]
fn a_failed_job_is_no_stall_that_somebody_is_told_of() {
    let (job, state) = after(json!({ "retryPolicy": { "maximumAttempts": 1 } }), ended("Failed", Some("X"), "Runner"));
    let plan = decide(&job, &state);
    assert_eq!(condition(&plan, "Stalled"), ("True".into(), "Failed".into(), "X: attempt 1 of 1: m".into()));
    assert_eq!(crate::api::conditions::stall(&plan.status.conditions), None);
    let reasons: Vec<_> = plan.events.iter().map(|e| e.reason.as_str()).collect();
    assert_eq!(reasons, ["Failed"]);
}
