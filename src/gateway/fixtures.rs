//! A job and its runner, for the tests of the gateway.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::json;

use super::auth::Caller;
use crate::{
    api::{AgentJob, Claim, Command, ControlStatus, DesiredState, JobRef, Permit},
    protocol::runner::Sender,
};

/// Job `a/x` with UID `u`, whose claim is epoch 2, attempt 1, pod `p`; Direct, no permit.
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
            "template": { "spec": { "terminationGracePeriodSeconds": 7, "containers": [] } },
        },
        "status": {
            "fid": "f",
            "resolved": {
                "executionMode": "Direct",
                "retryPolicy": {
                    "maximumAttempts": 1, "initialInterval": "1s", "backoffCoefficient": 2.0, "maximumInterval": "100s",
                },
                "timeouts": { "heartbeat": "120s", "execution": "10s", "pending": "10m" },
            },
            "claim": { "epoch": 2, "attempt": 1, "podName": "x-2", "podUID": "p", "activeMillis": 4000 },
        },
    });
    serde_json::from_value(job).unwrap()
}

/// Its claim.
pub fn claim(job: &mut AgentJob) -> &mut Claim {
    job.status.as_mut().unwrap().claim.as_mut().unwrap()
}

/// Its runner's requests, of any epoch.
pub fn sender(epoch: i32) -> Sender {
    Sender { job: JobRef { namespace: "a".into(), name: "x".into(), uid: "u".into() }, epoch }
}

/// Its runner's pod.
pub fn caller() -> Caller {
    Caller { namespace: "a".into(), pod_uid: "p".into() }
}

/// A permit of Direct mode.
pub fn permit(offer: i32) -> Permit {
    Permit { time: Time(Timestamp::UNIX_EPOCH), offer, run_id: None, task_token: None }
}

/// A command to pause.
pub fn command(seq: i64) -> ControlStatus {
    let command = Command { state: DesiredState::Paused, seq, time: Time(Timestamp::UNIX_EPOCH) };
    ControlStatus { command: Some(command), ..Default::default() }
}
