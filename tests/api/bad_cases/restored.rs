//! The cluster knows of more runs than the job's status says: it was restored to an earlier point, or the write was
//! lost.

use koco::api::{StartGrant, TerminationType};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::{
    ExecutionMode, Job, Kubelet, Roles, Server, Test, agent,
    by_hand::{create_run, end, run_of, started, succeeds},
    job::{With, pod_name},
    kubelet::End,
    run::number,
    runner::failed,
    wait::always,
};

fn retry(interval: &str) -> serde_json::Value {
    json!({ "retryPolicy": { "maximumAttempts": 4, "initialInterval": interval } })
}

/// With the grant that a Direct run is created with.
fn direct(job: &Job<'_>) -> koco::api::AgentRun {
    let mut run = run_of(job, 2, 2);
    let grant = json!({ "time": "2026-01-01T00:00:00Z", "binding": 0 });
    run.spec.grant = Some(serde_json::from_value::<StartGrant>(grant).expect("a grant"));
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_job_goes_on_from_the_newest_run() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for closed in [false, true] {
        let job = test.apply(agent("anything").mode(ExecutionMode::Direct).with(retry("100ms"))).await;
        let (old, _runner) = started(&kubelet, &job, 1).await;
        roles.role("controller").kill();
        let made = create_run(&test.runs(), &direct(&job), closed.then(|| end(TerminationType::Failed))).await;
        let before = job.status().await;
        assert_eq!(before.active_run, Some(1), "the status knows of the first only");
        roles.role("controller").start().await;
        // The first agent ends before another one's pod is made.
        kubelet.deleted(&pod_name(&old)).await;
        always(std::time::Duration::from_secs(1), "no pod beside the old one", async || {
            let more: Vec<_> = job.pods().await.iter().map(number).filter(|n| *n > 1).collect();
            if more.is_empty() { Ok(()) } else { Err(more) }
        })
        .await;
        kubelet.end(&pod_name(&old), &End::killed()).await;
        kubelet.remove(&pod_name(&old)).await;
        let next = if closed { 3 } else { 2 };
        let (pod, runner) = started(&kubelet, &job, next).await;
        let now = test.runs().get(made.name()).await.expect("the run");
        assert_eq!((now.uid(), &now.spec), (made.uid(), &made.spec), "closed: {closed}");
        if closed {
            assert_eq!(now.termination(), made.termination());
        } else {
            assert_eq!(pod_name(&pod), made.spec.identity.pod_name);
        }
        succeeds(&kubelet, &job, &pod, &runner, json!(next)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_goes_on_from_the_newest_run() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    for (closed, granted) in [(false, false), (true, false), (true, true)] {
        let job = test.apply(agent("anything").mode(ExecutionMode::Temporal).with(retry("2s"))).await;
        let (old, runner) = started(&kubelet, &job, 1).await;
        roles.role("controller").kill();
        runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
        kubelet.end(&pod_name(&old), &End::exit(1, None)).await;
        // The workflow waits to create the second.
        let mut run = direct(&job);
        run.spec.identity.execution_mode = ExecutionMode::Temporal;
        run.spec.grant = run.spec.grant.filter(|_| granted);
        if let Some(grant) = &mut run.spec.grant {
            (grant.workflow_id, grant.run_id) = (Some(job.workflow().await), Some("before".into()));
            grant.activity_attempt = Some(1);
        }
        let made = create_run(&test.runs(), &run, closed.then(|| end(TerminationType::Failed))).await;
        assert_eq!(job.status().await.active_run, Some(1), "the status knows of the first only");
        roles.role("controller").start().await;
        let next = if closed { 3 } else { 2 };
        let (pod, runner) = started(&kubelet, &job, next).await;
        let now = test.runs().get(made.name()).await.expect("the run");
        let same = |r: &koco::api::AgentRun| (r.uid().to_string(), r.spec.identity.clone());
        assert_eq!(same(&now), same(&made), "closed: {closed}, granted: {granted}");
        if closed {
            assert_eq!(now.termination(), made.termination());
        } else {
            assert_eq!(pod_name(&pod), made.spec.identity.pod_name);
        }
        succeeds(&kubelet, &job, &pod, &runner, json!(next)).await;
    }
}

/// There is one run of a number, whoever creates it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_two_runs_of_a_number() {
    let test = Test::new().await;
    let job = test.apply(agent("anything")).await;
    create_run(&test.runs(), &direct(&job), None).await;
    let again = test.runs().create(&Default::default(), &direct(&job)).await;
    assert!(matches!(again, Err(kube::Error::Api(e)) if e.code == 409 && e.reason == "AlreadyExists"));
    // Nor does one become another.
    let other = Patch::Merge(json!({ "spec": { "identity": { "number": 3 } } }));
    let changed = test.runs().patch(direct(&job).name(), &PatchParams::default(), &other).await;
    assert!(changed.is_err_and(|e| e.to_string().contains("spec.identity is immutable")));
    assert_eq!(job.runs().await.len(), 1);
}
