//! Any payload of any signal, as Temporal delivers it: through the SDK, into the workflow. A workflow task that fails or
//! panics here would block its job for ever.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use koco::{
    protocol::workflow::{
        Request, SIGNAL_CANCEL, SIGNAL_RESUME, SIGNAL_RUNNER_CONFIRMED, SIGNAL_RUNNER_FAILED, SIGNAL_RUNNER_READY,
    },
    worker::AgentWorkflow,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

use super::common::{check, json, nearly, text};

/// A recorded workflow whose agent runs while all kinds of signals arrive, and where in it they are.
static RECORDED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../histories/any-payload.json")).expect("a history"));
const SIGNALED: &str = "WorkflowExecutionSignaledEventAttributes";
static SIGNALS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let events = RECORDED["events"].as_array().expect("events");
    // The first may make the agent start.
    let signals = events.iter().enumerate().filter(|(_, event)| event["attributes"][SIGNALED].is_object());
    signals.map(|(at, _)| at).skip(1).collect()
});

/// A payload: bytes with the encoding that they are said to have.
type Payload = (Option<String>, Vec<u8>);

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let request = json!({ "id": "1/2", "desired": "Paused" });
    let ours =
        json!({ "epoch": 1, "seq": 1, "state": "Frozen", "error": { "type": "T", "message": "m" }, "fatal": true });
    let text = |value: Value| value.to_string().into_bytes();
    let deep = (0_usize..2_000).prop_map(|levels| "[".repeat(levels).into_bytes());
    prop_oneof![
        1 => any::<Vec<u8>>(),
        1 => json().prop_map(text),
        2 => nearly(request).prop_map(text),
        2 => nearly(ours).prop_map(text),
        1 => deep,
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let known = ["json/plain", "binary/null", "binary/plain", "json/protobuf", "binary/encrypted"];
    let encoding = prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_string), text()];
    (prop::option::weighted(0.9, encoding), bytes())
}

/// The name of a signal, but no pause, which pauses whatever comes with it, and no cancel, which is recorded at the end.
fn name() -> impl Strategy<Value = &'static str> {
    let known = [SIGNAL_RESUME, SIGNAL_RUNNER_READY, SIGNAL_RUNNER_FAILED, SIGNAL_RUNNER_CONFIRMED];
    prop::sample::select([&known[..], &["no_such_signal"]].concat())
}

/// The payloads of one signal. None is a request with an id, by which others would be ignored: with such, the workflow
/// rightly goes another way than recorded.
fn payloads() -> impl Strategy<Value = Vec<Payload>> {
    let one = payload().prop_filter("a request", |(_, data)| serde_json::from_slice::<Request>(data).is_err());
    let one = one.boxed();
    prop_oneof![4 => one.clone().prop_map(|p| vec![p]), 1 => prop::collection::vec(one, 0..3)]
}

fn history(signals: &[(&str, Vec<Payload>)]) -> Vec<u8> {
    let mut history = RECORDED.clone();
    for (at, (name, payloads)) in SIGNALS.iter().zip(signals) {
        let payloads = payloads.iter().map(|(encoding, data)| {
            let metadata = encoding.as_ref().map_or(json!({}), |e| json!({ "encoding": BASE64_STANDARD.encode(e) }));
            json!({ "metadata": metadata, "data": BASE64_STANDARD.encode(data) })
        });
        let input = json!({ "payloads": payloads.collect::<Vec<_>>() });
        let signaled = &mut history["events"][*at]["attributes"][SIGNALED];
        signaled["input"] = input;
        if signaled["signal_name"] != SIGNAL_CANCEL {
            signaled["signal_name"] = json!(name);
        }
    }
    history.to_string().into_bytes()
}

#[test]
fn no_payload_fails_a_workflow_task() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    assert!(SIGNALS.len() >= 20);
    check("signals", prop::collection::vec((name(), payloads()), SIGNALS.len()), |signals| {
        let history = WorkflowHistory::from_json(&history(&signals)).expect("a history");
        let replayed = runtime.block_on(async {
            let options =
                WorkflowReplayerOptions::new().register_workflow::<AgentWorkflow>().expect("registered").build();
            WorkflowReplayer::new(options).expect("a replayer").replay_workflow(history).await
        });
        prop_assert!(replayed.is_ok(), "{}", replayed.err().map(|e| e.to_string()).unwrap_or_default());
        Ok(())
    });
}
