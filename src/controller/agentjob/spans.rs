//! The controller's part of a job's trace: its reconciles; and the spans of what outlives processes, the job, its workflow
//! and its runs, once they have ended. Also the fields of what is logged about a job.

use std::time::SystemTime;

use super::JobItem;
use crate::{
    api::{
        AgentJob, AgentJobStatus, AgentRun, ExecutionMode, JobRef, Phase, SpanId, TraceContext, job_span, names,
        run_span, workflow_span,
    },
    platform::trace::{self, Span},
    protocol::error_types,
};

/// The fields of log lines about a job.
pub(super) fn logged(of: &JobRef, item: &JobItem) -> tracing::Span {
    let job = item.object.as_ref().ok();
    let number = job.and_then(|job| job.status.as_ref()?.active_run);
    let run = number.map(|number| names::run(&of.name, &of.uid, number)).unwrap_or_default();
    let trace_id = job.map(|job| TraceContext::of_job(job).id()).unwrap_or_default();
    tracing::error_span!("reconcile", namespace = of.namespace, job = of.name, run, trace_id)
}

fn about(job: &JobRef) -> Vec<(&'static str, String)> {
    vec![
        ("k8s.namespace.name", job.namespace.clone()),
        ("koco.job.name", job.name.clone()),
        ("koco.job.uid", job.uid.clone()),
    ]
}

/// A reconcile that wrote or did something.
pub(super) fn reconciled(job: &AgentJob, start: SystemTime, wrote: bool, actions: usize) {
    if !wrote && actions == 0 {
        return;
    }
    trace::record(|| {
        let (of, context) = (job.reference(), TraceContext::of_job(job));
        let done = [("koco.status.written", wrote.to_string()), ("koco.actions", actions.to_string())];
        Span {
            trace_id: context.trace_id,
            sampled: context.sampled,
            id: None,
            parent: Some(job_span(&of.uid)),
            name: "controller reconcile".into(),
            is_server: false,
            start,
            end: trace::now(),
            attributes: about(&of).into_iter().chain(done).collect(),
            error: None,
        }
    });
}

/// A status that was written: the job's span and its workflow's, if the job has ended by it.
pub(super) fn status(job: &AgentJob, old: &AgentJobStatus, new: &AgentJobStatus) {
    let Some(phase) = new.phase.filter(|p| p.is_terminal() && Some(*p) != old.phase) else { return };
    let (Some(created), Some(ended)) = (&job.metadata.creation_timestamp, &new.completion_time) else { return };
    let (of, context) = (job.reference(), TraceContext::of_job(job));
    let error = new.error.as_ref().filter(|_| phase == Phase::Failed);
    let span = |name: &'static str, id: SpanId, parent: Option<SpanId>| Span {
        trace_id: context.trace_id,
        sampled: context.sampled,
        id: Some(id),
        parent,
        name: name.into(),
        is_server: false,
        start: trace::at(created),
        end: trace::at(ended),
        attributes: about(&of).into_iter().chain([("koco.phase", phase.as_str().to_string())]).collect(),
        error: error.map(|error| error_types::word(&error.kind).into()),
    };
    let id = job_span(&of.uid);
    trace::record(|| span("AgentJob", id, context.parent));
    if new.execution_mode() == Some(ExecutionMode::Temporal) {
        trace::record(|| span("AgentWorkflow", workflow_span(&of.uid), Some(id)));
    }
}

/// A version of a run that replaces an older one in the cache: the run's span, if it has ended by it.
pub(super) fn run(old: Option<&AgentRun>, new: &AgentRun) {
    let was_open = old.is_some_and(|old| old.uid() == new.uid() && !old.is_closed());
    let (Some(end), Some(created)) = (new.termination().filter(|_| was_open), &new.metadata.creation_timestamp) else {
        return;
    };
    trace::record(|| {
        let (of, context) = (new.job(), TraceContext::of_run(new));
        let parent = if new.is_temporal() { workflow_span(&of.uid) } else { job_span(&of.uid) };
        let said = [
            ("koco.run.name", new.name().to_string()),
            ("koco.attempt", new.spec.identity.attempt.to_string()),
            ("koco.termination.type", end.kind.as_str().into()),
        ];
        Span {
            trace_id: context.trace_id,
            sampled: context.sampled,
            id: Some(run_span(new.uid())),
            parent: Some(parent),
            name: "AgentRun".into(),
            is_server: false,
            start: trace::at(created),
            end: trace::at(&end.time),
            attributes: about(&of).into_iter().chain(said).collect(),
            error: end.error.as_ref().map(|error| error_types::word(&error.kind).into()),
        }
    });
}
