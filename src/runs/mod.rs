//! AgentRuns in the API server: builds and creates them and makes the few writes of the protocol. It decides nothing,
//! but makes writes safe: each names the resourceVersion that was read, and none changes a closed run. Used by the
//! controller, the worker and the gateway.

mod build;
mod client;

pub use build::{NewRun, build, spent_by_status, tombstone};
pub use client::{RunError, Runs};

use crate::api::{AgentRun, TraceContext};

/// The fields of log lines about a run.
pub fn logged(run: &AgentRun) -> tracing::Span {
    let job = run.job();
    let trace_id = TraceContext::of_run(run).id();
    tracing::error_span!("run", namespace = job.namespace, job = job.name, run = run.name(), trace_id)
}
