//! The rules, each from a job and its observed state.

mod budget;
mod direct;
mod ended;
mod gitops;
mod limits;
mod pending;
mod template;
mod temporal;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{api::names, pods::AgentContainer};

const NOW: &str = "2026-01-01T01:00:00Z";

/// A job with a status, over a minimal spec.
fn job(spec: Value, status: Value) -> AgentJob {
    let mut whole = json!({ "entryPoint": "e", "template": { "spec": { "containers": [{ "name": "agent" }] } } });
    json_patch::merge(&mut whole, &spec);
    let mut job: AgentJob = serde_json::from_value(json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
        "metadata": { "name": "a", "namespace": "n", "uid": "u", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": whole,
    }))
    .unwrap();
    if !status.is_null() {
        job.status = Some(serde_json::from_value(status).unwrap());
    }
    job
}

/// The status of a job with such a run.
fn active(number: i32) -> Value {
    json!({ "activeRun": number, "phase": "Running" })
}

/// Plans with the operator's defaults.
fn planned(job: &AgentJob, observed: &ObservedState, temporal_configured: bool) -> Plan {
    planned_beside_a_server(job, observed, temporal_configured, Duration::ZERO)
}

/// Plans where there is a server, which is waited for so long.
fn planned_beside_a_server(
    job: &AgentJob,
    observed: &ObservedState,
    temporal_configured: bool,
    wait: Duration,
) -> Plan {
    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        defaults: Defaults,
    }
    let defaults = <Arguments as clap::Parser>::parse_from(["koco"]).defaults;
    let now = Time(NOW.parse::<Timestamp>().unwrap());
    let operator = OperatorContext {
        defaults: &defaults,
        installation: "c",
        temporal_address: "temporal:7233",
        temporal_namespace: "t",
        temporal_configured,
        archive_patience: wait,
        now,
    };
    plan(job, observed, &operator)
}

fn decide(job: &AgentJob, observed: &ObservedState) -> Plan {
    planned(job, observed, true)
}

/// Plans, and returns the job as after the write.
fn next(job: &AgentJob, observed: &ObservedState) -> (AgentJob, Plan) {
    let planned = decide(job, observed);
    (AgentJob { status: Some(planned.status.clone()), ..job.clone() }, planned)
}

/// A run of the job, merged over one that was just created.
fn run(number: i32, over: Value) -> AgentRun {
    let mut run = json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
        "metadata": { "name": names::run("a", "u", number), "namespace": "n", "uid": format!("r{number}"),
            "creationTimestamp": "2026-01-01T00:59:00Z" },
        "spec": { "identity": { "jobName": "a", "jobUID": "u", "number": number, "attempt": number,
            "podName": format!("a-{number}"), "executionMode": "Direct", "heartbeat": "120s" } },
    });
    json_patch::merge(&mut run, &over);
    serde_json::from_value(run).unwrap()
}

/// The same, granted.
fn granted() -> Value {
    json!({ "spec": { "grant": { "time": "2026-01-01T00:59:10Z", "binding": 0 } } })
}

/// The same, with a registered runner.
fn started() -> Value {
    let status = json!({ "status": { "podUID": "p1", "readyTime": "2026-01-01T00:59:20Z", "acknowledged": {
        "binding": 0, "generation": 0, "state": "Waiting", "time": "2026-01-01T00:59:20Z" } } });
    merged(granted(), status)
}

/// The same, closed.
fn ended(kind: &str, error: Option<&str>, source: &str) -> Value {
    let mut end = json!({ "type": kind, "source": source, "time": "2026-01-01T00:59:55Z", "started": true });
    if let Some(error) = error {
        end["error"] = json!({ "type": error, "message": "m" });
    }
    merged(started(), json!({ "status": { "termination": end } }))
}

fn commanded(state: &str, generation: i64, answer: Value) -> Value {
    let time = "2026-01-01T00:59:40Z";
    let command = json!({ "spec": { "command": { "state": state, "generation": generation, "time": time } },
        "status": { "acknowledged": answer } });
    merged(started(), command)
}

fn answered(state: &str, generation: i64) -> Value {
    json!({ "binding": 0, "generation": generation, "state": state, "time": "2026-01-01T00:59:41Z" })
}

fn merged(mut a: Value, b: Value) -> Value {
    json_patch::merge(&mut a, &b);
    a
}

fn pod(number: i32, agent: AgentContainer) -> PodView {
    PodView {
        name: format!("a-{number}"),
        uid: format!("p{number}"),
        run_uid: Some(format!("r{number}")),
        created: Some(Time("2026-01-01T00:59:00Z".parse().unwrap())),
        agent,
        ..PodView::default()
    }
}

fn observed(runs: &[AgentRun], pods: &[PodView]) -> ObservedState {
    ObservedState { runs: runs.to_vec(), pods: pods.to_vec(), ..ObservedState::default() }
}

fn condition(plan: &Plan, kind: &str) -> (String, String, String) {
    let found = plan.status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

/// What is closed, and with which error type.
fn closes(plan: &Plan) -> Vec<(i32, String)> {
    let closes = plan.actions.iter().filter_map(|a| match a {
        Action::CloseRun { run, termination, .. } => {
            let error = termination.error.as_ref().map(|e| e.kind.clone());
            Some((run.number(), error.unwrap_or_else(|| format!("{:?}", termination.kind))))
        }
        _ => None,
    });
    closes.collect()
}

fn delete(number: i32) -> Action {
    Action::DeletePod { name: format!("a-{number}"), uid: format!("p{number}") }
}
