//! What GitOps tools do to a job, and what kubectl shows of it.

use koco::api::AgentJobStatus;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    harness::{
        DesiredState, Job, Test, agent,
        by_hand::patch_status,
        cluster::kubectl,
        job::{With, manifest},
    },
    terminal::says,
};

/// Who has written `spec.desiredState` last.
fn managers(job: &koco::api::AgentJob) -> Vec<String> {
    let entries = job.metadata.managed_fields.iter().flatten();
    let of_it = entries.filter(|entry| {
        let fields = serde_json::to_value(&entry.fields_v1).expect("JSON");
        fields.pointer("/f:spec/f:desiredState").is_some()
    });
    of_it.filter_map(|entry| entry.manager.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_applied_again_keeps_its_pause_unless_the_manifest_says_otherwise() {
    let test = Test::new().await;
    let apply = async |manifest: &Value| {
        let params = PatchParams::apply("kustomize-controller").force();
        test.jobs().patch("a", &params, &Patch::Apply(manifest)).await.expect("it is applied")
    };
    let in_git = manifest("a", agent("anything"));
    let made = apply(&in_git).await;
    assert_eq!(made.status.and_then(|s: AgentJobStatus| s.observed_generation), Some(-1), "no controller has seen it");
    let job = Job::new(&test, "a", made.metadata.uid.as_deref().expect("a UID"));
    assert_eq!(says(&job, &["pause"]).await.0, 0);
    // Flux takes over what managers have written whose names begin with `kubectl`.
    assert_eq!(managers(&job.get().await), ["koco"]);
    apply(&in_git).await;
    assert_eq!(job.get().await.spec.desired_state, DesiredState::Paused);
    apply(&manifest("a", agent("anything").with(json!({ "desiredState": "Running" })))).await;
    assert_eq!(job.get().await.spec.desired_state, DesiredState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_phase_and_reason_and_explains_each_field() {
    let test = Test::new().await;
    let job = test.apply(agent("anything")).await;
    let time = "2026-01-01T00:00:00Z";
    let condition = json!({ "type": "Succeeded", "status": "False", "reason": "OOMKilled", "message": "m",
        "lastTransitionTime": time });
    let status = json!({ "phase": "Failed", "attempt": 3, "progress": { "percent": 42, "time": time }, "startTime": time, "completionTime": time,
        "runnerPod": "a-pod", "conditions": [condition] });
    patch_status(&test, "agentjob", &job.name, status).await;
    let shown = |format: &str| {
        let text = kubectl(&["get", "agentjobs", "-n", &test.namespace, "-o", format]).expect("a table");
        text.lines().map(|line| line.split_whitespace().map(str::to_string).collect()).collect::<Vec<Vec<_>>>()
    };
    let custom = "custom-columns=PHASE:.status.phase";
    assert_eq!(shown(custom), [["PHASE"], ["Failed"]]);
    let wide = shown("wide");
    assert_eq!(
        wide[0],
        ["NAME", "PHASE", "REASON", "ATTEMPT", "PROGRESS", "AGE", "MODE", "STARTED", "FINISHED", "POD", "WORKFLOW"]
    );
    assert_eq!(wide[1][1..5], ["Failed", "OOMKilled", "3", "42"]);
    assert!(wide[1].contains(&"a-pod".to_string()), "{wide:?}");
    let text = kubectl(&["explain", "agentjob.spec.template.spec.hostPID"]).expect("an explanation");
    assert!(text.contains("Must be false"), "{text}");
    let text = kubectl(&["explain", "agentjob.spec.budget.activeTime"]).expect("an explanation");
    assert!(text.contains("How long agents may be active in all"), "{text}");
}
