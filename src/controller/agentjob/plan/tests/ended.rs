//! Jobs that have ended or are being deleted, and what is collected.

use super::*;
use crate::api::RawJson;

fn over(spec: Value) -> AgentJob {
    job(spec, json!({ "phase": "Succeeded", "activeRun": 1, "completionTime": "2026-01-01T00:59:55Z" }))
}

#[test]
fn the_pod_of_a_finished_job_may_end_by_itself() {
    let pods = [pod(1, AgentContainer::Running)];
    let recent = observed(&[run(1, ended("Succeeded", None, "Runner"))], &pods);
    assert_eq!(decide(&over(json!({})), &recent).actions, []);
    let mut long_ago = ended("Succeeded", None, "Runner");
    long_ago["status"]["termination"]["time"] = json!("2026-01-01T00:50:00Z");
    assert_eq!(decide(&over(json!({})), &observed(&[run(1, long_ago)], &pods)).actions, [delete(1)]);
}

#[test]
fn a_job_is_deleted_when_its_ttl_has_expired() {
    let ended = |at: &str| {
        let status = json!({ "phase": "Succeeded", "completionTime": at });
        decide(&job(json!({ "ttlSecondsAfterFinished": 60 }), status), &ObservedState::default())
    };
    assert_eq!(ended("2026-01-01T00:59:30Z").requeue, Some(Duration::from_secs(30)));
    assert_eq!(ended("2026-01-01T00:58:00Z").actions, [Action::DeleteJob { unarchived: None }]);
    // A clock that is behind makes nothing expire early.
    assert_eq!(ended("2026-01-01T02:00:00Z").requeue, Some(Duration::from_secs(60)));
}

/// The caches lack it, and a status write replaces the whole status.
#[test]
fn no_later_write_loses_the_result_of_a_job_that_has_ended() {
    let large = json!("x".repeat(5000));
    let cached = |mut run: AgentRun| {
        run.trim();
        run
    };
    let mut end = ended("Succeeded", None, "Runner");
    end["status"]["termination"]["result"] = large.clone();
    let runs = [run(1, started()), run(1, end)].map(cached);
    let job = job(json!({ "ttlSecondsAfterFinished": 60 }), json!({ "activeRun": 1, "phase": "Running" }));
    // What is missing is read before the write, which fails otherwise.
    let whole = |mut job: AgentJob| {
        let status = job.status.as_mut().unwrap();
        assert!(serde_json::to_value(&*status).is_err());
        status.result = Some(RawJson::from(&large));
        job
    };
    let (mut job, _) = next(&job, &observed(&runs[..1], &[]));
    for changed in [json!({}), json!({ "ttlSecondsAfterFinished": 90 }), json!({ "runHistoryLimit": 0 })] {
        let mut spec = serde_json::to_value(&job.spec).unwrap();
        json_patch::merge(&mut spec, &changed);
        job.spec = serde_json::from_value(spec).unwrap();
        job.metadata.generation = job.metadata.generation.map(|g| g + 1);
        let (after, plan) = next(&job, &observed(&runs[1..], &[]));
        assert_eq!(
            (plan.status.phase, plan.status.observed_generation),
            (Some(Phase::Succeeded), after.metadata.generation)
        );
        let written = whole(after);
        assert_eq!(
            decide(&written, &observed(&runs[1..], &[])).status,
            written.status.clone().unwrap(),
            "by a whole copy"
        );
        job = AgentJob { spec: job.spec.clone(), ..written };
        job.status.as_mut().unwrap().result.as_mut().unwrap().trim_large();
        assert_eq!(decide(&job, &observed(&runs[1..], &[])).status, job.status.clone().unwrap(), "by a cached one");
    }
}

#[test]
fn a_job_waits_for_the_archive_before_it_is_deleted_but_not_for_ever() {
    let patience = Duration::from_secs(600);
    let ended = |at: &str, archived: bool, patience: Duration| {
        let status = json!({ "phase": "Succeeded", "completionTime": at });
        let mut job = job(json!({ "ttlSecondsAfterFinished": 60 }), status);
        if archived {
            job.metadata.annotations = Some([(names::ANNOTATION_ARCHIVED.into(), NOW.into())].into());
        }
        let plan = planned_beside_a_server(&job, &ObservedState::default(), false, patience);
        (plan.actions, plan.requeue)
    };
    let deleted = |unarchived| (vec![Action::DeleteJob { unarchived }], None);
    // Its time is over for a minute.
    assert_eq!(ended("2026-01-01T00:58:00Z", true, patience), deleted(None));
    assert_eq!(ended("2026-01-01T00:58:00Z", false, patience), (vec![], Some(Duration::from_secs(540))));
    assert_eq!(ended("2026-01-01T00:58:00Z", false, Duration::ZERO), deleted(None));
    // And for eleven.
    assert_eq!(ended("2026-01-01T00:48:00Z", false, patience), deleted(Some(patience)));
    assert_eq!(ended("2026-01-01T00:48:00Z", true, patience), deleted(None));
    // Being in the archive makes nothing expire early.
    assert_eq!(ended("2026-01-01T00:59:30Z", true, patience), (vec![], Some(Duration::from_secs(30))));
}

#[test]
fn history_is_trimmed_while_the_job_runs_too() {
    let closed = |n: i32| run(n, ended("Failed", Some("AgentFailed"), "Runner"));
    let runs: Vec<AgentRun> = (1..=4).map(closed).chain([run(5, started())]).collect();
    let pods: Vec<PodView> =
        (1..=4).map(|n| PodView { ended: true, uid: "p1".into(), ..pod(n, AgentContainer::Waiting) }).collect();
    let spec = json!({ "runHistoryLimit": 2, "failedPodsHistoryLimit": 1 });
    let plan = decide(&job(spec, json!({ "activeRun": 5, "phase": "Running" })), &observed(&runs, &pods));
    let runs: Vec<_> = plan.actions.iter().filter(|a| matches!(a, Action::DeleteRun { .. })).collect();
    let pods: Vec<_> = plan.actions.iter().filter(|a| matches!(a, Action::DeletePod { .. })).collect();
    assert_eq!((runs.len(), pods.len()), (2, 3));
}

#[test]
fn a_run_that_was_created_anew_under_an_old_number_is_closed() {
    let runs = [run(1, granted()), run(2, started())];
    let plan = decide(&job(json!({}), json!({ "activeRun": 2, "phase": "Running" })), &observed(&runs, &[]));
    assert_eq!(closes(&plan), [(1, "Superseded".to_string())]);
    // And one of a job that has ended.
    let plan = decide(&over(json!({})), &observed(&[run(1, granted())], &[]));
    assert_eq!((closes(&plan), plan.status.phase), (vec![(1, "Superseded".into())], Some(Phase::Succeeded)));
}

#[test]
fn a_deletion_waits_for_the_workflow_but_not_for_ever() {
    let deleted = |at: &str, answer: Option<WorkflowSnapshot>| {
        let status = json!({ "workflow": { "id": "w", "namespace": "t" } });
        let mut job = job(json!({ "executionMode": "Temporal" }), status);
        job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
        job.metadata.deletion_timestamp = Some(Time(at.parse().unwrap()));
        decide(&job, &ObservedState { answer, ..ObservedState::default() }).actions
    };
    let asked = deleted("2026-01-01T00:59:58Z", None);
    assert!(matches!(&asked[..], [Action::Signal(r), Action::QueryWorkflow] if r.desired == DesiredState::Cancelled));
    let closed = WorkflowSnapshot { closed: Some(Closed::Cancelled), ..WorkflowSnapshot::default() };
    assert_eq!(deleted("2026-01-01T00:59:58Z", Some(closed)), [Action::RemoveFinalizer]);
    assert_eq!(deleted("2026-01-01T00:58:00Z", None), [Action::RemoveFinalizer]);
}

#[test]
fn a_deleted_jobs_run_that_went_first_keeps_no_workflow_waiting() {
    let status = json!({ "workflow": { "id": "w", "namespace": "t" }, "activeRun": 1 });
    let mut job = job(json!({ "executionMode": "Temporal" }), status);
    job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    job.metadata.deletion_timestamp = Some(Time("2026-01-01T00:59:58Z".parse().unwrap()));
    let missing = decide(&job, &ObservedState::default());
    assert!(missing.actions.contains(&Action::CompleteMissing { number: 1 }));
    let there = decide(&job, &observed(&[run(1, started())], &[]));
    assert!(!there.actions.contains(&Action::CompleteMissing { number: 1 }));
}

#[test]
fn missing_events_are_said_and_stay_said() {
    let said = |plan: &Plan| plan.status.conditions.iter().any(|c| c.type_ == "EventsComplete");
    let closed = |number: i32, missing: Value| {
        let mut closed = ended("Failed", Some("AgentFailed"), "Runner");
        closed["status"]["termination"]["eventsMissing"] = missing;
        run(number, closed)
    };
    let mut job = over(json!({}));
    assert!(!said(&decide(&job, &observed(&[closed(1, Value::Null)], &[]))), "koco doesn't know that there are all");
    let plan = decide(&job, &observed(&[closed(1, json!(3)), closed(2, Value::Null), closed(3, json!(4))], &[]));
    let (status, reason, message) = condition(&plan, "EventsComplete");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "EventsMissing"));
    assert!(message.starts_with("7 events") && message.ends_with("run 3"), "{message}");
    job.status = Some(plan.status);
    let later = decide(&job, &observed(&[closed(4, Value::Null)], &[]));
    assert!(said(&later), "also when those runs are no longer kept");
}

#[test]
fn that_all_events_are_stored_is_said_at_the_jobs_end() {
    let closed = |number: i32, events: Value, started: bool| {
        let mut closed = ended("Succeeded", None, "Runner");
        closed["status"]["termination"]["events"] = events;
        closed["status"]["termination"]["started"] = json!(started);
        run(number, closed)
    };
    let mut job = over(json!({}));
    job.status.as_mut().unwrap().active_run = Some(2);
    let said = |runs: &[AgentRun]| {
        let plan = decide(&job, &observed(runs, &[]));
        plan.status
            .conditions
            .iter()
            .find(|c| c.type_ == "EventsComplete")
            .map(|c| (c.status.clone(), c.message.clone()))
    };
    let all = said(&[closed(1, json!(3), true), closed(2, json!(4), true)]).unwrap();
    assert_eq!(all, ("True".into(), "all 7 events of its runs are stored".into()));
    let unstarted = said(&[closed(1, Value::Null, false), closed(2, json!(4), true)]).unwrap();
    assert_eq!(unstarted.0, "True");
    let lost = said(&[closed(1, Value::Null, true), closed(2, json!(4), true)]).unwrap();
    assert!(lost.0 == "Unknown" && lost.1.contains("run 1 "), "{lost:?}");
    assert_eq!(said(&[closed(2, json!(4), true)]).unwrap().0, "Unknown", "run 1 is no longer kept");
    assert_eq!(said(&[closed(1, Value::Null, true), closed(2, Value::Null, true)]), None, "no events are kept");

    // A run that was only recorded so that nothing starts under its number.
    let mut never = run(2, json!({ "spec": { "identity": { "tombstone": true } } }));
    never.status = None;
    assert_eq!(said(&[closed(1, json!(3), true), never]).unwrap().0, "True");

    // And stays said, of each generation, when the runs are no longer kept.
    job.status = Some(decide(&job, &observed(&[closed(1, json!(3), true), closed(2, json!(4), true)], &[])).status);
    job.metadata.generation = Some(9);
    let later = decide(&job, &observed(&[closed(2, json!(4), true)], &[]));
    let still = later.status.conditions.iter().find(|c| c.type_ == "EventsComplete").unwrap();
    assert_eq!((still.status.as_str(), still.observed_generation), ("True", Some(9)));
    assert_eq!(
        (still.reason.as_str(), still.message.as_str()),
        ("EventsStored", "all 7 events of its runs are stored")
    );
}
