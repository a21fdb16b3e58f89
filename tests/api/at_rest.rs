//! What agents cost that run and do nothing else: heartbeats, and no writes.

use std::time::Duration;

use futures::{StreamExt, stream};
use koco::{api::AgentJobStatus, protocol::workflow::Stage};

use crate::harness::{DEADLINE, ExecutionMode, Job, MODES, Node, Phase, Roles, Test, agent, audit, job::With, within};

/// How many agents of each mode.
const EACH: usize = 100;
/// How long is counted: twice the heartbeat time-out.
const WINDOW: Duration = Duration::from_secs(60);

/// How long the controller may keep back what is only informative.
const COALESCED: Duration = Duration::from_secs(6);

/// Writes to the status of jobs and runs, and all writes to runs.
fn writes(test: &Test) -> (usize, usize) {
    (audit::status_writes(&test.namespace), audit::run_writes(&test.namespace))
}

/// Waits until all that there is to say of the agents has been written.
async fn settled(test: &Test, jobs: &[(ExecutionMode, Job<'_>)]) -> (usize, usize) {
    let running = Stage::Running.as_str();
    for (mode, job) in jobs {
        let told = |s: &AgentJobStatus| {
            *mode == ExecutionMode::Direct || s.workflow.as_ref().is_some_and(|w| w.status.as_deref() == Some(running))
        };
        job.until("it to run", |s| s.phase == Some(Phase::Running) && s.runner_pod_uid.is_some() && told(s)).await;
    }
    let mut last = (0, 0);
    within(DEADLINE, "the roles to come to rest", async || {
        tokio::time::sleep(COALESCED).await;
        let before = std::mem::replace(&mut last, writes(test));
        if last == before { Ok(last) } else { Err((before, last)) }
    })
    .await
}

async fn heartbeats(roles: &mut Roles) -> usize {
    roles.role("operator").count("koco_heartbeats_total").await
}

#[ignore = "more than a minute: make api-test SLOW=1"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_cost_no_writes() {
    let (test, mut roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let all = MODES.into_iter().flat_map(|mode| std::iter::repeat_n(mode, EACH));
    let start = async |mode| (mode, test.apply(agent("sleep").mode(mode).heartbeat("30s")).await);
    let jobs: Vec<_> = stream::iter(all).map(start).buffer_unordered(8).collect().await;
    let (written, heard) = (settled(&test, &jobs).await, heartbeats(&mut roles).await);
    assert!(written.0 >= 4 * EACH, "the audit log has none of the writes that started them: {written:?}");
    tokio::time::sleep(WINDOW).await;
    assert_eq!(writes(&test), written, "status writes, and writes to runs, of {} agents at rest", jobs.len());
    within(DEADLINE, "two heartbeats of each", async || {
        let more = heartbeats(&mut roles).await - heard;
        if more >= 2 * jobs.len() { Ok(()) } else { Err(more) }
    })
    .await;
}
