//! `kubectl koco` against a real API server: which jobs it chooses, and what it asks for.

use std::process::Stdio;

use kube::api::ListParams;
use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::harness::{DEADLINE, DesiredState, Job, Test, agent, by_hand::patch_status, cluster::KOCO};

/// Exit code and all output of a command, in the test's namespace.
async fn plugin(test: &Test, line: &str) -> (i32, String, String) {
    fed(test, line, "").await
}

/// The same with something on its stdin.
async fn fed(test: &Test, line: &str, stdin: &str) -> (i32, String, String) {
    let mut command = Command::new(KOCO);
    command.arg("kubectl").args(["-n", &test.namespace]).args(line.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.env_remove("TEMPORAL_ADDRESS").spawn().expect("koco");
    let mut input = child.stdin.take().expect("stdin");
    // A command that doesn't read it may have ended.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let done = tokio::time::timeout(5 * DEADLINE, child.wait_with_output()).await.expect("it ends").expect("output");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (done.status.code().unwrap_or(-1), text(done.stdout), text(done.stderr))
}

/// What a command prints that must succeed.
async fn says(test: &Test, line: &str) -> String {
    let (code, out, err) = plugin(test, line).await;
    assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
    out
}

/// A job of a team that no controller sees, in this phase; without one it has no status.
async fn job_of<'t>(test: &'t Test, team: &str, phase: Option<&str>) -> Job<'t> {
    let job = test.apply(agent("anything")).await;
    job.patch(json!({ "metadata": { "labels": { "team": team } } })).await;
    if let Some(phase) = phase {
        patch_status(test, "agentjob", &job.name, json!({ "phase": phase })).await;
    }
    job
}

fn references(jobs: &[&Job<'_>]) -> String {
    jobs.iter().map(|job| format!("agentjob.kodosumi.io/{}\n", job.name)).collect()
}

async fn desired(job: &Job<'_>) -> DesiredState {
    job.get().await.spec.desired_state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_reaches_those_that_are_chosen_and_no_others() {
    let test = Test::new().await;
    let running = job_of(&test, "a", Some("Running")).await;
    let new = job_of(&test, "a", None).await;
    let done = job_of(&test, "a", Some("Succeeded")).await;
    let other = job_of(&test, "b", Some("Running")).await;
    let both = references(&[&running, &new]);
    for how in ["client", "server"] {
        assert_eq!(says(&test, &format!("pause -l team=a --dry-run={how} -o name")).await, both, "{how}");
        assert_eq!(desired(&running).await, DesiredState::Running, "{how}: nothing is stored");
    }
    let shown = says(&test, &format!("pause {} --dry-run=client -o yaml", running.name)).await;
    assert!(shown.contains("\n  desiredState: Paused\n") && shown.contains("/control-request: "), "{shown}");
    let out = says(&test, &format!("pause aj/{} --dry-run=server", running.name)).await;
    assert_eq!(out, format!("agentjob.kodosumi.io/{} pause requested (server dry run)\n", running.name));

    let out = says(&test, "pause -l team=a").await;
    assert_eq!(out, both.replace('\n', " pause requested\n"));
    assert_eq!((desired(&running).await, desired(&new).await), (DesiredState::Paused, DesiredState::Paused));
    assert_eq!((desired(&done).await, desired(&other).await), (DesiredState::Running, DesiredState::Running));

    let managers = running.get().await.metadata.managed_fields.expect("managed fields");
    let is_ours = |manager: Option<&str>| manager == Some("koco");
    assert!(managers.iter().any(|m| is_ours(m.manager.as_deref())), "one whose fields Flux leaves alone: {managers:?}");

    // One that can't be asked doesn't hold up the others.
    let (code, out, err) = plugin(&test, &format!("cancel none {} {} -o name", done.name, other.name)).await;
    assert_eq!((code, out), (1, references(&[&other])), "{err}");
    assert!(
        err.contains("there is no AgentJob none in the namespace") && err.contains("has finished already"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 2, "{err}");
    assert_eq!((desired(&other).await, desired(&done).await), (DesiredState::Cancelled, DesiredState::Running));

    // What is being cancelled is left alone, unless it is named.
    patch_status(&test, "agentjob", &other.name, json!({ "phase": "Cancelling" })).await;
    assert_eq!(says(&test, "resume --all -o name").await, both);
    let (code, _, err) = plugin(&test, &format!("resume {}", other.name)).await;
    assert!(code == 1 && err.contains("is being cancelled, which is final"), "{err}");
    let (code, out, err) = plugin(&test, "pause -l team=none").await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "No AgentJobs found\n"));
    assert_eq!(plugin(&test, "pause").await.0, 2, "nothing is chosen by default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_are_made_of_those_that_failed() {
    let test = Test::new().await;
    let failed = job_of(&test, "a", Some("Failed")).await;
    let done = job_of(&test, "a", Some("Succeeded")).await;
    let prefix = format!("{}-retry-", failed.name);
    assert_eq!(says(&test, "retry --all --dry-run=client").await, format!("{prefix}...\n"));
    let out = says(&test, "retry --all -o name").await;
    assert!(out.starts_with(&format!("agentjob.kodosumi.io/{prefix}")) && out.lines().count() == 1, "{out}");
    let out = says(&test, &format!("retry {} {}", failed.name, done.name)).await;
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with(&format!("{}-retry-", done.name))), "{out}");
    assert_eq!(test.jobs().list(&ListParams::default()).await.expect("jobs").items.len(), 5);
}
