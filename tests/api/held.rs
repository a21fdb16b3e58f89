//! A role that is suspended before one of its writes, and resumes after another has taken over.

use serde_json::json;

use crate::harness::{
    ApiProxy, ExecutionMode, MODES, Node, Phase, Roles, Server, Service, Test, agent, audit,
    job::With,
    run::{grants, records_the_end},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_frozen_before_it_creates_a_pod() {
    let test = Test::new().await;
    let _node = Node::automatic(&test);
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    let proxy = ApiProxy::before(&test, roles.role("controller")).await;
    roles.start().await;
    let held = proxy.hold("create pods");
    let job = test.apply(agent("succeed")).await;
    assert_eq!(held.reached().await.verb, "create");
    roles.role("controller").freeze();
    assert!(audit::created(&test.namespace).is_empty(), "the API server has not heard of it");
    let standby = roles.add(&test, Server::None, "controller");
    roles.list[standby].start().await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(held.late().await, 409, "the pod is there already");
    roles.role("controller").thaw();
    assert_eq!(audit::created(&test.namespace).len(), 1);
    assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    let creates = proxy.written().into_iter().filter(|(asked, _)| asked.words() == "create pods");
    assert_eq!(creates.map(|(_, code)| code).collect::<Vec<_>>(), [409]);
}

/// The sender may be gone for good: what it sent arrives all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_outlives_its_sender() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    let proxy = ApiProxy::before(&test, roles.role("controller")).await;
    roles.start().await;
    let held = proxy.hold("create pods");
    let job = test.apply(agent("succeed")).await;
    held.reached().await;
    roles.role("controller").kill();
    assert!(job.pods().await.is_empty());
    assert_eq!(held.late().await, 201);
    assert_eq!(job.pods().await.len(), 1);
    roles.role("controller").start().await;
    job.until("its pod on record", |s| s.runner_pod_uid.is_some()).await;
    assert_eq!(audit::created(&test.namespace).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_frozen_before_it_records_an_end() {
    let test = Test::new().await;
    let _node = Node::automatic(&test);
    let mut roles = Roles::separate(&test, Server::Shared);
    let service = Service::before(&mut roles).await;
    let proxy = ApiProxy::before(&test, roles.role("gateway")).await;
    roles.start().await;
    let mut others = Roles::of(&test, Server::Shared, &["gateway"]);
    others.start().await;
    for mode in MODES {
        let held = proxy.hold_where(records_the_end);
        let job = test.apply(agent("succeed").mode(mode).with(json!({ "inputs": { "a": 1 } }))).await;
        held.reached().await;
        roles.role("gateway").freeze();
        service.lead_to(&others);
        let status = job.phase(Phase::Succeeded).await;
        let late = held.late().await;
        assert!([409, 422].contains(&late), "{late} in {mode:?}");
        roles.role("gateway").thaw();
        assert_eq!(job.run_number().await, 1);
        assert_eq!(status.result, Some(json!({ "inputs": { "a": 1 } }).into()));
        service.lead_to(&roles);
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

/// The write that is late finds that the same has been written by another, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_before_it_grants_the_start() {
    let test = Test::new().await;
    let _node = Node::automatic(&test);
    let mut roles = Roles::separate(&test, Server::Shared);
    let proxy = ApiProxy::before(&test, roles.role("temporal-worker")).await;
    let line = Service::to_temporal(&test, roles.role("temporal-worker")).await;
    roles.start().await;
    let held = proxy.hold_where(grants);
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal).heartbeat("2s")).await;
    held.reached().await;
    roles.role("temporal-worker").freeze();
    line.cut();
    let second = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[second].start().await;
    let status = job.phase(Phase::Succeeded).await;
    let late = held.late().await;
    assert!([409, 422].contains(&late), "{late}");
    line.mend(&test.cluster.temporal);
    roles.role("temporal-worker").thaw();
    assert_eq!((status.attempt, job.run_number().await), (Some(1), 1));
    assert_eq!(job.closed(&job.workflow().await).await, "COMPLETED");
    assert_eq!(audit::created(&test.namespace).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_frozen_before_it_creates_a_pod() {
    let test = Test::new().await;
    let _node = Node::automatic(&test);
    let mut roles = Roles::separate(&test, Server::Shared);
    let proxy = ApiProxy::before(&test, roles.role("temporal-worker")).await;
    let line = Service::to_temporal(&test, roles.role("temporal-worker")).await;
    roles.start().await;
    let held = proxy.hold("create pods");
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal)).await;
    held.reached().await;
    roles.role("temporal-worker").freeze();
    line.cut();
    let second = roles.add(&test, Server::Shared, "temporal-worker");
    roles.list[second].start().await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(held.late().await, 409, "the pod is there already");
    line.mend(&test.cluster.temporal);
    roles.role("temporal-worker").thaw();
    assert_eq!(audit::created(&test.namespace).len(), 1);
}
