//! A gateway that was killed or stood still: another takes over its runners, and none that lives is called lost.

use std::time::Duration;

use koco::api::{AgentRun, RunnerState};
use serde_json::json;

use crate::harness::{
    DEADLINE, DesiredState, Job, Kubelet, MODES, Node, Phase, Roles, Server, Service, Test, agent,
    by_hand::{Heart, started, succeeds},
    job::{With, error_type},
    wait::always,
    within,
};

fn is_silent(run: &AgentRun) -> bool {
    run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some())
}

/// Only the gateway on record calls a runner of a Direct job silent, until that one is gone for a minute.
#[ignore = "more than a minute: make api-test SLOW=1"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_takes_over_from_one_that_was_killed() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.role("gateway").process.set("KOCO_IDENTITY", Some("first".into()));
    let service = Service::before(&mut roles).await;
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let spec = || agent("anything").heartbeat("4s").with(json!({ "retryPolicy": { "maximumAttempts": 1 } }));
    let (silent, back) = (test.apply(spec()).await, test.apply(spec()).await);
    let (_silent, last) = Heart::of(started(&kubelet, &silent, 1).await.1);
    let (pod, runner) = started(&kubelet, &back, 1).await;
    let (runner, _heart) = Heart::of(runner);

    roles.role("gateway").kill();
    drop(last);
    let mut others = Roles::of(&test, Server::None, &["gateway"]);
    others.set("KOCO_IDENTITY", "second");
    others.start().await;
    service.lead_to(&others);
    within(DEADLINE, "the second gateway", async || runner.register_again(RunnerState::Running, 0).await).await;
    let of =
        |name: &'static str| move |r: &AgentRun| r.status.as_ref().is_some_and(|s| s.gateway.as_deref() == Some(name));
    back.until_run("the second gateway on record", of("second")).await;

    let failed = silent.until_within(3 * DEADLINE, "a verdict", |s| s.phase == Some(Phase::Failed)).await;
    assert_eq!(error_type(&failed), "HeartbeatTimeout");
    assert!(silent.run().await.as_ref().is_some_and(of("first")), "whose runner it was");
    assert!(!back.run().await.is_some_and(|run| is_silent(&run) || run.is_closed()));
    succeeds(&kubelet, &back, &pod, &runner, json!(1)).await;
}

/// Their heartbeats found nobody for longer than a verdict takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stood_still_calls_no_runner_lost() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let _node = Node::automatic(&test);
    let mut jobs: Vec<Job<'_>> = Vec::new();
    // With five it would take itself to be cut off.
    for mode in [MODES, MODES].concat() {
        let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
        jobs.push(test.apply(agent("count").mode(mode).heartbeat("2s").with(once)).await);
    }
    for job in &jobs {
        job.phase(Phase::Running).await;
    }
    let no_verdict = async || {
        for job in &jobs {
            let run = job.run().await.ok_or_else(|| format!("{} has no run", job.name))?;
            if run.is_closed() || run.number() != 1 {
                return Err(format!("{}: {:?}", job.name, run.status));
            }
        }
        Ok(())
    };
    roles.role("gateway").freeze();
    always(Duration::from_secs(10), "no verdict while it stands still", no_verdict).await;
    roles.role("gateway").thaw();
    always(Duration::from_secs(8), "no verdict afterwards", no_verdict).await;
    for job in &jobs {
        job.until_run("contact", |run| !is_silent(run)).await;
        job.want(DesiredState::Cancelled).await;
        assert_eq!(job.phase(Phase::Cancelled).await.attempt, Some(1));
    }
}
