//! A controller that takes over knows nothing of the workflows yet: what is on record stays so.

use futures::StreamExt;
use koco::api::conditions;
use kube::{
    ResourceExt,
    api::{WatchEvent, WatchParams},
};
use serde_json::json;

use crate::harness::{DesiredState, ExecutionMode, Node, Phase, Server, Test, agent, job::With};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_paused_are_so_all_the_time() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let _node = Node::automatic(&test);
    let spec = || agent("count").mode(ExecutionMode::Temporal);
    let held = test.apply(spec().with(json!({ "desiredState": "Paused" }))).await;
    let evicted = test.apply(spec().with(json!({ "pausePolicy": "Evict" }))).await;
    evicted.phase(Phase::Running).await;
    evicted.want(DesiredState::Paused).await;
    for job in [&held, &evicted] {
        job.phase(Phase::Paused).await;
    }

    let before = test.jobs().list(&Default::default()).await.expect("the jobs").metadata.resource_version;
    let controller = roles.role("controller");
    controller.kill();
    controller.start().await;
    // It has had an answer of a workflow when this one is paused.
    let other = test.apply(spec().with(json!({ "desiredState": "Paused" }))).await;
    other.phase(Phase::Paused).await;

    let since = test.jobs().watch(&WatchParams::default(), &before.expect("a version")).await.expect("a watch");
    let mut since = std::pin::pin!(since);
    while let Some(event) = since.next().await {
        let WatchEvent::Modified(job) = event.expect("an event") else { continue };
        let status = job.status.clone().unwrap_or_default();
        let condition = status.conditions.iter().find(|c| c.type_ == conditions::PAUSED).map(|c| c.status.as_str());
        let is_paused = status.phase == Some(Phase::Paused) && condition == Some("True");
        match job.name_any() == other.name {
            true if is_paused => break,
            true => {}
            false => assert!(is_paused, "{}: {status:?}", job.name_any()),
        }
    }
    for job in [&held, &evicted] {
        job.want(DesiredState::Running).await;
        job.phase(Phase::Running).await;
    }
}
