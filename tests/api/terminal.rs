//! What `kubectl koco` writes to a terminal, where agents have filled every field that they can reach.

use std::process::Stdio;

use koco::api::{AgentRun, RunCommand, StartGrant};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{
    DEADLINE, DesiredState, Job, Test, agent,
    by_hand::{create, patch_status, run_of},
    cluster::PLUGIN,
};

/// A carriage return, a forged line, the clipboard, C1's CSI, the other direction of writing, a line separator.
const EVIL: &str = "x\r\nPhase:     Succeeded\x1b]52;c;ZXZpbA==\x07\u{9b}2J\x7f\u{202e}\u{61c}\u{2028}";

/// Exit code and all output of a command about the job.
pub async fn says(job: &Job<'_>, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(PLUGIN);
    command.args(args).args([&job.name, "-n", &job.test.namespace]);
    let command = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let done = tokio::time::timeout(DEADLINE, command).await.expect("it ends").expect("output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

/// Asserts that there is nothing in a text that a terminal would act on, and so many lines.
fn harmless(what: &str, text: &str, lines: usize) {
    let acts = |c: &char| {
        (c.is_control() && *c != '\n') || ['\u{202e}', '\u{61c}', '\u{2028}'].contains(c) // All that is in EVIL.
    };
    assert_eq!(text.chars().find(acts), None, "{what}: {text:?}");
    assert_eq!(text.lines().count(), lines, "{what}: {text}");
    assert!(text.contains(r"\r\nPhase:     Succeeded\u{1b}]52"), "{what} shows it: {text}");
}

/// A run whose fields are the agent's, and its pod, which has not started.
async fn make_run(job: &Job<'_>, number: i32, status: Value) -> AgentRun {
    let mut run = run_of(job, number, 1);
    let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    run.spec.grant = Some(StartGrant { time, binding: 0, workflow_id: None, run_id: None, activity_attempt: None });
    let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    run.spec.command = Some(RunCommand::after(None, DesiredState::Paused, 1, time));
    let run = job.test.runs().create(&PostParams::default(), &run).await.expect("a run");
    let patch = Patch::Merge(json!({ "status": status }));
    job.test.runs().patch_status(run.name(), &PatchParams::default(), &patch).await.expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_agents_write_reaches_the_terminal_as_it_is() {
    let test = Test::new().await;
    let job = test.apply(agent("anything")).await;
    let time = "2026-01-01T00:00:00Z";
    let ended = json!({ "readyTime": time, "termination": {
        "type": "Failed", "source": "Runner", "time": time, "started": true, "exitCode": 1, "duration": EVIL,
        "error": { "type": EVIL, "message": EVIL },
    } });
    make_run(&job, 1, ended).await;
    let acknowledged = json!({ "binding": 0, "generation": 1, "state": "Frozen", "time": time, "problem": EVIL });
    let run = make_run(&job, 2, json!({ "readyTime": time, "acknowledged": acknowledged })).await;
    let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": EVIL, "message": EVIL, "lastTransitionTime": time });
    patch_status(
        &test,
        "agentjob",
        &job.name,
        json!({
            "phase": "Paused", "activeRun": 2, "runnerPod": EVIL, "result": EVIL, "error": { "type": EVIL, "message": EVIL },
            "workflow": { "id": EVIL, "namespace": "default", "status": EVIL },
            "conditions": [condition("Ready", "False"), condition("Paused", "False"), condition("Stalled", "True")],
        }),
    )
    .await;
    create(
        &test,
        &json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": "evil" }, "type": EVIL, "reason": EVIL,
            "message": EVIL, "firstTimestamp": time, "lastTimestamp": time,
            "involvedObject": { "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob", "name": job.name,
                "namespace": test.namespace, "uid": job.uid },
        })
        .to_string(),
    )
    .await;

    let (code, out, err) = says(&job, &["status"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    // Six of the job, one of its workflow, three of control, three conditions, error and result, four of the runs, two of
    // the event.
    harmless("status", &out, 21);
    assert_eq!(out.lines().filter(|l| l.starts_with("Phase:")).collect::<Vec<_>>(), ["Phase:     Paused"]);

    // The agent has not started, and the kubelet's reason is the registry's words.
    create(
        &test,
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": run.spec.identity.pod_name },
            "spec": { "nodeSelector": { "example.com/no": "node" },
                "containers": [{ "name": "agent", "image": "localhost/agent:none" }] },
        })
        .to_string(),
    )
    .await;
    let waiting = json!({ "phase": "Pending", "containerStatuses": [{ "name": "agent", "image": "", "imageID": "",
        "ready": false, "restartCount": 0, "state": { "waiting": { "reason": EVIL } } }] });
    patch_status(&test, "pod", &run.spec.identity.pod_name, waiting).await;
    let (code, out, err) = says(&job, &["logs"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    harmless("logs, an error", &err, 1);

    patch_status(&test, "agentjob", &job.name, json!({ "phase": "Failed" })).await;
    let (code, out, _) = says(&job, &["status", "--watch"]).await;
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    harmless("status --watch", &out, lines.len());
    let forged = |line: &&&str| {
        !line.starts_with("20") || !line.contains(if line.contains("Z event ") { EVIL_HEAD } else { "Failed attempt" })
    };
    assert_eq!(lines.iter().find(forged), None, "{out}");

    let (code, out, err) = says(&job, &["wait"]).await;
    assert_eq!((code, out, err), (1, format!("agentjob.kodosumi.io/{} Failed\n", job.name), String::new()));
}

/// How a line about the event goes on after its time.
const EVIL_HEAD: &str = r" event x\r\nPhase:";
