//! A pod that does not start: the status has the original reason, no attempt is used up, and the pending time-out ends
//! it.

use std::time::Duration;

use futures::future::join_all;
use koco::api::{AgentJobStatus, conditions};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{
    MODES, Phase, Test, agent, audit,
    job::{With, condition, error_type, pod_name, stalled},
    wait::always,
};

/// `pending` must leave the scheduler or the kubelet the time to write it on a machine under load.
async fn fails_when_its_time_is_over(what: Value, pending: &str, reasons: &[&str], words: &str) {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let spec = agent("succeed").mode(mode).with(what.clone()).with(json!({ "timeouts": { "pending": pending } }));
        jobs.push(test.apply(spec).await);
    }
    join_all(jobs.iter().map(async |job| {
        let over = |s: &AgentJobStatus| s.phase.is_some_and(Phase::is_terminal);
        let status = job.until("the condition Stalled", |s| stalled(s) || over(s)).await;
        let (_, reason, message) = condition(&status, conditions::STALLED);
        assert!(reasons.contains(&reason.as_str()) && message.contains(words), "{reason}: {message}");
        assert_eq!(status.phase, Some(Phase::Pending), "said before the time is over");
        let status = job.phase(Phase::Failed).await;
        assert_eq!(error_type(&status), "PendingTimeout");
        assert!(status.error.as_ref().is_some_and(|e| e.message.contains(words)), "{:?}", status.error);
        assert_eq!(status.attempt, None, "no attempt is used up");
        assert!(!stalled(&status));
        job.nothing_runs().await;
    }))
    .await;
    assert_eq!(audit::created(&test.namespace).len(), 2, "no further pods are tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled() {
    let image = json!({ "template": { "spec": { "containers": [
        { "name": "agent", "image": "localhost/there-is-no-such-image:1", "command": ["/agent"] },
    ] } } });
    fails_when_its_time_is_over(image, "100s", &["ErrImagePull", "ImagePullBackOff"], "there-is-no-such-image").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_cannot_be_scheduled() {
    let selector = json!({ "template": { "spec": { "nodeSelector": { "no-node": "has-this" } } } });
    fails_when_its_time_is_over(selector, "100s", &["Unschedulable"], "nodes are available").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_pod_is_not_pending() {
    let (test, _roles) = Test::with_operator().await;
    let gate = json!({
        "timeouts": { "pending": "60s" },
        "template": { "spec": { "schedulingGates": [{ "name": "example.com/quota" }] } },
    });
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("succeed").mode(mode).with(gate.clone())).await);
    }
    for job in &jobs {
        job.until_pod().await;
    }
    always(Duration::from_secs(65), "a gated job is pending", async || {
        for job in &jobs {
            let status = job.status().await;
            if status.phase != Some(Phase::Pending) || stalled(&status) {
                return Err((status.phase, status.conditions));
            }
        }
        Ok(())
    })
    .await;
    for job in jobs {
        let open = Patch::Merge(json!({ "spec": { "schedulingGates": null } }));
        let pod = pod_name(&job.pods().await[0]);
        test.pods().patch(&pod, &PatchParams::default(), &open).await.expect("the gate opens");
        job.phase(Phase::Succeeded).await;
    }
}
