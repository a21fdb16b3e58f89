//! Direct mode needs no Temporal at all.

use koco::api::conditions;
use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, Phase, Server, Test, agent,
    job::{With, condition, error_type, pod_name, result, stalled},
};

async fn direct_jobs_run(temporal: Server<'_>) {
    let test = Test::new().await;
    let _roles = test.operator(temporal).await;
    // Direct is the default.
    let well = test.apply(agent("succeed").with(json!({ "inputs": { "a": 1 } }))).await;
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    let badly = test.apply(agent("exit?code=3").with(once.clone())).await;
    let again = test.apply(agent("fail-until?attempt=2")).await;
    let deleted = test.apply(agent("count").with(once)).await;
    let cancelled = test.apply(agent("count")).await;
    let status = well.phase(Phase::Succeeded).await;
    assert_eq!(result(&status)["inputs"], json!({ "a": 1 }));
    assert_eq!(status.workflow, None);
    assert_eq!(status.resolved.expect("resolved").execution_mode, ExecutionMode::Direct);
    assert_eq!(well.get().await.metadata.finalizers.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(error_type(&badly.phase(Phase::Failed).await), "AgentFailed");
    assert_eq!(again.phase(Phase::Succeeded).await.attempt, Some(2), "the default retry policy");
    deleted.counts().await;
    deleted.delete_pod(&pod_name(&deleted.pods().await[0]), &DeleteParams::default()).await;
    assert_eq!(error_type(&deleted.phase(Phase::Failed).await), "Disrupted");
    cancelled.counts().await;
    cancelled.want(DesiredState::Cancelled).await;
    cancelled.phase(Phase::Cancelled).await;
    cancelled.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_temporal_configured() {
    direct_jobs_run(Server::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_temporal_down() {
    direct_jobs_run(Server::Nobody).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporal_job_without_temporal_says_what_to_do() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::None).await;
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal)).await;
    let status = job.until("Stalled", stalled).await;
    let (_, reason, message) = condition(&status, conditions::STALLED);
    assert_eq!(reason, "TemporalNotConfigured");
    assert!(message.contains("executionMode"), "{message}");
    assert_eq!(condition(&status, conditions::READY).0, "False");
    assert!(job.pods().await.is_empty());
    // Once it is configured, the job runs.
    roles.set("TEMPORAL_ADDRESS", &test.cluster.temporal);
    roles.restart().await;
    let status = job.phase(Phase::Succeeded).await;
    assert!(!stalled(&status));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_mode_is_the_operators() {
    let test = Test::new().await;
    let mut roles = crate::harness::Roles::all_in_one(&test, Server::Shared);
    roles.set("KODO_EXECUTION_MODE", "Temporal");
    roles.start().await;
    let job = test.apply(agent("succeed")).await;
    let status = job.phase(Phase::Succeeded).await;
    assert_eq!(status.resolved.expect("resolved").execution_mode, ExecutionMode::Temporal);
    assert!(status.workflow.is_some());
}
