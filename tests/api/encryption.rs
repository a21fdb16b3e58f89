//! Encryption of what Temporal gets: nothing of a job is readable there, keys may be changed, and those who may have it
//! decrypted.

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use koco::api::{ErrorStatus, RunnerState};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    archive::{Reader, account, token},
    harness::{
        DesiredState, ExecutionMode, Job, Kubelet, Phase, Roles, Server, Test, agent,
        by_hand::{started, succeeds},
        job::{With, error_type, pod_name},
        kubelet::End,
        runner::{failed, succeeded},
        temporal,
        wait::always,
    },
};

const CANARY: &str = "canary-5d1f";

/// A folder with keys: each has an id and a byte.
fn keys(test: &Test, name: &str, keys: &[(&str, u8)]) -> PathBuf {
    let folder = test.cluster.dev.join(format!("data/tests/{}-{name}", test.namespace));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (id, byte) in keys {
        std::fs::write(folder.join(id), BASE64_STANDARD.encode([*byte; 32])).expect("a key");
    }
    folder
}

fn encrypt(roles: &mut Roles, folder: &Path, current: &str) {
    roles.set("KOCO_PAYLOAD_KEYS", &folder.display().to_string());
    roles.set("KOCO_PAYLOAD_KEY", current);
}

/// Whether a text is in a history, as it is or in Base64.
fn shows(history: &Value, text: &str) -> bool {
    match history {
        Value::String(found) => {
            let decoded = BASE64_STANDARD.decode(found).unwrap_or_default();
            found.contains(text) || decoded.windows(text.len()).any(|part| part == text.as_bytes())
        }
        Value::Array(all) => all.iter().any(|value| shows(value, text)),
        Value::Object(all) => all.iter().any(|(name, value)| name.contains(text) || shows(value, text)),
        _ => false,
    }
}

/// A job that was paused and resumed, of which one attempt fails and the next succeeds, each with a word.
async fn lives(kubelet: &Kubelet, job: &Job<'_>) -> Value {
    let (pod, runner) = started(kubelet, job, 1).await;
    job.want(DesiredState::Paused).await;
    let run = job.until_run("the pause", |run| run.command_generation() > 0).await;
    runner.confirm(RunnerState::Frozen, run.command_generation(), None).await.expect("204");
    job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    job.want(DesiredState::Running).await;
    let mut end = failed("AgentFailed", 1);
    end.error = end.error.map(|error| ErrorStatus { message: CANARY.into(), ..error });
    runner.outcome(0, end).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(1, None)).await;
    let (pod, runner) = started(kubelet, job, 2).await;
    succeeds(kubelet, job, &pod, &runner, json!({ "text": CANARY.repeat(500) })).await;
    let id = job.workflow().await;
    assert_eq!(job.closed(&id).await, "COMPLETED");
    json!(temporal::events(&job.temporal, &id))
}

fn spec() -> Value {
    let retry = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "10ms" } });
    agent("anything").mode(ExecutionMode::Temporal).with(retry)
}

/// The payload of a workflow's result.
fn result_of(history: &Value) -> Value {
    let events = history.as_array().expect("events");
    let last = events.last().expect("an event");
    last["workflowExecutionCompletedEventAttributes"]["result"]["payloads"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_job_is_readable_in_temporal_but_for_those_who_may() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["operator", "server"]);
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let plain = lives(&kubelet, &test.apply(spec()).await).await;
    assert!(shows(&plain, CANARY), "without encryption it is there");

    encrypt(&mut roles, &keys(&test, "keys", &[("a", 1)]), "a");
    roles.restart().await;
    let job = test.apply(spec()).await;
    let history = lives(&kubelet, &job).await;
    assert!(!shows(&history, CANARY), "{history:#}");
    assert_eq!(koco_result(&job).await, json!({ "text": CANARY.repeat(500) }), "koco reads it");

    let reader = Reader::of(&test, &roles).await;
    account(&test, &test.namespace, "owner", &["get", "delete"], &[]).await;
    account(&test, &test.namespace, "decoder", &[], &[]).await;
    decoder(&test).await;
    let (owner, decoder) = (token(&test, "owner").await, token(&test, "decoder").await);
    let body = json!({ "payloads": [result_of(&history)] }).to_string();
    let ask = async |path: &str, token: &str, body: &str| {
        reader.post(path, Some(token), "application/json", body.to_string()).await
    };
    assert_eq!(ask("/codec/decode", &owner, &body).await.0, 403);
    assert_eq!(reader.post("/codec/decode", None, "application/json", body.clone()).await.0, 401);
    let (status, answer) = ask("/codec/decode", &decoder, &body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(shows(&answer, CANARY), "{answer}");
    let (status, again) = ask("/codec/encode", &decoder, &answer.to_string()).await;
    assert!(status == 200 && !shows(&again, CANARY), "{again}");
    assert_eq!(ask("/codec/decode", &decoder, "{").await.0, 400);
    let unknown = json!({ "payloads": [{ "data": "",
        "metadata": { "encoding": BASE64_STANDARD.encode("binary/encrypted"), "encryption-key-id": BASE64_STANDARD.encode("z") } }] });
    assert_eq!(ask("/codec/decode", &decoder, &unknown.to_string()).await.0, 400);
}

/// Lets an account read payloads. They are of no namespace, so its right isn't either.
async fn decoder(test: &Test) {
    let meta = json!({ "name": format!("{}-decoder", test.namespace) });
    let rule = json!({ "apiGroups": ["kodosumi.io"], "resources": ["agentjobs/payloads"], "verbs": ["get"] });
    let role = json!({ "metadata": meta, "rules": [rule] });
    let binding = json!({ "metadata": meta,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": meta["name"] },
        "subjects": [{ "kind": "ServiceAccount", "name": "decoder", "namespace": test.namespace }] });
    let role: ClusterRole = serde_json::from_value(role).expect("a role");
    let binding: ClusterRoleBinding = serde_json::from_value(binding).expect("a binding");
    Api::all(test.client.clone()).create(&PostParams::default(), &role).await.expect("a role");
    Api::all(test.client.clone()).create(&PostParams::default(), &binding).await.expect("a binding");
}

async fn koco_result(job: &Job<'_>) -> Value {
    job.status().await.result.expect("a result").read().expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_under_open_workflows_and_one_that_is_missing_is_waited_for() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    // One that began before encryption, and one of each key.
    let mut jobs = vec![test.apply(spec()).await];
    let mut runners = vec![started(&kubelet, &jobs[0], 1).await];
    let (old, both) = (keys(&test, "old", &[("a", 1)]), keys(&test, "both", &[("a", 1), ("b", 2)]));
    for (folder, current) in [(&old, "a"), (&both, "b")] {
        encrypt(&mut roles, folder, current);
        roles.restart().await;
        let job = test.apply(spec()).await;
        runners.push(started(&kubelet, &job, 1).await);
        jobs.push(job);
    }
    // Without the first key its workflow goes on for nobody, and ends for nobody.
    encrypt(&mut roles, &keys(&test, "new", &[("b", 2)]), "b");
    roles.restart().await;
    let (pod, runner) = &runners[1];
    runner.outcome(0, succeeded(json!(1))).await.expect("204");
    kubelet.end(&pod_name(pod), &End::exit(0, None)).await;
    always(std::time::Duration::from_secs(3), "it waits for its key", async || {
        let status = jobs[1].status().await;
        if error_type(&status).is_empty() && status.phase != Some(Phase::Failed) { Ok(()) } else { Err(status) }
    })
    .await;
    encrypt(&mut roles, &both, "b");
    roles.restart().await;
    jobs[1].phase(Phase::Succeeded).await;
    for n in [0, 2] {
        let (pod, runner) = &runners[n];
        succeeds(&kubelet, &jobs[n], pod, runner, json!(n)).await;
    }
}
