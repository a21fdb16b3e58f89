//! What the operator's settings do to each job.

use koco::api::conditions;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, MODES, Node, Phase, Roles, Server, Test, agent,
    by_hand::create,
    job::{With, condition, stalled},
    within,
};

/// A namespace that refuses containers as small as the runner's init container is by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_and_user_of_the_init_container_are_the_operators() {
    let test = Test::new().await;
    create(
        &test,
        &json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "large" }, "spec": { "limits": [
        { "type": "Container", "min": { "memory": "100Mi" }, "default": { "memory": "200Mi" } },
    ] } })
        .to_string(),
    )
    .await;
    let mut roles = test.operator(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("succeed").mode(mode)).await);
    }
    for job in &jobs {
        let status = job.until("Stalled", stalled).await;
        let (_, reason, message) = condition(&status, conditions::STALLED);
        assert_eq!(reason, "PodRefused");
        assert!(message.contains("minimum memory usage per Container is 100Mi"), "{message}");
    }
    roles.set("KOCO_RUNNER_RESOURCES", r#"{"requests":{"memory":"100Mi"},"limits":{"memory":"300Mi"}}"#);
    roles.set("KOCO_RUNNER_SECURITY_CONTEXT", r#"{"runAsNonRoot":true}"#);
    roles.restart().await;
    for job in &jobs {
        let pod = within(DEADLINE, "its pod", async || job.pods().await.pop().ok_or("none")).await;
        let pod: Value = serde_json::to_value(pod).expect("JSON");
        let install = &pod["spec"]["initContainers"][0];
        assert_eq!(install["resources"]["limits"], json!({ "memory": "300Mi" }));
        assert_eq!(install["securityContext"], json!({ "runAsNonRoot": true }));
    }
}

/// A schema can't measure free JSON, so the operator does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_beyond_the_limit_fail_a_job_before_anything_is_started() {
    let (test, mut roles) = Test::with_operator().await;
    let large = json!({ "text": "x".repeat(300_000) });
    for mode in MODES {
        for field in ["inputs", "extra"] {
            let job = test.apply(agent("succeed").mode(mode).with(json!({ field: large }))).await;
            let status = job.phase(Phase::Failed).await;
            let error = status.error.expect("an error");
            assert_eq!(error.kind, "InputsTooLarge");
            for words in [&format!("spec.{field}"), "300011 bytes", "262144 bytes"] {
                assert!(error.message.contains(words), "{words}: {}", error.message);
            }
            assert_eq!((status.workflow, status.attempt, status.active_run), (None, None, None));
            assert!(job.run().await.is_none() && job.pods().await.is_empty(), "nothing was created");
        }
    }
    roles.set("KOCO_MAXIMUM_INPUTS_BYTES", "0");
    roles.restart().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("exit0-after?ms=10").mode(mode).with(json!({ "inputs": large }))).await;
        job.phase(Phase::Succeeded).await;
    }
}

/// Each runner sends three heartbeats in its time-out: the operator says how many that may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_time_out_below_the_least_is_raised() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    roles.set("KOCO_MINIMUM_HEARTBEAT_TIMEOUT", "40s");
    roles.start().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        for (asked, given) in [("2s", "40s"), ("45s", "45s")] {
            let job = test.apply(agent("succeed").mode(mode).heartbeat(asked)).await;
            let status = job.phase(Phase::Succeeded).await;
            let resolved = status.resolved.expect("it was accepted").timeouts.heartbeat;
            assert_eq!(serde_json::to_value(resolved).expect("JSON"), given);
            let run = job.run().await.expect("a run");
            assert_eq!(serde_json::to_value(run.spec.identity.heartbeat).expect("JSON"), given, "its runner's");
        }
    }
    let job = test.apply(agent("anything").heartbeat("2s").with(json!({ "desiredState": "Paused" }))).await;
    let status = job.phase(Phase::Paused).await;
    let (_, reason, message) = condition(&status, conditions::READY);
    assert_eq!(reason, "Accepted");
    assert!(message.contains("timeouts.heartbeat raised to 40s"), "{message}");
}
