//! Activities as spans of their job's trace, and as fields of what is logged meanwhile. The trace is known once an activity
//! has read its job or run: it is in no input, so that no history holds it.

use std::cell::Cell;

use tracing::Instrument;

use super::ActivityFailure;
use crate::{
    api::{AgentJob, AgentRun, JobRef, TraceContext, workflow_span},
    platform::trace::{self, Span},
};

tokio::task_local! {
    static TRACE: Cell<Option<TraceContext>>;
}

fn found(context: TraceContext) {
    tracing::Span::current().record("trace_id", context.id());
    // Outside an activity, as in tests, there is none.
    let _ = TRACE.try_with(|trace| trace.set(Some(context)));
}

/// The activity has read its job.
pub(super) fn job(job: &AgentJob) {
    found(TraceContext::of_job(job));
}

/// The activity has read its run.
pub(super) fn run(run: &AgentRun) {
    tracing::Span::current().record("run", run.name());
    found(TraceContext::of_run(run));
}

/// Runs an activity. What ends before the trace is known is in none.
pub(super) async fn activity<T>(
    activity: &'static str,
    job: &JobRef,
    attempt: u32,
    work: impl Future<Output = Result<T, ActivityFailure>>,
) -> Result<T, ActivityFailure> {
    let (namespace, name) = (job.namespace.as_str(), job.name.as_str());
    let empty = tracing::field::Empty;
    let logged = tracing::error_span!("activity", activity, namespace, job = name, run = empty, trace_id = empty);
    let start = trace::now();
    let (ended, context) = TRACE
        .scope(Cell::new(None), async {
            let ended = work.await;
            (ended, TRACE.with(Cell::get))
        })
        .instrument(logged)
        .await;
    if let Some(context) = context {
        let reason = ended.as_ref().err().map(|failure| ("koco.reason", failure.reason().to_string()));
        let failed = ended.as_ref().err().filter(|failure| !failure.is_expected());
        let about = [("k8s.namespace.name", namespace.into()), ("koco.job.name", name.into())];
        trace::record(|| Span {
            trace_id: context.trace_id,
            sampled: context.sampled,
            id: None,
            parent: Some(workflow_span(&job.uid)),
            name: format!("activity {activity}").into(),
            is_server: false,
            start,
            end: trace::now(),
            attributes: about.into_iter().chain([("koco.attempt", attempt.to_string())]).chain(reason).collect(),
            error: failed.map(|failure| failure.reason().to_string()),
        });
    }
    ended
}
