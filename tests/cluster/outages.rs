//! Outages of other components: the same agents run on.

use koco::api::{AgentRun, conditions};
use serde_json::json;

use crate::harness::{
    DEADLINE, ExecutionMode, Job, MODES, Phase, Server, TemporalServer, Test, Tick, agent,
    agent_log::{same_process, starts, ticks},
    audit,
    job::{With, condition, pod_uid, result},
    node, temporal, within,
};

const COUNT: &str = "count?every_ms=50&until=go";

/// Lets it end.
async fn it_is_one_agent(job: &Job<'_>) -> Vec<Tick> {
    node::let_go(job).await;
    it_was_one_agent(job).await
}

/// One agent, in one pod, from the first tick to the last.
async fn it_was_one_agent(job: &Job<'_>) -> Vec<Tick> {
    let status = job.phase(Phase::Succeeded).await;
    assert_eq!(status.attempt, Some(1));
    assert_eq!(job.run_number().await, 1, "one pod");
    let log = job.log().await;
    assert_eq!(starts(&log), 1, "one agent");
    let ticks = ticks(&log);
    same_process(&ticks);
    assert_eq!(result(&status)["inMemory"], json!(ticks.len()));
    ticks
}

/// How often the runner was bound anew.
fn binding(run: &AgentRun) -> i32 {
    run.spec.grant.as_ref().map_or(0, |grant| grant.binding)
}

async fn ticks_past(job: &Job<'_>, moment: u64) {
    job.until_log("ticks", |log| ticks(log).last().filter(|t| t.at > moment).map(drop)).await;
}

/// A heartbeat time-out alone kills no agent. The gateway comes back a little later than
/// Temporal, so that every heartbeat times out; without that most runners are quicker than the server's timers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporal_away_for_longer_than_the_heartbeat_timeout() {
    let mut server = TemporalServer::new("temporal-away");
    server.start().await;
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Own(&server)).await;
    let spec = agent(COUNT).mode(ExecutionMode::Temporal).heartbeat("5s");
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(test.apply(spec.clone()).await.on(&server.address));
    }
    // Direct jobs never notice.
    let direct = test.apply(agent(COUNT).mode(ExecutionMode::Direct).heartbeat("5s")).await;
    for job in jobs.iter().chain([&direct]) {
        job.counts().await;
    }
    server.kill();
    let killed = crate::harness::agent_log::now();
    // The status shows a job that can't be passed on.
    let late = test.apply(agent("succeed").mode(ExecutionMode::Temporal)).await.on(&server.address);
    late.until("the condition that says so", |s| condition(s, conditions::READY).0 == "False").await;
    roles.role("gateway").kill();
    ticks_past(&jobs[0], killed + 7_000).await;
    server.start().await;
    for job in &jobs {
        job.until_run("a heartbeat time-out, and the runner bound anew", |r| binding(r) > 0).await;
    }
    roles.role("gateway").start().await;
    for job in &jobs {
        it_is_one_agent(job).await;
        assert_eq!(job.closed(&job.workflow().await).await, "COMPLETED");
        let starts = temporal::activities(&job.history().await);
        // The first is a local one, which has an activity after it where the machine is slow.
        assert!(starts.iter().filter(|a| *a == "start_runner").count() <= 1, "{starts:?}");
    }
    it_is_one_agent(&direct).await;
    late.phase(Phase::Succeeded).await;
    assert_eq!(audit::created(&test.namespace).len(), 5);
}

/// The agent ends while Temporal is away: how it ended is delivered afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_while_temporal_is_away() {
    let mut server = TemporalServer::new("ends-while-away");
    server.start().await;
    let test = Test::new().await;
    let _roles = test.operator(Server::Own(&server)).await;
    let spec = agent(COUNT).mode(ExecutionMode::Temporal).heartbeat("5s");
    let job = test.apply(spec).await.on(&server.address);
    job.counts().await;
    server.kill();
    node::let_go(&job).await;
    job.until_run("its termination on record", AgentRun::is_closed).await;
    server.start().await;
    it_was_one_agent(&job).await;
    assert_eq!(audit::created(&test.namespace).len(), 1);
}

/// No garbage collection takes a healthy runner for an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_the_operator_killed_and_started_again() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent(COUNT).mode(mode).heartbeat("5s")).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    for _ in 0..3 {
        roles.kill_all();
        let now = crate::harness::agent_log::now();
        ticks_past(&jobs[0], now + 1_000).await;
        roles.start().await;
        for job in &jobs {
            job.counts_on(5).await;
        }
    }
    for job in &jobs {
        it_is_one_agent(job).await;
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

/// The agent ends while no role runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_while_the_operator_is_down() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent(COUNT).mode(mode).heartbeat("5s")).await);
    }
    let mut pods = Vec::new();
    for job in &jobs {
        job.counts().await;
        pods.push(pod_uid(&job.pods().await[0]));
    }
    roles.kill_all();
    for job in &jobs {
        node::let_go(job).await;
    }
    for pod in &pods {
        within(DEADLINE, "the agent to end", async || {
            let left = node::processes(pod, "test-agent");
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
    roles.start().await;
    for job in &jobs {
        it_was_one_agent(job).await;
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

/// No gateway for longer than twice the heartbeat time-out; Temporal and the controller run all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_away_for_longer_than_the_heartbeat_timeout() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent(COUNT).mode(mode).heartbeat("5s")).await);
    }
    for job in &jobs {
        job.counts().await;
    }
    roles.role("gateway").kill();
    let killed = crate::harness::agent_log::now();
    ticks_past(&jobs[0], killed + 14_000).await;
    roles.role("gateway").start().await;
    for job in &jobs {
        it_is_one_agent(job).await;
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

/// A reset of the activity in Temporal: its tries begin again at 1, and an earlier one looks later than a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_that_is_reset_keeps_its_runner() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let job = test.apply(agent(COUNT).mode(ExecutionMode::Temporal).heartbeat("5s")).await;
    job.counts().await;
    for round in 0..2 {
        let before = job.run().await.as_ref().map_or(0, binding);
        roles.role("gateway").kill();
        job.until_run("the runner bound anew", |r| binding(r) > before).await;
        roles.role("gateway").start().await;
        let acknowledged = |r: &AgentRun| r.acknowledged().is_some_and(|a| a.binding == binding(r));
        job.until_run("its acknowledgement", acknowledged).await;
        if round == 0 {
            let id = job.workflow().await;
            let reset = ["activity", "reset", "--activity-id", "execute_agent-1", "--workflow-id", &id];
            temporal::cli(&job.temporal, &reset).expect("reset");
        }
    }
    it_is_one_agent(&job).await;
    assert_eq!(job.closed(&job.workflow().await).await, "COMPLETED");
}
