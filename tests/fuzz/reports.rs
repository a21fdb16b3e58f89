//! What agents may make of a run's end: termination messages, and the ends that runners report.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use koco::{
    api::{AgentRun, TerminationSource, TerminationType, Usage, depth},
    lifecycle,
    pods::{AgentContainer, PodView, ending},
    protocol::{
        error_types,
        key::PublicKey,
        runner::{AgentEnd, EndReport, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, MAX_RESULT_DEPTH},
        termination,
    },
};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use super::common::{check, json, nearly, text};

const TIME: &str = "2026-01-01T00:00:00Z";

/// A run of this record: granted or not, with a command or not.
fn run(granted: bool, evicts: bool, command: Option<&str>, key: Option<&PublicKey>) -> AgentRun {
    let policy = if evicts { "Evict" } else { "Freeze" };
    let mut run = json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r", "uid": "u" },
        "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
            "executionMode": "Direct", "heartbeat": "1s", "pausePolicy": policy } },
    });
    if granted {
        run["spec"]["grant"] = json!({ "time": TIME, "binding": 0 });
        run["status"] = json!({ "readyTime": TIME, "podUID": "u" });
    }
    if let Some(state) = command {
        run["spec"]["command"] = json!({ "state": state, "generation": 1, "time": TIME });
    }
    if let Some(key) = key {
        run["status"]["publicKey"] = json!(key.to_string());
    }
    serde_json::from_value(run).expect("a run")
}

fn end() -> impl Strategy<Value = AgentEnd> {
    let kinds =
        [TerminationType::Succeeded, TerminationType::Failed, TerminationType::Evicted, TerminationType::Cancelled];
    let kind = prop::sample::select(kinds.to_vec());
    let error = prop::option::of((text(), "(?s).{0,4000}"));
    let large = (0_usize..60_000).prop_map(|length| json!("x".repeat(length)));
    let deep = (0_usize..120).prop_map(|levels| (0..levels).fold(json!(1), |inner, _| json!([inner])));
    let result = prop::option::of(prop_oneof![6 => json(), 1 => large, 1 => deep]);
    let numbers = (any::<i64>(), any::<i64>());
    (kind, any::<bool>(), error, any::<bool>(), any::<Option<i32>>(), result, numbers).prop_map(
        |(kind, started, error, non_retryable, exit_code, result, (active_millis, used))| AgentEnd {
            kind,
            started,
            error: error.map(|(kind, message)| koco::api::ErrorStatus { kind, message }),
            non_retryable,
            exit_code,
            result,
            active_millis,
            usage: Usage { input_tokens: used, ..Usage::default() },
            result_omitted: false,
        },
    )
}

fn pair() -> (KeyPair, PublicKey) {
    let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let key = PublicKey::from_spki(&pair.subject_public_key_info()).expect("Ed25519");
    (pair, key)
}

/// How an agent may try to make a message of its own from its runner's.
#[derive(Clone, Debug)]
enum Forgery {
    /// Not even close.
    Text(String),
    Json(Value),
    /// The right form, with any signature.
    Form(Value, String),
    /// The right form, with a signature by another key.
    OtherKey,
    /// The signature of the runner's, and another end.
    OtherEnd(Value),
    /// The runner's, with another character in this place.
    Changed(usize, char),
    Cut(usize),
    /// The runner's, and more.
    Longer(String),
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        text().prop_map(Forgery::Text),
        json().prop_map(Forgery::Json),
        (json(), "[0-9a-f]{128}|[0-9a-fA-F]{0,200}|.{0,9}").prop_map(|(end, s)| Forgery::Form(end, s)),
        Just(Forgery::OtherKey),
        nearly(json!({ "kind": "Succeeded", "started": true, "result": 1, "activeMillis": 1 }))
            .prop_map(Forgery::OtherEnd),
        (any::<usize>(), any::<char>()).prop_map(|(at, c)| Forgery::Changed(at, c)),
        any::<usize>().prop_map(Forgery::Cut),
        text().prop_map(Forgery::Longer),
    ]
}

fn forge(forgery: &Forgery, real: &str, end: &AgentEnd, other: &KeyPair) -> String {
    let signature = serde_json::from_str::<Value>(real).expect("JSON")["signature"].clone();
    let mut characters: Vec<char> = real.chars().collect();
    match forgery {
        Forgery::Text(text) => text.clone(),
        Forgery::Json(value) => value.to_string(),
        Forgery::Form(end, signature) => json!({ "end": end, "signature": signature }).to_string(),
        Forgery::OtherKey => termination::sign(end, other).expect("a message"),
        Forgery::OtherEnd(end) => json!({ "end": end, "signature": signature }).to_string(),
        Forgery::Changed(at, with) => {
            let at = at % characters.len();
            characters[at] = *with;
            characters.into_iter().collect()
        }
        Forgery::Cut(at) => characters[..at % characters.len()].iter().collect(),
        Forgery::Longer(more) => format!("{real}{more}"),
    }
}

/// Whatever an agent leaves as its termination message: only its runner's own words count as the runner's.
#[test]
fn only_what_the_runner_signed_is_believed() {
    let (runner, key) = pair();
    let (other, _) = pair();
    let now = Time(TIME.parse::<Timestamp>().expect("a time"));
    check("termination messages", (end(), forgery()), |(end, forgery)| {
        let real = termination::sign(&end, &runner).expect("a message");
        let Some(said) = termination::verify(&real, &key) else {
            // Only what is too deep to be read again.
            let depth = end.result.as_ref().map_or(0, |r| depth(&r.to_string()));
            prop_assert!(depth > MAX_RESULT_DEPTH, "its own message is not read");
            return Ok(());
        };
        let message = forge(&forgery, &real, &end, &other);
        let believed = termination::verify(&message, &key);
        prop_assert!(believed.is_none() || believed.as_ref() == Some(&said), "{:?}", believed);
        let agent = AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), message: Some(message) };
        let pod = PodView { name: "p".into(), uid: "u".into(), agent, ..PodView::default() };
        let run = run(true, false, None, Some(&key));
        let ended = ending::derive(&run, Some(&pod), None, &now).expect("it has ended");
        let runners = ended.source == TerminationSource::Runner;
        prop_assert_eq!(runners, believed.is_some());
        prop_assert!(runners || ended.kind == TerminationType::Failed, "{:?}", ended);
        Ok(())
    });
}

/// A signature is of a termination message only.
#[test]
fn nothing_else_that_the_key_signs_is_an_end() {
    let (runner, key) = pair();
    check("signatures of something else", (end(), any::<Vec<u8>>()), |(end, before)| {
        let text = serde_json::to_string(&end).expect("JSON");
        let signed = runner.sign(&[before.as_slice(), text.as_bytes()].concat()).expect("a signature");
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = json!({ "end": value, "signature": hex::encode(signed) }).to_string();
        prop_assert!(termination::verify(&message, &key).is_none());
        Ok(())
    });
}

#[test]
fn what_is_recorded_of_an_end_is_bounded() {
    let report = json!({ "generation": 0, "end": { "kind": "Succeeded", "started": true } });
    let told = nearly(report["end"].clone()).prop_map(move |end| json!({ "generation": 0, "end": end }));
    let read = told.prop_filter_map("no end", |v| serde_json::from_value::<EndReport>(v).ok().map(|r| r.end));
    let command = prop::option::of(prop::sample::select(vec!["Paused", "Cancelled", "Running"]));
    let inputs = (prop_oneof![3 => end(), 1 => read], any::<bool>(), any::<bool>(), command, 0_i64..10_000_000_000);
    check("recorded ends", inputs, |(end, granted, evicts, command, seconds)| {
        let now = Time(Timestamp::from_second(seconds).expect("a time"));
        let run = run(granted, evicts, command, None);
        let recorded = lifecycle::claimed(&run, &end, &now);
        prop_assert!(recorded.active_millis >= 0 && recorded.usage.input_tokens >= 0);
        let over = recorded.error.as_ref().is_some_and(|e| e.kind == error_types::BUDGET_EXCEEDED);
        prop_assert!(!over || recorded.non_retryable);
        prop_assert!(granted || !recorded.started, "a run that can't have started");
        let evicted = recorded.kind == TerminationType::Evicted;
        prop_assert!(!evicted || (evicts && command == Some("Paused")), "never commanded");
        let cancelled = recorded.kind == TerminationType::Cancelled;
        prop_assert!(!cancelled || command == Some("Cancelled"), "never commanded");
        if let Some(result) = &recorded.result {
            prop_assert!(result.get().len() <= MAX_RESULT_BYTES && depth(result.get()) <= MAX_RESULT_DEPTH);
        }
        if let Some(error) = &recorded.error {
            prop_assert!(error.message.len() <= MAX_MESSAGE_BYTES && error.kind.len() <= 128);
        }
        prop_assert_eq!(lifecycle::claimed(&run, &end, &now), recorded, "the same again");
        Ok(())
    });
}
