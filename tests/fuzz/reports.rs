//! What clients of the gateway and agents may send: bodies, keys, termination messages, ends.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use koco::{
    api::{AgentRun, TerminationType, depth},
    lifecycle,
    platform::http::any_key,
    protocol::{
        key::PublicKey,
        runner::{
            AgentEnd, Confirm, EndReport, Heartbeat, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, MAX_RESULT_DEPTH, Register,
        },
        termination,
    },
};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::json;

use super::{json, text};

fn run(granted: bool) -> AgentRun {
    let time = "2026-01-01T00:00:00Z";
    let mut run = json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r", "uid": "u" },
        "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
            "executionMode": "Direct", "heartbeat": "1s" } },
    });
    if granted {
        run["spec"]["grant"] = json!({ "time": time, "binding": 0 });
        run["status"] = json!({ "readyTime": time, "podUID": "u" });
    }
    serde_json::from_value(run).expect("a run")
}

fn end() -> impl Strategy<Value = AgentEnd> {
    let kinds =
        [TerminationType::Succeeded, TerminationType::Failed, TerminationType::Evicted, TerminationType::Cancelled];
    let kind = prop::sample::select(kinds.to_vec());
    let error = prop::option::of((text(), "(?s).{0,4000}"));
    (kind, any::<bool>(), error, any::<bool>(), any::<Option<i32>>(), prop::option::of(json()), any::<i64>()).prop_map(
        |(kind, started, error, non_retryable, exit_code, result, active_millis)| AgentEnd {
            kind,
            started,
            error: error.map(|(kind, message)| koco::api::ErrorStatus { kind, message }),
            non_retryable,
            exit_code,
            result,
            active_millis,
            result_omitted: false,
        },
    )
}

proptest! {
    #[test]
    fn no_body_panics(body in any::<Vec<u8>>(), value in json()) {
        for body in [body, value.to_string().into_bytes()] {
            let _ = serde_json::from_slice::<Register>(&body);
            let _ = serde_json::from_slice::<Heartbeat>(&body);
            let _ = serde_json::from_slice::<Confirm>(&body);
            let _ = serde_json::from_slice::<EndReport>(&body);
        }
    }

    #[test]
    fn no_certificate_panics(der in any::<Vec<u8>>(), cut in 0_usize..400, flip in any::<(usize, u8)>()) {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut real = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate").der().to_vec();
        let at = flip.0 % real.len();
        real[at] ^= flip.1;
        real.truncate(cut.max(1));
        for der in [der, real] {
            let _ = PublicKey::from_spki(&der);
            let _ = any_key().verify_client_cert(&CertificateDer::from(der), &[], UnixTime::now());
        }
    }

    #[test]
    fn only_what_the_key_signed_is_an_end(message in text(), value in json(), end in end(), at in any::<usize>()) {
        let (pair, other) = (KeyPair::generate_for(&PKCS_ED25519).expect("a key"), KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
        let key = PublicKey::from_spki(&pair.subject_public_key_info()).expect("Ed25519");
        prop_assert!(termination::verify(&message, &key).is_none());
        prop_assert!(termination::verify(&value.to_string(), &key).is_none());
        let signed = |pair: &KeyPair| termination::sign(&end, pair).expect("a message");
        prop_assert!(termination::verify(&signed(&pair), &key).is_some());
        prop_assert!(termination::verify(&signed(&other), &key).is_none());
        let mut cut = signed(&pair);
        let at = (0..=at % cut.len()).rev().find(|at| cut.is_char_boundary(*at)).unwrap_or(0);
        cut.truncate(at);
        prop_assert!(termination::verify(&cut, &key).is_none());
    }

    #[test]
    fn what_is_recorded_of_an_end_is_bounded(end in end(), granted in any::<bool>(), seconds in 0_i64..10_000_000_000) {
        let now = Time(Timestamp::from_second(seconds).expect("a time"));
        let run = run(granted);
        let recorded = lifecycle::claimed(&run, &end, &now);
        prop_assert!(recorded.active_millis >= 0);
        prop_assert!(granted || !recorded.started, "a run that can't have started");
        prop_assert!(recorded.kind != TerminationType::Evicted && recorded.kind != TerminationType::Cancelled, "never commanded");
        if let Some(result) = &recorded.result {
            prop_assert!(result.get().len() <= MAX_RESULT_BYTES && depth(result.get()) <= MAX_RESULT_DEPTH);
        }
        if let Some(error) = &recorded.error {
            prop_assert!(error.message.len() <= MAX_MESSAGE_BYTES && error.kind.len() <= 128);
        }
        prop_assert_eq!(lifecycle::claimed(&run, &end, &now), recorded, "the same again");
    }
}
