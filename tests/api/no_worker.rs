//! A Temporal server without a worker: its jobs wait, others notice nothing, and all go on when a worker comes.

use futures::future::join_all;
use koco::api::AgentJobStatus;

use crate::harness::{ExecutionMode, Node, Phase, Roles, Server, Test, agent, job::With};

/// So many that queries which nobody answers would hold up reconciles for longer than a test's deadline.
const WAITING: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporal_jobs_wait_for_a_worker_and_direct_jobs_do_not() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["gateway", "controller"]);
    roles.set("KOCO_CONCURRENCY", "2");
    roles.start().await;
    let _node = Node::automatic(&test);
    let waiting: Vec<_> = (0..WAITING).map(|_| test.apply(agent("succeed").mode(ExecutionMode::Temporal))).collect();
    let waiting = join_all(waiting).await;
    let has_workflow = |s: &AgentJobStatus| s.workflow.as_ref().is_some_and(|w| !w.id.is_empty());
    for job in &waiting {
        job.until("its workflow", has_workflow).await;
    }
    for _ in 0..5 {
        test.apply(agent("succeed").mode(ExecutionMode::Direct)).await.phase(Phase::Succeeded).await;
    }
    for job in &waiting {
        let status = job.status().await;
        assert_eq!((status.phase, status.error, job.run_number().await), (Some(Phase::Pending), None, 0));
    }
    let worker = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[worker].start().await;
    for job in &waiting {
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    }
}
