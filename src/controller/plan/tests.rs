//! The rules of Direct mode, pending pods, ends and deletions, each from a job and what was seen of it.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::pods::AgentContainer;

const NOW: &str = "2026-01-01T01:00:00Z";

/// A job with a status, over a minimal spec.
fn job(spec: Value, status: Value) -> AgentJob {
    let mut whole = json!({ "entryPoint": "e", "template": { "spec": { "containers": [] } } });
    json_patch::merge(&mut whole, &spec);
    let mut job: AgentJob = serde_json::from_value(json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
        "metadata": { "name": "a", "namespace": "n", "uid": "u", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": whole,
    }))
    .unwrap();
    if !status.is_null() {
        job.status = Some(serde_json::from_value(status).unwrap());
    }
    job
}

fn decide(job: &AgentJob, seen: &Seen) -> Plan {
    planned(job, seen, Time(NOW.parse::<Timestamp>().unwrap()), true)
}

/// Plans with the defaults of an operator that is told nothing. For the tests of all of these modules.
pub(super) fn planned(job: &AgentJob, seen: &Seen, now: Time, temporal_configured: bool) -> Plan {
    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        defaults: Defaults,
    }
    let defaults = <Arguments as clap::Parser>::parse_from(["koco"]).defaults;
    let ground = Ground { defaults: &defaults, cluster: "c", temporal_namespace: "t", temporal_configured, now };
    plan(job, seen, &ground)
}

/// Plans again on what was planned, as the next reconcile would.
fn next(job: &AgentJob, seen: &Seen) -> (AgentJob, Plan) {
    let planned = decide(job, seen);
    (AgentJob { status: Some(planned.status.clone()), ..job.clone() }, planned)
}

fn pod(epoch: i32, agent: AgentContainer) -> PodView {
    PodView {
        name: format!("a-{epoch}"),
        uid: format!("p{epoch}"),
        epoch,
        created: Some(Time("2026-01-01T00:59:00Z".parse().unwrap())),
        agent,
        ..PodView::default()
    }
}

fn seen(pods: &[PodView]) -> Seen {
    Seen { pods: pods.to_vec(), ..Seen::default() }
}

fn claim(permitted: bool) -> Value {
    let mut claim = json!({ "epoch": 1, "attempt": 1, "podName": "a-1", "podUID": "p1" });
    if permitted {
        claim["permit"] = json!({ "time": "2026-01-01T00:59:30Z", "offer": 0 });
    }
    claim
}

fn runner() -> Value {
    json!({ "epoch": 1, "readyTime": "2026-01-01T00:59:20Z" })
}

fn outcome(kind: &str, error: Option<&str>) -> Value {
    let mut outcome = json!({ "epoch": 1, "kind": kind, "time": "2026-01-01T00:00:00Z", "started": true });
    if let Some(error) = error {
        outcome["error"] = json!({ "type": error, "message": "m" });
    }
    outcome
}

#[test]
fn the_claim_is_written_before_the_pod_is_created() {
    let (claimed, first) = next(&job(json!({}), Value::Null), &Seen::default());
    assert_eq!(first.actions, []);
    assert_eq!(first.status.claim.as_ref().map(|c| c.epoch), Some(1));
    let (_, second) = next(&claimed, &Seen::default());
    assert_eq!(second.actions, [Action::CreatePod]);
}

#[test]
fn nothing_is_written_twice() {
    let running = job(json!({}), json!({ "claim": claim(true), "runner": runner() }));
    let pods = seen(&[pod(1, AgentContainer::Running)]);
    let (settled, _) = next(&running, &pods);
    let (again, plan) = next(&settled, &pods);
    assert_eq!(again.status, settled.status);
    assert_eq!((plan.actions, plan.notes), (vec![], vec![]));
}

#[test]
fn the_permit_waits_for_the_runner_and_for_the_wish() {
    let pods = seen(&[pod(1, AgentContainer::Running)]);
    let permit = |spec: Value, runner: Value| {
        let plan = decide(&job(spec, json!({ "claim": claim(false), "runner": runner })), &pods);
        (plan.status.claim.unwrap().permit.is_some(), plan.status.phase.unwrap())
    };
    assert_eq!(permit(json!({}), Value::Null), (false, Phase::Pending));
    assert_eq!(permit(json!({}), runner()), (true, Phase::Running));
    assert_eq!(permit(json!({ "desiredState": "Paused" }), runner()), (false, Phase::Paused));
}

#[test]
fn paused_only_when_the_runner_has_confirmed_it() {
    let phase = |confirmed: Value| {
        let status = json!({ "claim": claim(true), "runner": runner(), "control": {
            "command": { "state": "Paused", "seq": 3, "time": "2026-01-01T00:59:40Z" }, "confirmed": confirmed } });
        let job = job(json!({ "desiredState": "Paused" }), status);
        decide(&job, &seen(&[pod(1, AgentContainer::Running)])).status.phase.unwrap()
    };
    let said = |state: &str, seq: i64, epoch: i32| json!({ "state": state, "seq": seq, "epoch": epoch, "time": "2026-01-01T00:59:41Z" });
    assert_eq!(phase(Value::Null), Phase::Running);
    assert_eq!(phase(said("Running", 3, 1)), Phase::Running);
    assert_eq!(phase(said("Frozen", 2, 1)), Phase::Running);
    assert_eq!(phase(said("Frozen", 3, 1)), Phase::Paused);
}

#[test]
fn a_missing_pod_counts_only_when_the_api_server_says_so() {
    let running = job(json!({}), json!({ "claim": claim(true), "runner": runner() }));
    assert_eq!(decide(&running, &seen(&[])).status.outcome, None);
    let live = Seen { pods_are_live: true, ..Seen::default() };
    let error = decide(&running, &live).status.outcome.unwrap().error.unwrap();
    assert_eq!(error.kind, "Disrupted");
}

#[test]
fn an_outcome_is_written_before_anything_follows_from_it() {
    let running = job(json!({}), json!({ "claim": claim(true), "runner": runner() }));
    let ended = AgentContainer::Ended { exit_code: 137, reason: "OOMKilled".into(), ending: None };
    let (written, first) = next(&running, &seen(&[pod(1, ended.clone())]));
    assert_eq!(first.status.phase, None);
    let (_, second) = next(&written, &seen(&[pod(1, ended)]));
    assert_eq!(second.status.phase, Some(Phase::Failed));
    assert_eq!(second.status.error.unwrap().kind, "OOMKilled");
}

#[test]
fn direct_mode_has_one_attempt() {
    let phase = |spec: Value, outcome: Value| {
        let status = json!({ "claim": claim(true), "runner": runner(), "outcome": outcome });
        let plan = decide(&job(spec, status), &seen(&[]));
        (plan.status.phase.unwrap(), plan.status.claim.unwrap().epoch)
    };
    assert_eq!(phase(json!({}), outcome("Succeeded", None)), (Phase::Succeeded, 1));
    assert_eq!(phase(json!({}), outcome("Failed", Some("AgentFailed"))), (Phase::Failed, 1));
    assert_eq!(phase(json!({}), outcome("Failed", Some("Disrupted"))), (Phase::Failed, 1));
    let ignore = json!({ "disruptionPolicy": "Ignore" });
    assert_eq!(phase(ignore, outcome("Failed", Some("Disrupted"))), (Phase::Retrying, 2));
    assert_eq!(phase(json!({ "desiredState": "Cancelled" }), outcome("Cancelled", None)), (Phase::Cancelled, 1));
    assert_eq!(phase(json!({ "desiredState": "Cancelled" }), outcome("Succeeded", None)), (Phase::Succeeded, 1));
}

#[test]
fn an_evicted_agent_goes_on_in_the_same_attempt() {
    let mut evicted = outcome("Evicted", None);
    evicted["activeMillis"] = json!(1500);
    let status = json!({ "claim": claim(true), "runner": runner(), "outcome": evicted });
    let spec = |state: &str| json!({ "pausePolicy": "Evict", "desiredState": state });
    assert_eq!(decide(&job(spec("Paused"), status.clone()), &seen(&[])).status.phase, Some(Phase::Paused));
    let claim = decide(&job(spec("Running"), status), &seen(&[])).status.claim.unwrap();
    assert_eq!((claim.epoch, claim.attempt, claim.resumed, claim.active_millis), (2, 1, true, 1500));
}

#[test]
fn a_pod_that_does_not_come_up_says_why_and_has_its_time() {
    let mut waiting = pod(1, AgentContainer::Waiting);
    waiting.trouble = Some(("ErrImagePull".into(), "no such image".into()));
    let status = json!({ "claim": claim(false) });
    let short = job(json!({ "timeouts": { "pending": "30s" } }), status.clone());
    let plan = decide(&short, &seen(std::slice::from_ref(&waiting)));
    assert_eq!(plan.status.phase, Some(Phase::Failed));
    assert_eq!(plan.status.error.unwrap().kind, "PendingTimeout");
    let long = decide(&job(json!({}), status), &seen(&[waiting]));
    let stalled = long.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "ErrImagePull"));
    assert!(stalled.message.contains("no such image"));
    assert_eq!(long.requeue, Some(Duration::from_secs(540)));
}

#[test]
fn a_gate_stops_the_clock() {
    let mut gated = pod(1, AgentContainer::Waiting);
    gated.gated = true;
    let job = job(json!({ "timeouts": { "pending": "1s" } }), json!({ "claim": claim(false) }));
    let plan = decide(&job, &seen(&[gated]));
    assert_eq!((plan.status.phase, plan.requeue), (Some(Phase::Pending), None));
}

#[test]
fn the_pod_of_a_finished_job_may_end_by_itself() {
    let mut recent = outcome("Succeeded", None);
    recent["time"] = json!(NOW);
    let status = |outcome: Value| json!({ "claim": claim(true), "runner": runner(), "outcome": outcome });
    let pods = seen(&[pod(1, AgentContainer::Running)]);
    assert_eq!(decide(&job(json!({}), status(recent)), &pods).actions, []);
    let late = decide(&job(json!({}), status(outcome("Succeeded", None))), &pods);
    assert_eq!(late.actions, [Action::DeletePod { name: "a-1".into(), uid: "p1".into() }]);
}

#[test]
fn a_job_that_is_kept_for_a_time_goes_when_it_is_over() {
    let ended = |at: &str| {
        let status = json!({ "phase": "Succeeded", "completionTime": at });
        decide(&job(json!({ "ttlSecondsAfterFinished": 60 }), status), &seen(&[]))
    };
    assert_eq!(ended("2026-01-01T00:59:30Z").requeue, Some(Duration::from_secs(30)));
    assert_eq!(ended("2026-01-01T00:58:00Z").actions, [Action::DeleteJob]);
    // A clock that is behind makes nothing expire early.
    assert_eq!(ended("2026-01-01T02:00:00Z").requeue, Some(Duration::from_secs(60)));
}

#[test]
fn a_deletion_waits_for_the_workflow_but_not_for_ever() {
    let deleted = |at: &str, answer: Option<Answer>| {
        let status = json!({ "workflow": { "id": "w", "namespace": "t" } });
        let mut job = job(json!({ "executionMode": "Temporal" }), status);
        job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
        job.metadata.deletion_timestamp = Some(Time(at.parse().unwrap()));
        decide(&job, &Seen { answer, ..Seen::default() }).actions
    };
    let asked = deleted("2026-01-01T00:59:58Z", None);
    assert!(matches!(&asked[..], [Action::Signal(r), Action::Ask] if r.desired == DesiredState::Cancelled));
    let closed = Answer { closed: Some(Closed::Cancelled), ..Answer::default() };
    assert_eq!(deleted("2026-01-01T00:59:58Z", Some(closed)), [Action::RemoveFinalizer]);
    assert_eq!(deleted("2026-01-01T00:58:00Z", None), [Action::RemoveFinalizer]);
}

#[test]
fn nothing_is_submitted_before_the_finalizer_is_on() {
    let bare = job(json!({ "executionMode": "Temporal" }), Value::Null);
    assert_eq!(decide(&bare, &Seen::default()).actions, [Action::AddFinalizer]);
    let mut ready = bare;
    ready.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    let plan = decide(&ready, &Seen::default());
    assert!(matches!(&plan.actions[..], [Action::StartWorkflow(_), Action::Ask]));
    // What Temporal did not take is not on record as submitted.
    let trouble = Some(("TemporalUnavailable".to_string(), "no".to_string()));
    let failed = decide(&ready, &Seen { temporal_trouble: trouble, ..Seen::default() });
    assert_eq!(failed.status.workflow, None);
    let condition = failed.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "TemporalUnavailable"));
}

#[test]
fn conditions_say_what_is_not_confirmed_yet() {
    let condition = |status: Value, kind: &str| {
        let plan =
            decide(&job(json!({}), status), &Seen { pods: vec![pod(1, AgentContainer::Running)], ..Seen::default() });
        let found = plan.status.conditions.into_iter().find(|c| c.type_ == kind).unwrap();
        (found.status, found.reason)
    };
    let time = "2026-01-01T00:59:00Z";
    let status = json!({
        "claim": { "epoch": 1, "attempt": 1, "podName": "a-1", "podUID": "p1", "permit": { "time": time, "offer": 0 } },
        "runner": { "epoch": 1, "readyTime": time },
        "control": {
            "command": { "state": "Running", "seq": 2, "time": time },
            "confirmed": { "state": "Frozen", "seq": 1, "epoch": 1, "time": time },
        },
    });
    let said = |status: &str, reason: &str| (status.to_string(), reason.to_string());
    assert_eq!(condition(status.clone(), "Paused"), said("False", "Resuming"));
    assert_eq!(condition(status.clone(), "Succeeded"), said("Unknown", "Running"));
    let mut confirmed = status.clone();
    confirmed["control"]["confirmed"] = json!({ "state": "Running", "seq": 2, "epoch": 1, "time": time });
    assert_eq!(condition(confirmed, "Paused"), said("False", "NotPaused"));
    let mut silent = status;
    silent["runner"]["silentSince"] = json!(time);
    assert_eq!(condition(silent, "Succeeded"), said("Unknown", "RunnerSilent"));
}

#[test]
fn a_claim_that_forgot_its_pod_finds_it_again() {
    let mut status = json!({ "claim": claim(true) });
    status["claim"]["podUID"] = Value::Null;
    let plan = decide(&job(json!({}), status.clone()), &seen(&[pod(1, AgentContainer::Running)]));
    assert_eq!(plan.status.claim.unwrap().pod_uid.as_deref(), Some("p1"));
    assert!(!plan.actions.contains(&Action::CreatePod));
    // Another name, or another epoch: not its own.
    let stranger = PodView { name: "b".into(), ..pod(1, AgentContainer::Running) };
    for pods in [vec![stranger], vec![pod(2, AgentContainer::Running)]] {
        let plan = decide(&job(json!({}), status.clone()), &seen(&pods));
        assert_eq!(plan.status.claim.unwrap().pod_uid, None);
    }
}

#[test]
fn a_pod_that_never_ends_is_told() {
    let status = json!({ "attempt": 1, "claim": { "epoch": 2, "attempt": 2, "podName": "a-2" } });
    let seen = |gone_by: &str| {
        let gone_by = Some(Time(gone_by.parse().unwrap()));
        Seen { pods: vec![PodView { gone_by, ..pod(1, AgentContainer::Running) }], ..Seen::default() }
    };
    let stalled = |plan: &Plan| plan.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap().clone();
    let soon = decide(&job(json!({}), status.clone()), &seen("2026-01-01T01:00:20Z"));
    assert_eq!(stalled(&soon).reason, "Moving");
    assert_eq!(soon.requeue, Some(Duration::from_secs(35)));
    let late = decide(&job(json!({}), status), &seen("2026-01-01T00:50:00Z"));
    let said = stalled(&late);
    assert_eq!(said.reason, "PodNotEnding");
    assert!(said.message.contains("pod a-1 was to end by 2026-01-01T00:50:00Z"), "{}", said.message);
    assert!(!late.actions.contains(&Action::CreatePod));
}
