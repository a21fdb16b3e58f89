//! Runners' requests as spans of their job's trace.

use std::time::SystemTime;

use axum::response::Response;

use super::error::Reason;
use crate::{
    api::{AgentRun, TraceContext, run_span},
    platform::trace::{self, Span},
    protocol::runner::verb,
};

/// The name of a request's span. Heartbeats are too many to be recorded, and a stream's answer is only its begin.
pub(super) fn name(path: &str) -> Option<&'static str> {
    match path.rsplit('/').next()? {
        verb::REGISTER => Some("gateway register"),
        verb::CONFIRM => Some("gateway confirm"),
        verb::END => Some("gateway end"),
        _ => None,
    }
}

/// Records a request that has been answered.
pub(super) fn request(run: &AgentRun, name: &'static str, start: SystemTime, response: &Response) {
    trace::record(|| {
        let (job, context) = (run.job(), TraceContext::of_run(run));
        Span {
            trace_id: context.trace_id,
            sampled: context.sampled,
            id: None,
            parent: Some(run_span(run.uid())),
            name: name.into(),
            is_server: true,
            start,
            end: trace::now(),
            attributes: vec![
                ("k8s.namespace.name", job.namespace),
                ("koco.job.name", job.name),
                ("koco.run.name", run.name().into()),
                ("http.response.status_code", response.status().as_str().into()),
            ],
            error: response.extensions().get::<Reason>().map(|reason| reason.0.into()),
        }
    });
}
