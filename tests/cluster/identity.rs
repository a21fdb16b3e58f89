//! Whose pod it is: names and statuses mislead.

use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::harness::{
    MODES, Phase, Server, Test, agent, audit,
    job::{With, pod_name},
};

/// The old pod's end says nothing of the new job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreated_under_the_same_name_while_the_old_pod_still_ends() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let name = format!("phoenix-{}", crate::harness::word(mode).to_lowercase());
        // It lives on for a while, and then ends with success.
        let old = test.apply_as(&name, agent("exit0-after?ms=6000").mode(mode).grace(20)).await;
        let pod = pod_name(&old.running_pod().await);
        old.delete(DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() })
            .await;
        old.gone(crate::harness::DEADLINE).await;
        let new = test
            .apply_as(&name, agent("exit?code=9").mode(mode).with(json!({ "retryPolicy": { "maximumAttempts": 1 } })))
            .await;
        assert_ne!(old.uid, new.uid);
        let status = new.phase(Phase::Failed).await;
        assert_eq!(status.outcome.expect("an outcome").exit_code, Some(9), "its own agent's end");
        assert_ne!(status.runner_pod.as_deref(), Some(pod.as_str()));
        assert_eq!(new.pods().await.len(), 1);
    }
}

/// A pod that is not the job's has the name that the job's would get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_with_the_pods_name() {
    let test = Test::new().await;
    for mode in MODES {
        let job = test.apply(agent("succeed").mode(mode)).await;
        let name = koco::api::names::pod(&job.name, &job.uid, 1);
        let stranger = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "containers": [{ "name": "agent", "image": "localhost/busybox:dev", "command": ["sleep", "600"] }],
                "terminationGracePeriodSeconds": 0 },
        });
        let ns = test.namespace.as_str();
        crate::harness::cluster::feed(
            &test.cluster.dev,
            "kubectl",
            &["apply", "-n", ns, "-f", "-"],
            stranger.to_string().as_bytes(),
        )
        .expect("a pod");
        let mut roles = test.operator(Server::Shared).await;
        let status = job.until("Stalled", crate::harness::job::stalled).await;
        let said = crate::harness::job::condition(&status, koco::api::conditions::STALLED);
        assert!(said.2.contains(&name), "{said:?}");
        test.pods().delete(&name, &DeleteParams::default()).await.expect("delete");
        job.phase(Phase::Succeeded).await;
        roles.kill_all();
    }
}

/// It is found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_forgot_its_pod() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    for (i, mode) in MODES.into_iter().enumerate() {
        let job = test.apply(agent("count?every_ms=50&until=100").mode(mode).heartbeat("3s")).await;
        job.counts().await;
        job.patch_status(json!({ "claim": { "podUID": null } })).await.expect("patch");
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, status.claim.expect("a claim").epoch), (Some(1), 1), "{mode:?}");
        assert_eq!(audit::created(&test.namespace).len(), i + 1, "{mode:?}");
    }
    // The same with nobody looking, and all of it forgotten, before the permit.
    roles.kill_all();
    let gate = json!({ "template": { "spec": { "schedulingGates": [{ "name": "example.com/later" }] } } });
    roles.start().await;
    let job = test.apply(agent("succeed").with(gate)).await;
    job.until("a pod", |s| s.claim.as_ref().is_some_and(|c| c.pod_uid.is_some())).await;
    roles.kill_all();
    job.patch_status(json!({ "claim": { "podUID": null }, "runnerPod": null })).await.expect("patch");
    roles.start().await;
    job.until("its pod again", |s| s.claim.as_ref().is_some_and(|c| c.pod_uid.is_some())).await;
    let open = kube::api::Patch::Merge(json!({ "spec": { "schedulingGates": Value::Null } }));
    let pod = pod_name(&job.pods().await[0]);
    test.pods().patch(&pod, &Default::default(), &open).await.expect("the gate opens");
    job.phase(Phase::Succeeded).await;
    assert_eq!(audit::created(&test.namespace).len(), 3);
}

/// A job that has ended never gets another pod, whatever happens to its old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_after_the_end() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("succeed").mode(mode)).await);
    }
    for job in &jobs {
        job.phase(Phase::Succeeded).await;
        job.delete_pod(&pod_name(&job.pods().await[0]), &DeleteParams::default()).await;
    }
    roles.restart().await;
    for job in &jobs {
        job.patch(json!({ "metadata": { "labels": { "touched": "yes" } }, "spec": { "failedPodsHistoryLimit": 1 } }))
            .await;
        job.until("the new generation", |s| s.observed_generation == Some(2)).await;
        assert_eq!(job.status().await.phase, Some(Phase::Succeeded));
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}
