//! A pod that comes and goes while no controller is there.

use kube::api::DeleteParams;

use crate::harness::{
    ExecutionMode, Node, Phase, Roles, Server, Test, agent,
    job::{With, pod_name, pod_uid},
};

/// No role has seen it: neither the job's status nor its run says that it was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_no_controller_has_seen_is_created_again() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["gateway", "controller"]);
    roles.start().await;
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal)).await;
    job.until("its workflow", |s| s.workflow.as_ref().is_some_and(|w| w.run_id.is_some())).await;
    roles.role("controller").kill();
    let worker = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[worker].start().await;
    let pod = job.until_pod().await;
    job.delete_pod(&pod_name(&pod), &DeleteParams::default().grace_period(0)).await;
    roles.role("controller").start().await;
    let _node = Node::automatic(&test);
    assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    assert_eq!(job.run_number().await, 1, "the same run");
    assert_ne!(job.run().await.expect("a run").status.and_then(|s| s.pod_uid), Some(pod_uid(&pod)), "in another pod");
}
