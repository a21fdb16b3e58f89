//! A pause that is asked for before the agent has started, while no controller is there to pass it on.

use koco::api::RunnerState;

use crate::harness::{
    DesiredState, Kubelet, Roles, Server, Test, agent,
    by_hand::{in_hand, started},
    runner::Refused,
};

/// What is to be paused need not start: as little as what is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_agent_of_a_paused_job_starts_though_nobody_told_its_run() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let (paused, other) = (test.apply(agent("anything")).await, test.apply(agent("anything")).await);
    let (_, runner) = in_hand(&kubelet, &paused, 1).await;
    other.pod(1).await;
    roles.role("controller").kill();

    paused.want(DesiredState::Paused).await;
    let refused = runner.register(RunnerState::Waiting, 0).await.expect_err("it is to be paused");
    assert_eq!(refused, Refused::Code(503, "JobPaused".into()), "and may ask again");
    assert!(!paused.run().await.expect("a run").is_ready());

    paused.want(DesiredState::Running).await;
    runner.welcome().await;
    roles.role("controller").start().await;
    started(&kubelet, &other, 1).await;
}
