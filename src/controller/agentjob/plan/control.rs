//! The rules that both modes share: ending a job, and its phase while an agent may run.

use std::time::Duration;

use super::{Action, Decision, Guard, view::JobView};
use crate::{
    api::{AgentRun, DesiredState, ErrorStatus, Phase, Termination, millis},
    lifecycle,
    pods::collect::{self, Fate},
    protocol::error_types,
};

/// How long to wait beyond the agent's grace period for a cancelled job's pod to end.
const CANCEL_MARGIN: Duration = Duration::from_secs(60);

/// Ends the job. A terminal phase comes only after the newest run is closed, so that nothing can start under it any
/// more; and Cancelled only after its pod has ended, or that time is over.
pub(super) fn finish(view: &JobView<'_>, phase: Phase, error: Option<ErrorStatus>) -> Decision {
    let going = if phase == Phase::Cancelled { Phase::Cancelling } else { view.old.phase.unwrap_or_default() };
    let unchanged = Decision::unchanged(view);
    if let Some(action) = close_newest(view) {
        return Decision { phase: going, ..unchanged }.with(action).again(Duration::ZERO);
    }
    if phase == Phase::Cancelled
        && let Some(left) = still_ending(view).or_else(|| view.lingers())
    {
        // Its pod is deleted with those of closed runs.
        return Decision { phase: going, ..unchanged }.again(left);
    }
    let error = match phase {
        Phase::Failed => error.or(view.old.error.clone()),
        Phase::Succeeded => None,
        _ => view.old.error.clone(),
    };
    Decision { phase, error, pending_since: None, ..unchanged }
}

/// The action that closes the newest run, if it is open.
fn close_newest(view: &JobView<'_>) -> Option<Action> {
    let active = view.active_run()?;
    match view.run {
        Some(run) if run.is_closed() => None,
        Some(run) => {
            let termination = view.derived_termination().unwrap_or_else(|| lifecycle::given_up(run, view.now()));
            Some(Action::close(run, termination, Guard::None))
        }
        None => Some(Action::CreateTombstone { number: active, attempt: view.old.attempt.unwrap_or(1) }),
    }
}

/// How long a pod of the job may still take to end.
fn still_ending(view: &JobView<'_>) -> Option<Duration> {
    let runs_on = view.observed.pods.iter().chain(&view.observed.previous_pod).any(|p| !p.agent_ended());
    let run = view.run.filter(|_| runs_on)?;
    let closed = run.termination().map(|t| &t.time).or(run.metadata.creation_timestamp.as_ref())?;
    let limit = view.job.grace().saturating_add(CANCEL_MARGIN);
    let waited = view.since(closed);
    let fate = view.pod.map(|pod| collect::of_closed(run, pod, view.now()));
    let look = match fate {
        Some(Fate::Wait(left)) => left,
        _ => limit,
    };
    (waited < limit).then(|| look.min(limit - waited))
}

/// A limit of an agent's active time.
struct TimeLimit {
    /// What is left of it at the run's begin.
    left: Duration,
    /// The field that sets it, and its value.
    field: &'static str,
    whole: Duration,
    /// What the run ends with.
    kind: &'static str,
    non_retryable: bool,
}

fn time_limits(view: &JobView<'_>, run: &AgentRun) -> impl Iterator<Item = TimeLimit> {
    let identity = &run.spec.identity;
    let budget = view.job.spec.budget.as_ref().and_then(|budget| {
        Some(TimeLimit {
            left: budget.active_left(&identity.spent.unwrap_or_default())?,
            field: "budget.activeTime",
            whole: budget.active_time?.get(),
            kind: error_types::BUDGET_EXCEEDED,
            non_retryable: true,
        })
    });
    let execution = view.resolved.timeouts.execution.map(|whole| TimeLimit {
        left: whole.get().saturating_sub(millis(identity.active_millis)),
        field: "timeouts.execution",
        whole: whole.get(),
        kind: error_types::EXECUTION_TIMEOUT,
        non_retryable: false,
    });
    // The first of equals: an end that is final counts.
    [budget, execution].into_iter().flatten()
}

/// The end of a run whose agent is active for much longer than a limit of its active time, so that its runner does not
/// enforce it; else how long until then.
pub(super) fn over_its_limit(view: &JobView<'_>, run: &AgentRun) -> (Option<Action>, Option<Duration>) {
    let Some(limit) = time_limits(view, run).min_by_key(|limit| limit.left) else { return (None, None) };
    let left = lifecycle::time_left(run, limit.left, view.job.grace(), view.now());
    if left != Some(Duration::ZERO) {
        return (None, left);
    }
    let message = format!(
        "the agent was active for longer than {} ({} s) allows, and its runner did not end it",
        limit.field,
        limit.whole.as_secs_f64()
    );
    let end = lifecycle::koco(run, limit.kind, message, view.now());
    let end = Termination { non_retryable: limit.non_retryable, ..end };
    (Some(Action::close(run, end, Guard::Unchanged)), left)
}

/// The phase while an agent may run.
pub(super) fn phase_of_agent(view: &JobView<'_>, wanted: DesiredState) -> Phase {
    match wanted {
        DesiredState::Cancelled => Phase::Cancelling,
        DesiredState::Paused if view.stands_still() => Phase::Paused,
        _ => Phase::Running,
    }
}
