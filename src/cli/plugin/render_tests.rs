//! What [`super`] writes.

use serde_json::json;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn job() -> AgentJob {
    serde_json::from_value(json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentJob",
        "metadata": { "name": "x", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "entryPoint": "e", "desiredState": "Paused", "template": {} },
        "status": {
            "phase": "Paused",
            "attempt": 2,
            "runnerPod": "x-abcde-2",
            "startTime": "2026-01-01T00:00:10Z",
            "resolved": {
                "executionMode": "Temporal",
                "retryPolicy": {
                    "maximumAttempts": 3, "initialInterval": "1s", "backoffCoefficient": 2.0, "maximumInterval": "100s",
                },
                "timeouts": { "heartbeat": "120s", "pending": "10m" },
            },
            "workflow": { "id": "agentjob-c-u", "namespace": "default", "status": "running", "isPaused": true },
            "error": { "type": "AgentFailed", "message": "exit code 1" },
            "conditions": [
                { "type": "Ready", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" },
                { "type": "Paused", "status": "True", "reason": "Paused", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            ],
            "control": {
                "desired": { "state": "Paused", "time": "2026-01-01T00:04:00Z" },
                "sent": { "state": "Paused", "id": "2", "time": "2026-01-01T00:04:00Z" },
                "command": { "state": "Paused", "seq": 1, "time": "2026-01-01T00:04:00Z" },
                "confirmed": { "state": "Frozen", "seq": 1, "epoch": 2, "time": "2026-01-01T00:04:01Z" },
            },
        },
    }))
    .unwrap()
}

fn happened(second: i64, reason: &str, count: i32) -> Happened {
    let at = Timestamp::from_second(at("2026-01-01T00:00:00Z").as_second() + second).unwrap();
    Happened { at, kind: "Normal".into(), reason: reason.into(), message: "m".into(), count }
}

#[test]
fn a_paused_job() {
    let text = view(&job(), &[happened(240, "Paused", 2)], at("2026-01-01T00:05:00Z"));
    let wanted = "\
Job:       n/x
Phase:     Paused
Mode:      Temporal, pausePolicy Freeze
Attempt:   2 of 3
Times:     created 5m0s ago, started 4m50s ago
Pod:       x-abcde-2
Workflow:  agentjob-c-u (running, is_paused)
Control:
  desired    Paused       60s ago
  sent       Paused       60s ago
  command    Paused       60s ago  #1
  confirmed  Frozen       59s ago  #1
Error:     AgentFailed: exit code 1
Events:
    60s  Normal   Paused          m (x2)
";
    assert_eq!(text, wanted);
    assert_eq!(
        summary(&job()),
        "Paused attempt=2 pod=x-abcde-2 desired=Paused sent=Paused command=Paused#1 confirmed=Frozen#1 error=AgentFailed"
    );
}

#[test]
fn a_job_that_nobody_has_seen_yet() {
    let mut job = job();
    job.status = None;
    let text = view(&job, &[], at("2026-01-01T00:00:01Z"));
    assert!(text.contains("Phase:     not seen by the operator yet\n"), "{text}");
    assert!(text.contains("Attempt:   none started yet\n"), "{text}");
    assert_eq!(summary(&job), "- attempt=0 pod=-");
}

#[test]
fn a_command_from_elsewhere_and_an_old_confirmation_say_so() {
    let mut job = job();
    let control = job.status.as_mut().unwrap().control.as_mut().unwrap();
    let command = control.command.as_mut().unwrap();
    (command.state, command.seq, command.time.0) = (DesiredState::Running, 2, at("2026-01-01T00:04:30Z"));
    let text = view(&job, &[], at("2026-01-01T00:05:00Z"));
    assert!(text.contains("command    Running      30s ago  #2  (from elsewhere"), "{text}");
    assert!(text.contains("confirmed  Frozen       59s ago  #1  (not the newest command)"), "{text}");
}

#[test]
fn conditions_are_shown_where_they_matter() {
    let mut job = job();
    for c in &mut job.status.as_mut().unwrap().conditions {
        (c.status, c.reason, c.message) = ("False".into(), "Because".into(), "of this".into());
    }
    let text = view(&job, &[], at("2026-01-01T00:05:00Z"));
    assert!(text.contains("Ready:     False, Because: of this\n"), "{text}");
    assert!(text.contains("Paused:    False, Because: of this\n"), "{text}");
}

#[test]
fn long_things_are_cut() {
    let mut job = job();
    job.status.as_mut().unwrap().result = Some(json!("ä".repeat(1000)));
    let events: Vec<_> = (0..20).map(|i| happened(i, &format!("R{i}"), 1)).collect();
    let text = view(&job, &events, at("2026-01-01T00:05:00Z"));
    assert!(text.contains("… (2002 bytes)\n"), "{text}");
    assert!(!text.contains("R9 ") && text.contains("R10 ") && text.contains("R19 "), "{text}");
}

#[test]
fn ages_are_short() {
    let of = |s: i64| age(Timestamp::from_second(0).unwrap(), Timestamp::from_second(s).unwrap());
    assert_eq!([of(-3), of(5), of(125), of(3600), of(20_000), of(200_000)], ["0s", "5s", "2m5s", "60m", "5h", "2d"]);
}
