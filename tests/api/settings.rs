//! What the operator's settings do to each job.

use koco::api::conditions;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, MODES, Server, Test, agent,
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
    );
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
