//! Objects that are as large as the API server takes them: koco says so, and leaves nothing running.

use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::harness::{
    Job, MODES, Phase, Test, agent,
    by_hand::event,
    job::{With, error_type, manifest},
};

/// A template with variables of so many bytes.
fn padded(bytes: usize) -> Value {
    let mut spec = agent("anything");
    let parts = (0..bytes).step_by(100_000).map(|from| "x".repeat((bytes - from).min(100_000)));
    let variables = parts.enumerate().map(|(n, value)| json!({ "name": format!("PAD_{n}"), "value": value }));
    spec["template"]["spec"]["containers"][0]["env"] = variables.collect();
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_template_fails_its_job_and_makes_no_pod() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(padded(1_100_000).mode(mode)).await;
        assert_eq!(error_type(&job.phase(Phase::Failed).await), "TemplateTooLarge", "in {mode:?}");
        assert_eq!((job.runs().await.len(), job.pods().await.len()), (0, 0), "in {mode:?}");
        // What fits has its pod.
        test.apply(padded(1_000_000).mode(mode)).await.pod(1).await;
    }
}

/// Its status finds no room beside its spec: only an event can say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_room_for_its_status_is_told_of() {
    let (test, _roles) = Test::with_operator().await;
    // The largest that is taken.
    let mut bytes = 1_572_000;
    let made = loop {
        let object = manifest(&test.next_name(), padded(bytes));
        let object: DynamicObject = serde_json::from_value(object).expect("a job");
        match test.raw_jobs().create(&PostParams::default(), &object).await {
            Ok(made) => break made,
            Err(e) => assert!(e.to_string().contains("too large"), "{e}"),
        }
        bytes -= 200;
    };
    let (name, uid) = (made.metadata.name.expect("a name"), made.metadata.uid.expect("a UID"));
    let told = event(&test, &name, "RequestRefused").await;
    assert!(told.message.unwrap_or_default().contains("request is too large"));
    assert_eq!(Job::new(&test, &name, &uid).runs().await.len(), 0);
}
