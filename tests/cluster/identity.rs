//! Whose pod it is: names and labels mislead, and a run may vanish.

use koco::api::names;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, Job, MODES, Phase, Server, Test, agent, audit,
    cluster::feed,
    job::{With, error_type, pod_name, started},
    ticks,
};

/// The old pod's end doesn't affect the new job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreated_under_the_same_name_while_the_old_pod_still_ends() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let name = format!("phoenix-{}", mode.as_str().to_lowercase());
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
        let end = new.termination().await.expect("a termination");
        assert_eq!(end.exit_code, Some(9), "its own agent's end");
        assert_ne!(status.runner_pod.as_deref(), Some(pod.as_str()));
        assert_eq!(new.pods().await.len(), 1);
    }
}

/// The names of pods have a random part, and labels prove nothing: a forged pod neither blocks a job nor counts as its
/// pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_created_beforehand_under_a_guessed_name() {
    let test = Test::new().await;
    for mode in MODES {
        let job = test.apply(agent("succeed").mode(mode)).await;
        let guessed = names::pod(&job.name, &job.uid, 1, "guess");
        let stranger = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": guessed, "labels": {
                names::LABEL_JOB_UID: job.uid, names::LABEL_JOB_NAME: job.name, names::LABEL_RUN_NUMBER: "1",
                names::LABEL_COMPONENT: names::RUNNER_COMPONENT,
            } },
            "spec": { "containers": [{ "name": "agent", "image": "localhost/busybox:dev", "command": ["sleep", "600"] }],
                "terminationGracePeriodSeconds": 0 },
        });
        let into = ["apply", "-n", test.namespace.as_str(), "-f", "-"];
        feed(&test.cluster.dev, "kubectl", &into, stranger.to_string().as_bytes()).expect("a pod");
        let mut roles = test.operator(Server::Shared).await;
        job.phase(Phase::Succeeded).await;
        let run = job.run().await.expect("a run");
        assert_eq!((run.number(), run.spec.identity.pod_name == guessed), (1, false), "{mode:?}");
        let stranger = test.pods().get(&guessed).await.expect("the stranger is left alone");
        assert_eq!(stranger.metadata.deletion_timestamp, None, "{mode:?}");
        assert_ne!(run.status.and_then(|s| s.pod_uid), stranger.metadata.uid);
        test.pods().delete(&guessed, &DeleteParams::default()).await.expect("delete");
        roles.kill_all();
    }
}

/// A job whose agent is slow to end, and its first pod.
async fn under_way<'t>(test: &'t Test, mode: ExecutionMode, policy: &str, attempts: i32) -> (Job<'t>, String) {
    let limits = json!({
        "disruptionPolicy": policy,
        "retryPolicy": { "maximumAttempts": attempts, "initialInterval": "100ms" },
    });
    let job = test.apply(agent("ignore-term?every_ms=10").mode(mode).grace(3).with(limits)).await;
    let pod = pod_name(&job.running_pod().await);
    job.counts().await;
    (job, pod)
}

/// It is a pod deleted by hand, as its pod goes with it: the disruption policy decides, and two agents never overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_run_deleted_by_hand() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        for policy in ["Count", "Ignore"] {
            let (job, pod) = under_way(&test, mode, policy, 2).await;
            let log = job.follow(&pod);
            let run = job.run().await.expect("a run");
            test.runs().delete(run.name(), &DeleteParams::default()).await.expect("delete");
            let second = job.until_run("the second agent", |r| r.number() > 1 && started(r)).await;
            assert_ne!(second.spec.identity.pod_name, pod);
            if policy == "Count" {
                assert_eq!(second.spec.identity.attempt, 2, "{mode:?}");
            }
            job.until("the error", |s| error_type(s) == "Disrupted").await;
            let (old, new) = (ticks(&log.all().await), job.counts_on(3).await);
            let (last, next) = (old.last().expect("ticks"), new.first().expect("ticks"));
            assert!(last.at < next.at, "the agents overlapped in {mode:?} with {policy}: {last:?} {next:?}");
            job.want(DesiredState::Cancelled).await;
            job.phase(Phase::Cancelled).await;
        }
        for (policy, attempts) in [("Count", 1), ("FailJob", 5)] {
            let (job, _) = under_way(&test, mode, policy, attempts).await;
            let run = job.run().await.expect("a run");
            test.runs().delete(run.name(), &DeleteParams::default()).await.expect("delete");
            let status = job.phase(Phase::Failed).await;
            assert_eq!((error_type(&status), status.attempt), ("Disrupted", Some(1)), "{mode:?} with {policy}");
            job.nothing_runs().await;
        }
    }
}

/// The same while no role runs: a job is left whose status names a run that doesn't exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_run_deleted_while_the_operator_is_down() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let spec = agent("count").mode(mode).grace(2).heartbeat("10m");
        let job = test.apply(spec.with(json!({ "retryPolicy": { "maximumAttempts": 1 } }))).await;
        job.counts().await;
        jobs.push(job);
    }
    roles.kill_all();
    for job in &jobs {
        let run = job.run().await.expect("a run");
        test.runs().delete(run.name(), &DeleteParams::default()).await.expect("delete");
        job.nothing_runs().await;
    }
    roles.start().await;
    for job in &jobs {
        assert_eq!(error_type(&job.phase(Phase::Failed).await), "Disrupted");
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
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
