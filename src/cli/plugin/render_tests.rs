//! Tests of [`super`].

use serde_json::{Value, json};

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
            "activeRun": 2,
            "runnerPod": "x-abcde-2-r4nd0",
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
                "confirmed": { "state": "Frozen", "generation": 1, "run": 2, "time": "2026-01-01T00:04:01Z" },
            },
        },
    }))
    .unwrap()
}

fn run(number: i32, spec: Value, status: Value) -> AgentRun {
    let mut run = json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentRun",
        "metadata": { "name": format!("x-{number}"), "namespace": "n" },
        "spec": {
            "identity": {
                "jobName": "x", "jobUID": "u", "number": number, "attempt": number, "podName": format!("x-abcde-{number}-r4nd0"),
                "executionMode": "Temporal", "heartbeat": "120s",
            },
            "grant": { "time": format!("2026-01-01T00:0{number}:00Z"), "binding": 0 },
        },
        "status": { "readyTime": "2026-01-01T00:00:10Z" },
    });
    json_patch::merge(&mut run["spec"], &spec);
    json_patch::merge(&mut run["status"], &status);
    serde_json::from_value(run).unwrap()
}

fn runs() -> Vec<AgentRun> {
    let termination = json!({
        "type": "Failed", "source": "Runner", "time": "2026-01-01T00:01:30Z", "started": true, "exitCode": 1,
        "error": { "type": "AgentFailed", "message": "exit code 1" }, "duration": "30s",
    });
    let command = json!({ "command": { "state": "Paused", "generation": 1, "time": "2026-01-01T00:04:00Z" } });
    let acknowledged = json!({ "acknowledged": {
        "binding": 0, "generation": 1, "state": "Frozen", "time": "2026-01-01T00:04:01Z",
    } });
    vec![run(1, json!({}), json!({ "termination": termination })), run(2, command, acknowledged)]
}

fn happened(second: i64, reason: &str, count: i32) -> Happened {
    let at = Timestamp::from_second(at("2026-01-01T00:00:00Z").as_second() + second).unwrap();
    Happened { at, kind: "Normal".into(), reason: reason.into(), message: "m".into(), count }
}

#[test]
fn a_paused_job() {
    let text = view(&job(), &runs(), &[happened(240, "Paused", 2)], at("2026-01-01T00:05:00Z"));
    let wanted = "\
Job:       n/x
Phase:     Paused
Mode:      Temporal, pausePolicy Freeze
Attempt:   2 of 3
Times:     created 5m0s ago, started 4m50s ago
Pod:       x-abcde-2-r4nd0
Workflow:  agentjob-c-u (running, is_paused)
Control:
  desired       Paused       60s ago
  sent          Paused       60s ago
  command       Paused       60s ago  #1
  acknowledged  Frozen       59s ago  #1
Error:     AgentFailed: exit code 1
Runs:
  RUN  ATTEMPT  POD              ENDED                 EXIT  SOURCE  STARTED   DURATION
  1    1        x-abcde-1-r4nd0  Failed (AgentFailed)  1     Runner  4m0s ago  30s
  2    2        x-abcde-2-r4nd0  not yet (Frozen)      -     -       3m0s ago  -
Events:
    60s  Normal   Paused          m (x2)
";
    assert_eq!(text, wanted);
    assert_eq!(
        summary(&job(), runs().last()),
        "Paused attempt=2 pod=x-abcde-2-r4nd0 desired=Paused sent=Paused run=2 command=Paused#1 acknowledged=Frozen#1 \
         error=AgentFailed"
    );
}

#[test]
fn a_job_without_a_status() {
    let mut job = job();
    job.status = None;
    let text = view(&job, &[], &[], at("2026-01-01T00:00:01Z"));
    assert!(text.contains("Phase:     not seen by the operator yet\n"), "{text}");
    assert!(text.contains("Attempt:   none started yet\n"), "{text}");
    assert!(!text.contains("Runs:") && !text.contains("Control:"), "{text}");
    assert_eq!(summary(&job, None), "- attempt=0 pod=-");
}

#[test]
fn a_command_from_elsewhere_and_an_old_answer_say_so() {
    let mut runs = runs();
    let command = runs[1].spec.command.as_mut().unwrap();
    (command.state, command.generation, command.time.0) = (DesiredState::Running, 2, at("2026-01-01T00:04:30Z"));
    let text = view(&job(), &runs, &[], at("2026-01-01T00:05:00Z"));
    assert!(text.contains("command       Running      30s ago  #2  (from a signal"), "{text}");
    assert!(text.contains("acknowledged  Frozen       59s ago  #1  (not the newest command)"), "{text}");
}

#[test]
fn a_start_that_answers_no_command_is_no_acknowledgement() {
    let started = json!({ "acknowledged": { "binding": 0, "generation": 0, "state": "Waiting", "time": "2026-01-01T00:04:01Z" } });
    let command = json!({ "command": { "state": "Paused", "generation": 1, "time": "2026-01-01T00:04:00Z" } });
    for spec in [json!({}), command] {
        let run = run(2, spec, started.clone());
        let text = view(&job(), std::slice::from_ref(&run), &[], at("2026-01-01T00:05:00Z"));
        assert!(text.contains("not yet (Running)") && !text.contains("acknowledged"), "{text}");
        assert!(!summary(&job(), Some(&run)).contains("acknowledged"));
    }
}

#[test]
fn a_run_says_how_far_it_has_come() {
    let tombstone = json!({ "identity": { "tombstone": true }, "grant": null });
    let refused = json!({ "readyTime": null, "createError": "quota" });
    let rows = [
        (json!({}), json!({ "readyTime": null }), "not yet (no runner)"),
        (json!({}), refused, "not yet (the pod is refused)"),
        (json!({ "grant": null }), json!({}), "not yet (no start grant)"),
        (json!({}), json!({ "unresponsiveSince": "2026-01-01T00:04:00Z" }), "not yet (its runner is unresponsive)"),
        (tombstone, json!({ "readyTime": null }), "never created, or deleted"),
    ];
    for (spec, status, said) in rows {
        let text = view(&job(), &[run(3, spec, status)], &[], at("2026-01-01T00:05:00Z"));
        assert!(text.contains(said), "{said}: {text}");
    }
    let resumed = run(3, json!({ "identity": { "attempt": 2, "resumed": true } }), json!({}));
    assert!(view(&job(), &[resumed], &[], at("2026-01-01T00:05:00Z")).contains("3    2 (resumed)"));
}

#[test]
fn no_field_makes_a_line_of_its_own_or_moves_the_cursor() {
    const EVIL: &str = "x\r\nPhase:     Succeeded\x1b]52;c;ZXZpbA==\x07\u{9b}2J";
    let mut job = job();
    let status = job.status.as_mut().unwrap();
    let error = status.error.as_mut().unwrap();
    (error.kind, error.message) = (EVIL.into(), EVIL.into());
    (status.runner_pod, status.result) = (Some(EVIL.into()), Some(json!(EVIL).into()));
    for c in &mut status.conditions {
        (c.status, c.reason, c.message) = ("False".into(), EVIL.into(), EVIL.into());
    }
    let mut runs = runs();
    let end = runs[0].status.as_mut().unwrap().termination.as_mut().unwrap();
    (end.error.as_mut().unwrap().kind, end.duration) = (EVIL.into(), Some(EVIL.into()));
    runs[1].spec.identity.pod_name = EVIL.into();
    runs[1].status.as_mut().unwrap().acknowledged.as_mut().unwrap().problem = Some(EVIL.into());
    let mut event = happened(240, EVIL, 1);
    (event.message, event.kind) = (EVIL.into(), EVIL.into());
    let harmless = view(&self::job(), &self::runs(), &[happened(240, "R", 1)], at("2026-01-01T00:05:00Z"));
    let text = view(&job, &runs, &[event], at("2026-01-01T00:05:00Z"));
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert_eq!(text.lines().filter(|l| l.starts_with("Phase:")).collect::<Vec<_>>(), ["Phase:     Paused"]);
    // The two conditions that are shown now, and the result.
    assert_eq!(text.lines().count(), harmless.lines().count() + 3, "{text}");
    assert!(!summary(&job, runs.last()).chars().any(char::is_control));
}

#[test]
fn conditions_are_shown_where_they_matter() {
    let mut job = job();
    for c in &mut job.status.as_mut().unwrap().conditions {
        (c.status, c.reason, c.message) = ("False".into(), "Because".into(), "of this".into());
    }
    let text = view(&job, &[], &[], at("2026-01-01T00:05:00Z"));
    assert!(text.contains("Ready:     False, Because: of this\n"), "{text}");
    assert!(text.contains("Paused:    False, Because: of this\n"), "{text}");
    // That the job has failed is in its phase and its error.
    job.status.as_mut().unwrap().conditions[0].reason = "Failed".into();
    let text = view(&job, &[], &[], at("2026-01-01T00:05:00Z"));
    assert!(!text.contains("Ready:"), "{text}");
}

#[test]
fn long_things_are_cut() {
    let mut job = job();
    job.status.as_mut().unwrap().result = Some(json!("ä".repeat(1000)).into());
    let events: Vec<_> = (0..20).map(|i| happened(i, &format!("R{i}"), 1)).collect();
    let text = view(&job, &[], &events, at("2026-01-01T00:05:00Z"));
    assert!(text.contains("… (2002 bytes)\n"), "{text}");
    assert!(!text.contains("R9 ") && text.contains("R10 ") && text.contains("R19 "), "{text}");
}

#[test]
fn ages_are_short() {
    let of = |s: i64| age(Timestamp::from_second(0).unwrap(), Timestamp::from_second(s).unwrap());
    assert_eq!([of(-3), of(5), of(125), of(3600), of(20_000), of(200_000)], ["0s", "5s", "2m5s", "60m", "5h", "2d"]);
}

#[test]
fn what_an_agent_reports_is_shown_and_can_forge_no_line() {
    let mut job = job();
    let now = at("2026-01-01T00:05:00Z");
    assert!(!view(&job, &[], &[], now).contains("Progress:"));
    let status = job.status.as_mut().unwrap();
    status.progress = serde_json::from_value(json!({ "percent": 40, "message": "reads\nPhase: Failed",
        "usage": { "inputTokens": 12, "costMicros": 1_500_000 }, "time": "2026-01-01T00:04:00Z" }))
    .unwrap();
    status.spent = serde_json::from_value(json!({ "activeMillis": 5, "usage": { "outputTokens": 3 } })).unwrap();
    let text = view(&job, &[], &[], now);
    assert!(text.contains("Progress:  40%, reads\\nPhase: Failed (60s ago)\n"), "{text}");
    assert!(text.contains("Used:      12 input tokens, 3 output tokens, a cost of 1.5, by its own report\n"), "{text}");
    assert!(summary(&job, None).contains(" progress=40% "), "{}", summary(&job, None));
    let line = waited_for(&job);
    let line = plain(&line);
    assert!(line.ends_with(" [########------------] 40% reads\\nPhase: Failed"), "{line}");
    job.status.as_mut().unwrap().progress.as_mut().unwrap().message = Some("x".repeat(200));
    assert!(waited_for(&job).ends_with(&format!(" 40% {}…", "x".repeat(40))));
    assert_eq!((bar(-1), bar(4), bar(100)), (bar(0), bar(0), format!("[{}]", "#".repeat(20))));
    job.status.as_mut().unwrap().progress =
        serde_json::from_value(json!({ "message": "", "time": "2026-01-01T00:04:30Z" })).unwrap();
    assert!(view(&job, &[], &[], now).contains("Progress:  - (30s ago)\n"));
}
