//! The controller's lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::harness::{DEADLINE, Phase, Roles, Server, Test, agent, within};

/// Who holds the lease; empty if nobody does.
async fn holder(test: &Test) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(test.client.clone(), &test.namespace);
    leases.get_opt("koco-controller").await.expect("an answer")?.spec?.holder_identity
}

/// So that a rollout doesn't leave all jobs without a controller until the lease has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_ends_gives_its_lease_back() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["controller", "gateway"]);
    roles.set("KOCO_LEADER_ELECT", "true");
    roles.start().await;
    let leader =
        within(DEADLINE, "a leader", async || holder(&test).await.filter(|h| !h.is_empty()).ok_or("none")).await;
    let job = test.apply(agent("anything")).await;
    job.until_pod().await;
    assert!(roles.role("controller").process.stop(Duration::from_secs(30)).success());
    assert_eq!(holder(&test).await.as_deref(), Some(""), "{leader} has ended");
    roles.role("controller").start().await;
    test.apply(agent("anything")).await.phase(Phase::Pending).await;
}
