//! Roles whose machine's clock is hours off: nothing fails, and what is recorded is the API server's time.

use std::path::PathBuf;

use koco::api::AgentJob;
use serde_json::json;

use crate::harness::{
    DesiredState, ExecutionMode, MODES, Node, Phase, Role, Server, Test, agent,
    job::{With, error_type, started},
    temporal,
};

/// A clock for a role, which is right until it is stepped.
struct Clock(PathBuf);

impl Clock {
    /// From the role's next start on.
    fn of(test: &Test, role: &mut Role) -> Self {
        let file = test.cluster.dev.join(format!("data/tests/{}-clock-{}", test.namespace, role.name));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        role.process.set("KOCO_TEST_CLOCK", Some(file.display().to_string()));
        Self(file)
    }

    fn step(&self, hours: i64) {
        std::fs::write(&self.0, (hours * 3600).to_string()).expect("the clock");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_stepped_ends_no_job() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let clocks: Vec<Clock> = roles.list.iter_mut().map(|role| Clock::of(&test, role)).collect();
    roles.restart().await;
    let _node = Node::automatic(&test);
    let limits = json!({ "timeouts": { "execution": "30m", "pending": "20m", "heartbeat": "30m" } });
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).with(limits.clone())).await;
        job.until_run("the agent to start", started).await;
        jobs.push(job);
    }
    for clock in &clocks {
        for hours in [3, -3, 0] {
            clock.step(hours);
            for job in &jobs {
                job.want(DesiredState::Paused).await;
                job.phase(Phase::Paused).await;
                job.want(DesiredState::Running).await;
                job.phase(Phase::Running).await;
            }
        }
    }
    for job in &jobs {
        job.want(DesiredState::Cancelled).await;
        let status = job.phase(Phase::Cancelled).await;
        assert_eq!((status.attempt, job.run_number().await), (Some(1), 1));
        let ended: AgentJob = job.get().await;
        let (created, end) =
            (ended.metadata.creation_timestamp.expect("a time"), status.completion_time.expect("an end"));
        let took = end.0.duration_since(created.0).as_secs();
        assert!((-5..1800).contains(&took), "{took} s by koco's record");
    }
}

/// The controller asks Temporal for what was closed since a time of its own. Nobody else tells it of a job whose pod is
/// pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_closed_from_outside_is_seen_by_a_controller_from_the_future() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let clock = Clock::of(&test, roles.role("controller"));
    clock.step(3);
    roles.restart().await;
    let job = test.apply(agent("count").mode(ExecutionMode::Temporal)).await;
    job.until_pod().await;
    temporal::cli(&job.temporal, &["workflow", "terminate", "-w", &job.workflow().await]).expect("terminate");
    assert_eq!(error_type(&job.phase(Phase::Failed).await), "WorkflowClosed");
}
