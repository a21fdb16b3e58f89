//! A Temporal server that takes connections and answers nothing: Direct jobs go on, and Temporal jobs once it answers.

use koco::api::RunnerState;

use crate::harness::{
    DesiredState, ExecutionMode, Kubelet, Node, Phase, Roles, Server, TemporalServer, Test, agent, by_hand::started,
    job::With,
};

/// So many that each reconcile in turn would have to wait longer than a test's deadline.
const WAITING: usize = 40;

#[ignore = "more than a minute: make api-test SLOW=1"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_jobs_notice_nothing_and_temporal_jobs_go_on_afterwards() {
    let (test, other) = (Test::new().await, Test::new().await);
    let mut server = TemporalServer::new(&test.namespace);
    server.start().await;
    let mut roles = Roles::separate(&test, Server::Own(&server));
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", test.namespace, other.namespace));
    roles.set("KOCO_CONCURRENCY", "2");
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let _node = Node::automatic(&other);
    let running = test.apply(agent("anything").mode(ExecutionMode::Temporal)).await;
    let (_pod, runner) = started(&kubelet, &running, 1).await;

    server.freeze();
    running.want(DesiredState::Paused).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(other.apply(agent("succeed").mode(ExecutionMode::Temporal)).await);
    }
    let until = |s: &koco::api::AgentJobStatus| s.conditions.iter().any(|c| c.reason == "TemporalUnavailable");
    // Also at those whose call is not tried, because others wait for an answer.
    for job in &waiting {
        job.until("the condition", until).await;
    }
    for _ in 0..3 {
        other.apply(agent("succeed").mode(ExecutionMode::Direct)).await.phase(Phase::Succeeded).await;
    }

    server.thaw();
    let run = running.until_run("the pause", |r| r.command_generation() > 0).await;
    runner.confirm(RunnerState::Frozen, run.command_generation(), None).await.expect("204");
    running.phase(Phase::Paused).await;
    for job in &waiting {
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    }
}
