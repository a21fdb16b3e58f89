//! What was asked of a workflow, whether it has heard it, and what is to be asked. Used by [`super::temporal`].

use std::time::Duration;

use super::{Action, view::JobView};
use crate::{
    api::{AgentRun, DesiredState, Phase, SentRequest},
    protocol::workflow::{Request, Stage},
};

/// How long a workflow may take to begin its first run before it is asked what it waits for.
pub(super) const START: Duration = Duration::from_secs(20);

/// The id of the request for the spec's current desired state.
pub(super) fn request_id(view: &JobView<'_>) -> String {
    let generation = view.job.metadata.generation.unwrap_or_default();
    match view.job.control_request() {
        Some(request) => format!("{generation}/{request}"),
        None => generation.to_string(),
    }
}

/// The last request to the workflow, and the signal that is due: if and only if the spec's desired state differs.
pub(super) fn request(view: &JobView<'_>) -> (Option<SentRequest>, Option<Action>) {
    let (state, request) = (view.desired(), view.job.control_request().map(str::to_string));
    let sent = recover_signal(view);
    let asked = match (&sent, view.answer()) {
        (Some(sent), _) => sent.state == state && sent.request == request,
        // Nothing is recorded: the workflow has the initial state, or a request sent before a crash.
        (None, Some(answer)) => {
            let last = answer.last_request.as_ref().filter(|l| l.desired == state);
            if let Some(last) = last {
                let sent = SentRequest { state, id: last.id.clone(), request, time: view.now().clone() };
                return (Some(sent), None);
            }
            false
        }
        // No worker has answered yet. A request to run can wait for that; the others can't.
        (None, None) => state == DesiredState::Running,
    };
    let signal = (!asked).then(|| Action::Signal(Request { id: request_id(view), desired: state }));
    (sent, signal)
}

/// The last request that the workflow received, also if its record was lost to a conflict or a crash: else
/// Paused→Running→Paused would look already sent.
pub(super) fn recover_signal(view: &JobView<'_>) -> Option<SentRequest> {
    let recorded = view.old.control.as_ref().and_then(|c| c.sent.clone());
    let ours = view.observed.sent.clone();
    let newest = match (recorded, ours) {
        (Some(recorded), Some(ours)) if generation(&ours.id) < generation(&recorded.id) => Some(recorded),
        (recorded, ours) => ours.or(recorded),
    };
    let heard = view.answer().and_then(|s| s.last_request.clone());
    match (newest, heard) {
        (Some(sent), Some(heard)) if generation(&heard.id) > generation(&sent.id) => {
            let request = heard.id.split_once('/').map(|(_, request)| request.to_string());
            Some(SentRequest { state: heard.desired, id: heard.id, request, time: view.now().clone() })
        }
        (newest, _) => newest,
    }
}

/// The generation that a request's id begins with.
fn generation(id: &str) -> i64 {
    id.split('/').next().and_then(|g| g.parse().ok()).unwrap_or(0)
}

/// Whether the workflow's answer knows of this request, if there is one. An answer from before the newest says nothing of a
/// pause: the workflow may have been told to run in between, and an agent may be about to start.
pub(super) fn has_heard(view: &JobView<'_>, sent: Option<&SentRequest>) -> bool {
    let heard = view.answer().and_then(|a| a.last_request.as_ref());
    sent.is_none_or(|sent| heard.is_some_and(|heard| heard.id == sent.id))
}

/// What is left of the time that a workflow which this process has started may take to begin its first run.
pub(super) fn until_first_run(view: &JobView<'_>) -> Option<Duration> {
    let started = view.observed.started.as_ref().filter(|_| view.run.is_none())?;
    START.checked_sub(started.ago).filter(|left| !left.is_zero())
}

/// Whether a workflow that has not been asked yet need not be: this process has started it, with the request to run that
/// is still the last, and what follows is in its run's record. A command there is of another request, from outside.
fn goes_as_started(view: &JobView<'_>, sent: Option<&SentRequest>) -> bool {
    let Some(started) = &view.observed.started else { return false };
    let as_asked = sent.is_some_and(|sent| sent.id == started.request && sent.state == DesiredState::Running);
    let goes_on = |run: &AgentRun| !run.is_closed() && run.spec.command.is_none();
    as_asked && view.run.map_or_else(|| until_first_run(view).is_some(), goes_on)
}

/// Whether the workflow's query has caught up with the status; if not, it is queried again.
pub(super) fn caught_up(view: &JobView<'_>, sent: Option<&SentRequest>) -> bool {
    let Some(answer) = view.answer() else {
        return (view.agent_may_run() && sent.is_none()) || goes_as_started(view, sent);
    };
    let taken = has_heard(view, sent);
    let cancelling = answer.desired == DesiredState::Cancelled;
    let ends = matches!(answer.status, Stage::Completed | Stage::Failed | Stage::Cancelled);
    let Some(run) = view.run else {
        return taken && !cancelling && !ends && (answer.run == 0 || answer.status == Stage::Held);
    };
    if run.is_closed() {
        // The workflow decides what follows from its end.
        let knows = answer.ended_run == Some(run.number()) && !ends && !cancelling;
        return taken && knows && (answer.status != Stage::Retrying);
    }
    let commanded = run.spec.command.as_ref().is_none_or(|c| answer.generation >= c.generation);
    let paused_is_known = answer.desired != DesiredState::Paused
        || answer.is_paused
        || (run.spec.grant.is_some() && !view.stands_still());
    taken && commanded && !cancelling && !ends && paused_is_known
}

/// Whether a job without a running agent is still as paused as its status says, though its workflow has not answered this
/// process yet: nothing else was asked of it since, and no run has begun or was granted since. One that has ended
/// contradicts nothing: the workflow decides what follows.
pub(super) fn stays_paused(view: &JobView<'_>) -> bool {
    let recorded = view.old.control.as_ref().and_then(|c| c.sent.as_ref());
    let (sent, signal) = request(view);
    let asked = signal.is_some() || sent.as_ref() != recorded;
    let begun = |run: &AgentRun| Some(run.number()) > view.old.active_run || run.spec.grant.is_some();
    let moved = view.run.is_some_and(|run| !run.is_closed() && begun(run));
    view.old.phase == Some(Phase::Paused) && !asked && !moved
}
