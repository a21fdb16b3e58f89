//! A job, its run and its runner, for the tests of the gateway.

use clap::Parser;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::Client;
use serde_json::json;

use super::{Parts, Settings};
use crate::{
    api::{
        AgentJob, AgentRun, DesiredState, ExecutionMode, RunCommand, StartGrant, Termination, TerminationSource,
        TerminationType, names,
    },
    platform::{http::Pod, settings::Common},
    protocol::key::PublicKey,
    temporal::Temporal,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    gateway: Settings,
}

/// What gateway `g` needs, without Temporal.
pub fn parts(client: Client, addr: &str) -> Parts {
    let line = Line::parse_from(["koco", "--identity", "g", "--gateway-addr", addr]);
    Parts {
        client,
        common: line.common,
        settings: line.gateway,
        temporal: Temporal::new(None),
        metrics: Default::default(),
        ready: Default::default(),
    }
}

/// Job `a/x` with UID `u`, whose run 2 is the newest.
pub fn job() -> AgentJob {
    let job = json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentJob",
        "metadata": {
            "name": "x", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "creationTimestamp": "2024-11-22T10:00:00Z",
        },
        "spec": {
            "entryPoint": "agents.x:run",
            "inputs": { "topic": "octopuses" },
            "inputsFrom": [{ "configMapRef": { "name": "m" } }, { "prefix": "key_", "secretRef": { "name": "s" } }],
            "template": { "spec": { "terminationGracePeriodSeconds": 7, "containers": [] } },
        },
        "status": {
            "fid": "f",
            "activeRun": 2,
            "resolved": {
                "executionMode": "Direct",
                "retryPolicy": {
                    "maximumAttempts": 1, "initialInterval": "1s", "backoffCoefficient": 2.0, "maximumInterval": "100s",
                },
                "timeouts": { "heartbeat": "120s", "execution": "10s", "pending": "10m" },
            },
        },
    });
    serde_json::from_value(job).unwrap()
}

/// Its run 2, UID `r`, attempt 1, pod `x-2` with UID `p`: Direct, ready, and neither granted nor commanded.
pub fn run() -> AgentRun {
    let run = json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentRun",
        "metadata": { "name": names::run("x", "u", 2), "namespace": "a", "uid": "r", "resourceVersion": "5" },
        "spec": { "identity": {
            "jobName": "x", "jobUID": "u", "number": 2, "attempt": 1, "activeMillis": 4000, "podName": "x-2",
            "executionMode": "Direct", "pausePolicy": "Freeze", "heartbeat": "120s",
        } },
        "status": {
            "podUID": "p", "publicKey": key(1).to_string(), "readyTime": "2024-11-22T10:00:00Z", "gateway": "g",
            "acknowledged": { "binding": -1, "generation": 0, "state": "Waiting", "time": "2024-11-22T10:00:00Z" },
        },
    });
    serde_json::from_value(run).unwrap()
}

/// The same before its runner has registered.
pub fn fresh_run() -> AgentRun {
    AgentRun { status: None, ..run() }
}

/// The same in Temporal mode.
pub fn temporal_run() -> AgentRun {
    let mut run = run();
    run.spec.identity.execution_mode = ExecutionMode::Temporal;
    run
}

/// A key; the runner's is the first.
pub fn key(n: u8) -> PublicKey {
    PublicKey::parse(&format!("ed25519:{}", hex::encode([n; 32]))).unwrap()
}

/// Its runner's pod.
pub fn pod() -> Pod {
    Pod { namespace: "a".into(), name: "x-2".into(), uid: "p".into() }
}

/// A grant.
pub fn grant(binding: i32) -> StartGrant {
    StartGrant {
        time: Time(Timestamp::UNIX_EPOCH),
        binding,
        workflow_id: Some(names::workflow("c", "u")),
        run_id: None,
        activity_attempt: None,
    }
}

/// A command to pause.
pub fn command(generation: i64) -> RunCommand {
    RunCommand::after(None, DesiredState::Paused, generation, Time(Timestamp::UNIX_EPOCH))
}

/// An end.
pub fn termination() -> Termination {
    Termination {
        kind: TerminationType::Succeeded,
        source: TerminationSource::Runner,
        time: Time(Timestamp::UNIX_EPOCH),
        started: true,
        error: None,
        non_retryable: false,
        exit_code: Some(0),
        result: None,
        active_millis: 0,
        usage: Default::default(),
        events: None,
        events_missing: None,
        pod_vanished: false,
        duration: None,
    }
}
