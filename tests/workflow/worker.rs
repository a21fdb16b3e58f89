//! The worker role: its start, readiness, independence of Kubernetes, and stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use koco::{
    api::names,
    platform::metrics::Metrics,
    pods::{PodConfig, PodSettings},
    protocol::workflow::{QUERY_STATUS, Stage, StatusAnswer},
    temporal::{Settings, Temporal},
    worker::{Activities, Installation, LocalSlots, WorkerSettings, run},
};
use tokio_util::sync::CancellationToken;

use crate::fixture::{input, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_and_stops_and_outlives_kubernetes() {
    let queue = format!("koco-role-{}", std::process::id());
    let temporal = Temporal::new(Settings::from_env("test").unwrap());
    // No server listens there.
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let pods = PodSettings {
        runner_image: String::new(),
        runner_image_pull_policy: String::new(),
        runner_image_pull_secrets: vec![],
        runner_resources: serde_json::json!({}),
        runner_security_context: serde_json::json!({}),
        gateway_url: String::new(),
    };
    let pods = PodConfig::follow(client.clone(), "koco-system", pods);
    // The cluster's id can't be read either.
    let installation = Installation::new(client.clone(), None, "koco-system".into());
    let local_slots = LocalSlots::new(&WorkerSettings::default());
    let (client_of, metrics) = (temporal.clone(), Metrics::default());
    let activities = Activities { client, temporal: client_of, pods, metrics, installation, local_slots };
    let (ready, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let role =
        tokio::spawn(run(WorkerSettings::default(), Some(queue.clone()), activities, ready.clone(), stop.clone()));
    until("it is ready", || async { ready.load(Ordering::Relaxed).then_some(()) }).await;

    temporal.connected().await.unwrap();
    let input = input("without-kubernetes");
    let id = names::workflow("test", &input.job.uid);
    temporal.start(&id, &queue, &input).await.unwrap();
    let look = || async { temporal.query::<StatusAnswer>(&id, QUERY_STATUS).await.ok() };
    let status = until("the workflow waits", look).await;
    assert_eq!(status.status, Stage::Pending);
    let tried = || async {
        let described = temporal.client().unwrap().get_workflow_handle::<temporalio_client::UntypedWorkflow>(&id);
        let described = described.describe(Default::default()).await.ok()?;
        let pending = &described.raw().pending_activities;
        pending.iter().any(|a| a.attempt > 1 && a.last_failure.is_some()).then_some(())
    };
    until("start_runner is tried again", tried).await;

    let since = Instant::now();
    stop.cancel();
    role.await.unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_secs(25));
    assert!(!ready.load(Ordering::Relaxed));
}
