//! A Temporal server that doesn't know the workflows: another one, by a wrong address, or one that was restored to an
//! earlier point. Agents run on.

use std::{sync::Arc, time::Duration};

use koco::api::{RunnerState, conditions};
use serde_json::json;

use crate::harness::{
    ExecutionMode, Kubelet, Phase, Runner, Server, TemporalServer, Test, agent,
    by_hand::{in_hand, started, succeeds},
    job::{With, condition, pod_name, stalled},
    kubelet::End,
    runner::succeeded,
};

/// Beats as a runner does, until it is dropped.
struct Beats(tokio::task::JoinHandle<()>);

impl Beats {
    fn of(runner: &Arc<Runner>) -> Self {
        let runner = runner.clone();
        Self(tokio::spawn(async move {
            loop {
                let _ = runner.heartbeat(RunnerState::Running, 0).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }))
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_servers_address_ends_no_job() {
    let test = Test::new().await;
    let (mut right, mut wrong) =
        (TemporalServer::new(&test.namespace), TemporalServer::new(&format!("{}-wrong", test.namespace)));
    right.start().await;
    wrong.start().await;
    let mut roles = test.separate_roles(Server::Own(&right)).await;
    let kubelet = Kubelet::of(&test);
    let spec = || agent("anything").mode(ExecutionMode::Temporal).heartbeat("4s");
    let (goes_on, succeeds_meanwhile) = (test.apply(spec()).await, test.apply(spec()).await);
    let (pod, runner) = started(&kubelet, &goes_on, 1).await;
    let (other_pod, other_runner) = started(&kubelet, &succeeds_meanwhile, 1).await;
    let (runner, other_runner) = (Arc::new(runner), Arc::new(other_runner));
    let _beats = [Beats::of(&runner), Beats::of(&other_runner)];

    roles.set("TEMPORAL_ADDRESS", &wrong.address);
    roles.restart().await;
    let status = goes_on.until("Stalled", stalled).await;
    let (_, reason, message) = condition(&status, conditions::STALLED);
    assert_eq!((reason.as_str(), status.phase), ("WorkflowNotFound", Some(Phase::Running)));
    assert!(message.contains(&wrong.address) && message.contains("temporal.address"), "{message}");
    // The gateways know no better.
    let mut orders = runner.messages().await.expect("a stream");
    other_runner.outcome(0, succeeded(json!("meanwhile"))).await.expect("204");
    kubelet.end(&pod_name(&other_pod), &End::exit(0, None)).await;
    let status = succeeds_meanwhile.phase(Phase::Succeeded).await;
    assert_eq!(status.result, Some(json!("meanwhile").into()));
    orders.grant().await;
    runner.heartbeat(RunnerState::Running, 0).await.expect("204");

    roles.set("TEMPORAL_ADDRESS", &right.address);
    roles.restart().await;
    goes_on.until("its workflow again", |s| !stalled(s)).await;
    succeeds(&kubelet, &goes_on, &pod, &runner, json!(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restored_to_before_the_grant_leaves_its_agent_running() {
    let test = Test::new().await;
    let mut server = TemporalServer::new(&test.namespace);
    server.start().await;
    let _roles = test.separate_roles(Server::Own(&server)).await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything").mode(ExecutionMode::Temporal).heartbeat("4s")).await;
    let (pod, runner) = in_hand(&kubelet, &job, 1).await;
    let runner = Arc::new(runner);
    server.kill();
    server.back_up();
    server.start().await;
    runner.welcome().await;
    runner.messages().await.expect("a stream").grant().await;
    runner.confirm(RunnerState::Running, 0, None).await.expect("204");
    job.phase(Phase::Running).await;

    server.kill();
    server.restore();
    server.start().await;
    let beats = Beats::of(&runner);
    let id = job.workflow().await;
    crate::harness::within(crate::harness::DEADLINE, "the workflow to wait for the agent again", async || {
        let events = crate::harness::temporal::events(&server.address, &id);
        let scheduled = crate::harness::temporal::activities(&events);
        if scheduled.iter().any(|a| a == "execute_agent") { Ok(()) } else { Err(scheduled) }
    })
    .await;
    drop(beats);
    succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
    assert_eq!((job.run_number().await, job.status().await.attempt), (1, Some(1)));
}
