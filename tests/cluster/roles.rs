//! Each role is stopped and started, alone.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, MODES, Phase, Roles, Server, Test, agent,
    agent_log::{same_process, starts, ticks},
    audit,
    job::With,
    node,
};

const COUNT: &str = "count?every_ms=50&until=go";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_in_mid_job() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let second = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[second].start().await;
    let spec = agent(COUNT).mode(ExecutionMode::Temporal).heartbeat("5s");
    let jobs = [test.apply(spec.clone()).await, test.apply(spec).await];
    for job in &jobs {
        job.counts().await;
    }
    // One, the other, both.
    roles.list[second].kill();
    roles.role("temporal-worker").kill();
    for job in &jobs {
        job.counts_on(20).await;
    }
    roles.role("temporal-worker").start().await;
    for job in &jobs {
        node::let_go(job).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, job.run_number().await), (Some(1), 1));
        let log = job.log().await;
        assert_eq!(starts(&log), 1);
        same_process(&ticks(&log));
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_on_its_own_task_queue_takes_only_its_jobs() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let other = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[other].process.set("KOCO_TASK_QUEUE", Some(format!("{}-other", test.namespace)));
    roles.list[other].start().await;
    roles.role("temporal-worker").kill();
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal)).await;
    job.until("a workflow", |s| s.workflow.is_some()).await;
    crate::harness::wait::always(Duration::from_secs(3), "it is not acquired", async || {
        if job.pods().await.is_empty() { Ok(()) } else { Err("a pod") }
    })
    .await;
    roles.role("temporal-worker").start().await;
    job.phase(Phase::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_killed_in_mid_job() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent(COUNT).mode(mode)).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    roles.role("controller").kill();
    for job in &jobs {
        job.counts_on(10).await;
    }
    roles.role("controller").start().await;
    for job in &jobs {
        node::let_go(job).await;
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
        same_process(&ticks(&job.log().await));
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

/// As far as it is cheap: kill -9 at many moments of jobs' beginnings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_many_moments() {
    let test = Test::new().await;
    let mut roles = test.operator(Server::Shared).await;
    let mut jobs = Vec::new();
    for round in 0..6u64 {
        for mode in MODES {
            jobs.push(test.apply(agent("succeed").mode(mode)).await);
        }
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        roles.restart().await;
    }
    for job in &jobs {
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, job.run_number().await), (Some(1), 1));
        assert_eq!(job.pods().await.len(), 1);
    }
    // A create whose client was killed before its answer is not audited as answered.
    assert!(audit::created(&test.namespace).len() <= jobs.len());
}

/// The leader is suspended for longer than its lease; another takes over; it resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_frozen() {
    let test = Test::new().await;
    let mut roles = Roles::separate(&test, Server::Shared);
    roles.set("KOCO_LEADER_ELECT", "true");
    roles.start().await;
    let job = test.apply(agent("succeed")).await;
    job.phase(Phase::Succeeded).await;
    let standby = roles.add(&test, Server::Shared, "controller");
    roles.set("KOCO_LEADER_ELECT", "true");
    roles.list[standby].start().await;
    roles.role("controller").freeze();
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("count?every_ms=50&until=100").mode(mode)).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    roles.role("controller").thaw();
    for job in &jobs {
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    }
    assert_eq!(audit::created(&test.namespace).len(), 3);
    let signals = crate::harness::temporal::signals(&jobs[1].history().await);
    assert_eq!(signals, ["runner_ready"], "once, and nothing was commanded that could be confirmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_drains_on_sigterm() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("count").mode(mode).heartbeat("5s")).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    for name in ["temporal-worker", "gateway", "controller"] {
        let status = roles.role(name).process.stop(Duration::from_secs(30));
        assert!(status.success(), "{name}: {status}");
        roles.role(name).start().await;
    }
    for job in &jobs {
        job.counts_on(20).await;
        job.want(DesiredState::Cancelled).await;
        assert_eq!(job.phase(Phase::Cancelled).await.attempt, Some(1));
    }
    let mut roles = test.operator(Server::Shared).await;
    let status = roles.role("operator").process.stop(Duration::from_secs(30));
    assert!(status.success(), "operator: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_there() {
    let (test, mut roles) = Test::with_operator().await;
    test.apply(agent("succeed").with(json!({}))).await.phase(Phase::Succeeded).await;
    let metrics = roles.role("operator").metrics().await;
    assert!(metrics.contains("koco_"), "{metrics}");
}
