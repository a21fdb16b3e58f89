//! A job that is being deleted: its workflow is cancelled first, but never for ever. Direct jobs have no finalizer: their
//! pods go with them, by Kubernetes' own garbage collection.

use std::time::Duration;

use super::{Action, Draft};
use crate::{
    api::{DesiredState, Phase},
    protocol::workflow::Request,
};

/// How long the finalizer may wait for the workflow's end beyond the agent's grace period. A workflow that could not be
/// reached finds itself without its job later, and ends.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn plan(d: &mut Draft<'_>) {
    d.mirror_claim();
    d.stalled = None;
    if !d.job.has_finalizer() {
        return;
    }
    let limit = d.job.grace() + DEADLINE;
    let waited = d.job.metadata.deletion_timestamp.as_ref().map_or(limit, |t| d.since(t));
    let closed = d.seen.answer.as_ref().is_some_and(|a| a.closed.is_some() || a.missing);
    let never_started = d.status.workflow.is_none();
    if d.is_terminal() || closed || never_started || waited >= limit || !d.ground.temporal_configured {
        d.delete_pods(|p| !p.agent_ended());
        d.actions.push(Action::RemoveFinalizer);
        return;
    }
    d.status.phase = Some(Phase::Cancelling);
    if d.status.control.as_ref().and_then(|c| c.sent.as_ref()).is_none_or(|s| s.state != DesiredState::Cancelled) {
        d.actions.push(Action::Signal(Request { id: "deleted".into(), desired: DesiredState::Cancelled }));
    }
    d.actions.push(Action::Ask);
    d.look_again((limit - waited).min(Duration::from_secs(5)));
}
