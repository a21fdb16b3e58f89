//! Agents that run and do nothing else, half of each mode, and a controller that starts beside them.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use kube::{
    api::{DynamicObject, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;

use crate::{
    harness::{ExecutionMode, Node, Roles, Test, job::With, job::manifest, within},
    objects::{CREATORS, LIMIT},
};

/// Creates the jobs with these numbers beside those with lower ones, and returns when all run and are connected.
pub async fn start(test: &Test, node: &Node, spec: &Value, numbers: Range<usize>) {
    let (jobs, wanted) = (test.raw_jobs(), numbers.end);
    let create = async |n: usize| {
        let mode = if n.is_multiple_of(2) { ExecutionMode::Direct } else { ExecutionMode::Temporal };
        let job = manifest(&format!("resting-{n}"), spec.clone().mode(mode));
        let job: DynamicObject = serde_json::from_value(job).expect("a job");
        jobs.create(&PostParams::default(), &job).await.expect("a job");
    };
    let all = async { stream::iter(numbers).map(create).buffer_unordered(CREATORS).collect::<Vec<()>>().await };
    let running = async {
        let mut phases = HashMap::<String, bool>::new();
        let mut events = watcher(test.raw_jobs(), watcher::Config::default()).default_backoff().boxed();
        let (mut running, mut said) = (0, Instant::now());
        while running < wanted {
            let Some(event) = events.next().await else { return };
            let Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event else { continue };
            let runs = job.data["status"]["phase"] == "Running";
            let ran = phases.insert(job.metadata.name.unwrap_or_default(), runs).unwrap_or_default();
            running = running + usize::from(runs) - usize::from(ran);
            if said.elapsed() > Duration::from_secs(15) {
                eprintln!("{running} of {wanted} run");
                said = Instant::now();
            }
        }
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(all, running) }).await.expect("all run in time");
    all_connected(node, wanted).await;
}

/// Waits until so many runners have their streams.
pub async fn all_connected(node: &Node, wanted: usize) {
    within(LIMIT, "all runners to be connected", async || {
        let connected = node.diary.connected();
        if connected >= wanted { Ok(()) } else { Err(connected) }
    })
    .await;
}

/// As a Deployment does it: it gives its lease back.
pub fn restart_controller(roles: &mut Roles) {
    let controller = &mut roles.role("controller").process;
    controller.stop(LIMIT);
    controller.start();
}

/// Waits until a controller that has just been started has looked at each of so many jobs.
pub async fn controller_catches_up(roles: &mut Roles, jobs: usize) {
    let controller = roles.role("controller");
    controller.ready().await;
    within(LIMIT, "each job to be looked at", async || {
        let seen = controller.count("koco_reconciles_total").await;
        if seen >= jobs { Ok(()) } else { Err(seen) }
    })
    .await;
}
