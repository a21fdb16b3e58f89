//! Workflow code must replay what older releases have begun: the histories in tests/histories were recorded from real
//! runs (`make record-histories`). One that no longer replays is a job that would be stuck after an upgrade.

use std::{collections::BTreeMap, path::PathBuf};

use koco::worker::AgentWorkflow;
use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

fn replayer() -> WorkflowReplayer {
    let options = WorkflowReplayerOptions::new().register_workflow::<AgentWorkflow>().unwrap().build();
    WorkflowReplayer::new(options).unwrap()
}

fn recorded() -> BTreeMap<String, Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let json = files.filter(|p| p.extension().is_some_and(|e| e == "json"));
    json.map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap())).collect()
}

#[tokio::test]
async fn every_recorded_history_replays() {
    let recorded = recorded();
    for needed in [
        "success",
        "local-start-timed-out",
        "paused-while-starting",
        "cancelled-while-starting-locally",
        "continues-while-starting",
        "two-failures-then-success",
        "attempts-used-up",
        "adoption",
        "pause-and-resume",
        "evict-and-resume",
        "cancelled-while-running",
        "cancelled-in-back-off",
        "cancelled-natively",
        "continues-while-running",
        "continued-while-running",
    ] {
        assert!(recorded.contains_key(needed), "{needed} is missing");
    }
    let mut broken = Vec::new();
    for (name, json) in &recorded {
        if let Err(e) = replayer().replay_workflow(WorkflowHistory::from_json(json).unwrap()).await {
            broken.push(format!("{name}: {e}"));
        }
    }
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), recorded.len(), broken.join("\n"));
    println!("{} histories", recorded.len());
}

/// A history that the code can't have produced must fail, or the test above proves nothing.
#[tokio::test]
async fn a_history_of_other_code_is_noticed() {
    let json = String::from_utf8(recorded()["two-failures-then-success"].clone()).unwrap();
    let other = json.replace("\"start_runner\"", "\"another_activity\"");
    assert_ne!(json, other);
    let replayed = replayer().replay_workflow(WorkflowHistory::from_json(other.as_bytes()).unwrap()).await;
    assert!(replayed.is_err());
}
