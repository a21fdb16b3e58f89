//! Secrets and inputs stay where they belong.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, Phase, Test, agent,
    cluster::{AGENT_IMAGE, kubectl},
    job::{With, result},
    temporal,
};

const SECRET: &str = "canary-secret-5fd1e0a7";
const INPUT: &str = "canary-input-93bc77d2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_seen_by_the_agent_alone() {
    let (test, _roles) = Test::with_operator().await;
    let secrets: Api<Secret> = Api::namespaced(test.client.clone(), &test.namespace);
    let secret = serde_json::from_value(json!({ "metadata": { "name": "s" }, "stringData": { "key": SECRET } }));
    secrets.create(&PostParams::default(), &secret.expect("a secret")).await.expect("a secret");
    let container = json!([{
        "name": "agent", "image": AGENT_IMAGE, "command": ["/test-agent"],
        "env": [{ "name": "API_KEY", "valueFrom": { "secretKeyRef": { "name": "s", "key": "key" } } }],
    }]);
    let spec = |entry: &str| {
        let from = json!([{ "prefix": "secret_", "secretRef": { "name": "s" } }]);
        let inputs = json!({ "inputs": { "text": INPUT }, "inputsFrom": from });
        let spec = agent(entry).mode(ExecutionMode::Temporal).with(inputs);
        spec.with(
            json!({ "template": { "spec": { "containers": container } }, "retryPolicy": { "maximumAttempts": 1 } }),
        )
    };
    let well = test.apply(spec("print-env")).await;
    let badly = test.apply(spec("exit?code=1")).await;
    let cancelled = test.apply(spec("count")).await;
    let result = result(&well.phase(Phase::Succeeded).await);
    let has = |what: &str, name: &str| result[what].as_array().is_some_and(|names| names.contains(&json!(name)));
    assert!(has("names", "API_KEY") && has("inputs", "secret_key"), "the agent has it: {result}");
    badly.phase(Phase::Failed).await;
    cancelled.counts().await;
    cancelled.want(DesiredState::Cancelled).await;
    cancelled.phase(Phase::Cancelled).await;

    let ns = test.namespace.as_str();
    for job in [&well, &badly, &cancelled] {
        let history = temporal::export(&job.temporal, &job.workflow().await);
        assert!(history.contains("execute_agent"), "the export is one");
        for canary in [SECRET, INPUT] {
            assert!(!history.contains(canary), "{canary} is in the history");
            let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, canary);
            assert!(!history.contains(&encoded), "{canary} is in the history");
        }
    }
    let jobs = kubectl(&["get", "aj", "-n", ns, "-o", "json", "--show-managed-fields"]).expect("jobs");
    let runs = kubectl(&["get", "agentruns", "-n", ns, "-o", "json", "--show-managed-fields"]).expect("runs");
    let events = kubectl(&["get", "events", "-n", ns, "-o", "json"]).expect("events");
    let log = std::fs::read_to_string(&test.log).expect("the operator's log");
    for (what, text) in [("jobs", &jobs), ("runs", &runs), ("events", &events), ("the operator's log", &log)] {
        assert!(!text.contains(SECRET), "the secret is in {what}");
    }
    for (what, text) in [("runs", &runs), ("events", &events), ("the operator's log", &log)] {
        assert!(!text.contains(INPUT), "an input is in {what}");
    }
    // Objects contain no credentials: activities are completed by ID, not by token.
    assert!(runs.contains("\"workflowID\""), "the runs are those of Temporal jobs: {runs}");
    for (what, text) in [("jobs", &jobs), ("runs", &runs)] {
        for word in ["taskToken", "task_token"] {
            assert!(!text.contains(word), "{word} is in {what}");
        }
    }
}
