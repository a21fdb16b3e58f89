//! A job that is being deleted: its workflow is cancelled first, with a time-out. Direct jobs have no finalizer: their
//! runs and pods are garbage collected.

use std::time::Duration;

use super::{Action, Decision, view::JobView};
use crate::{
    api::{DesiredState, Phase},
    protocol::workflow::Request,
};

/// How long the finalizer may wait for the workflow's end beyond the agent's grace period. A workflow that could not be
/// reached ends by itself once it finds its job gone.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often the workflow is polled meanwhile.
const ASK: Duration = Duration::from_secs(5);

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    let decision = Decision { pending_since: None, ..Decision::unchanged(view) };
    if !view.job.has_finalizer() {
        return decision;
    }
    let limit = view.job.grace().saturating_add(DEADLINE);
    let waited = view.job.metadata.deletion_timestamp.as_ref().map_or(limit, |t| view.since(t));
    let closed = view.observed.answer.as_ref().is_some_and(|a| a.closed.is_some() || a.missing);
    let never_started = view.old.workflow.is_none();
    if view.is_terminal() || closed || never_started || waited >= limit || !view.operator.temporal_configured {
        return decision.with(Action::RemoveFinalizer);
    }
    let sent = view.old.control.as_ref().and_then(|c| c.sent.as_ref()).or(view.observed.sent.as_ref());
    let told = sent.is_some_and(|s| s.state == DesiredState::Cancelled);
    let mut decision = Decision { phase: Phase::Cancelling, ..decision };
    decision.sent = view.observed.sent.clone().or(decision.sent);
    if !told {
        decision = decision.with(Action::Signal(Request { id: "deleted".into(), desired: DesiredState::Cancelled }));
    }
    // Garbage collection, or the deletion of the namespace, came first: only this can report how the run ended.
    let missing = view.active_run().filter(|n| view.observed.runs.iter().all(|r| r.number() != *n));
    if let Some(number) = missing {
        decision = decision.with(Action::CompleteMissing { number });
    }
    decision.with(Action::QueryWorkflow).again((limit - waited).min(ASK))
}
