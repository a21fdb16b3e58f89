//! Direct mode: the controller does the workflow's work. Only Kubernetes is needed.
//!
//! Intent is recorded first: `status.activeRun` and `status.retry` are written before the run of that number is
//! created, so a controller that is killed at any point neither loses nor repeats an attempt.

use std::time::Duration;

use super::{
    Action, Decision, Guard,
    control::{finish, over_its_limit, phase_of_agent},
    pending::{self, Pending},
    view::JobView,
};
use crate::{
    api::{AgentRun, DesiredState, ErrorStatus, Phase, RetryStatus, RunCommand, StartGrant, TerminationSource},
    lifecycle::{self, Next, Upcoming},
    pods::ending,
    protocol::error_types,
    runs::{self, NewRun},
};

/// How long a runner may take beyond its agent's grace period to report its end, before its run is closed without it.
const CANCEL_MARGIN: Duration = Duration::from_secs(30);
/// When to recheck a pod that has to end, besides changes from the watch.
const STILL_ENDING: Duration = Duration::from_secs(5);

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    if let Some(run) = view.run.filter(|run| view.old.active_run.is_none_or(|active| active < run.number())) {
        return beyond_the_record(view, run);
    }
    let Some(active) = view.old.active_run else { return first_run(view) };
    match view.run {
        None if view.observed.active_is_missing => {
            // Its AgentRun was deleted: the same as a deleted pod.
            let attempt = lifecycle::upcoming(&retry(view)).attempt;
            Decision::unchanged(view).with(Action::CreateTombstone { number: active, attempt }).again(Duration::ZERO)
        }
        None => upcoming_run(view, active),
        Some(run) if run.is_closed() => after_run(view, run),
        Some(run) if !run.is_ready() => starting(view, run),
        Some(run) => running(view, run),
    }
}

/// There is a run beyond the status: the cluster's data was restored, or it was created by hand. Numbers are never
/// reused, so the job continues from there.
fn beyond_the_record(view: &JobView<'_>, run: &AgentRun) -> Decision {
    let before = retry(view);
    let attempts = before.attempts.max(run.spec.identity.attempt.saturating_sub(1));
    let retry = Some(RetryStatus { attempts, ..before });
    Decision { active_run: Some(run.number()), retry, ..Decision::unchanged(view) }.again(Duration::ZERO)
}

fn retry(view: &JobView<'_>) -> RetryStatus {
    view.old.retry.clone().unwrap_or_default()
}

fn new_run(view: &JobView<'_>, number: i32, retry: &RetryStatus) -> Action {
    let Upcoming { attempt, resumed, active_millis } = lifecycle::upcoming(retry);
    let grant =
        StartGrant { time: view.now().clone(), binding: 0, workflow_id: None, run_id: None, activity_attempt: None };
    let spent = runs::spent_by_status(view.job);
    let new = NewRun { number, attempt, resumed, active_millis, spent, grant: Some(grant), command: None };
    Action::CreateRun(Box::new(new))
}

/// Nothing was started yet.
fn first_run(view: &JobView<'_>) -> Decision {
    let unchanged = Decision::unchanged(view);
    match view.desired() {
        DesiredState::Cancelled => finish(view, Phase::Cancelled, None),
        DesiredState::Paused => Decision { phase: Phase::Paused, ..unchanged },
        DesiredState::Running => {
            let retry = RetryStatus::default();
            let create = new_run(view, 1, &retry);
            Decision { phase: Phase::Pending, active_run: Some(1), retry: Some(retry), ..unchanged }.with(create)
        }
    }
}

/// The phase of a job whose next agent has not started.
fn waiting_phase(retry: &RetryStatus) -> Phase {
    if retry.attempts > 0 && !retry.resumed { Phase::Retrying } else { Phase::Pending }
}

/// Everything as it was, for a run whose agent has not started.
fn waiting(view: &JobView<'_>, pending: &Pending) -> Decision {
    Decision {
        phase: waiting_phase(&retry(view)),
        pending_since: pending.since.clone(),
        blocked: pending.blocked.clone(),
        waits: pending.waits.clone(),
        requeue: pending.requeue,
        ..Decision::unchanged(view)
    }
}

/// The run is in the status and not created yet: it waits for a resume, the back-off, and the end of the previous pod.
fn upcoming_run(view: &JobView<'_>, number: i32) -> Decision {
    let (retry, pending) = (retry(view), pending::of(view));
    let unchanged = waiting(view, &pending);
    if view.desired() == DesiredState::Cancelled {
        return finish(view, Phase::Cancelled, None);
    }
    if let Some(error) = pending.timed_out {
        return finish(view, Phase::Failed, Some(error));
    }
    if view.observed.runs.iter().any(|r| r.number() == number - 1 && !r.is_closed()) {
        // It is closed with those that another has replaced.
        return unchanged.again(STILL_ENDING);
    }
    let left = retry.retry_after.as_ref().map(|at| view.until(at)).filter(|left| !left.is_zero());
    let lingers = view.lingers();
    if view.desired() == DesiredState::Paused {
        let ends = view.observed.previous_pod.is_some() || lingers.is_some();
        let phase = if ends { unchanged.phase } else { Phase::Paused };
        return Decision { phase, requeue: super::sooner(unchanged.requeue, lingers), ..unchanged };
    }
    if let Some(left) = lingers {
        return unchanged.again(left);
    }
    if let Some(left) = left {
        return unchanged.again(left);
    }
    if let Some(pod) = &view.observed.previous_pod {
        let delete = Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() };
        let decision = unchanged.again(STILL_ENDING);
        // The pods of closed runs that exist are handled by `collect`.
        let is_of = |run: &AgentRun| run.number() == number - 1 && ending::is_pod_of(run, pod);
        let collected = view.observed.runs.iter().any(is_of);
        return if pod.deleting() || collected { decision } else { decision.with(delete) };
    }
    let create = new_run(view, number, &retry);
    unchanged.with(create)
}

/// Its runner has not registered.
fn starting(view: &JobView<'_>, run: &AgentRun) -> Decision {
    let pending = pending::of(view);
    let unchanged = waiting(view, &pending);
    if view.desired() == DesiredState::Cancelled {
        let close = Action::close(run, lifecycle::given_up(run, view.now()), Guard::NotReady);
        return Decision { phase: Phase::Cancelling, ..unchanged }.with(close).again(Duration::ZERO);
    }
    if let Some(termination) = view.derived_termination() {
        return unchanged.with(Action::close(run, termination, Guard::None)).again(Duration::ZERO);
    }
    if let Some(error) = pending.timed_out {
        let termination = lifecycle::koco(run, &error.kind, error.message, view.now());
        return unchanged.with(Action::close(run, termination, Guard::NotReady)).again(Duration::ZERO);
    }
    // Its runner receives the command before the grant, so no agent starts any more.
    let held = view.desired() == DesiredState::Paused && view.command() == Some(DesiredState::Paused);
    let phase = if held { Phase::Paused } else { unchanged.phase };
    let decision = with_command(view, run, Decision { phase, ..unchanged });
    if view.pod.is_some() || view.old.runner_pod_uid.is_some() {
        return decision;
    }
    match &view.observed.previous_pod {
        Some(_) => decision.again(STILL_ENDING),
        None => decision.with(Action::CreatePod(Box::new(run.clone()))),
    }
}

/// Its runner has registered, and the agent may run.
fn running(view: &JobView<'_>, run: &AgentRun) -> Decision {
    let phase = phase_of_agent(view, view.desired());
    let decision = Decision { phase, pending_since: view.series_since(), ..Decision::unchanged(view) };
    if let Some(termination) = view.derived_termination() {
        return decision.with(Action::close(run, termination, Guard::None)).again(Duration::ZERO);
    }
    let decision = with_command(view, run, decision);
    if let Some(since) = run.status.as_ref().and_then(|s| s.unresponsive_since.as_ref()) {
        let (limit, waited) = (view.resolved.timeouts.heartbeat.get() * 2, view.since(since));
        if waited <= limit {
            // Whole seconds: certainly past the limit.
            return decision.again(limit - waited + Duration::from_secs(1));
        }
        if ending::needs_a_lost_node(run, view.pod, view.observed.node.as_ref()) {
            return decision.again(limit);
        }
        let message = format!("the runner sent nothing for {} s", waited.as_secs());
        let lost = ending::unresponsive(run, view.observed.node.as_ref(), &message, view.now());
        return decision.with(Action::close(run, lost, Guard::Unresponsive)).again(Duration::ZERO);
    }
    let told = run.spec.command.as_ref().filter(|c| c.state == DesiredState::Cancelled);
    let Some(told) = told else {
        let (close, left) = over_its_limit(view, run);
        let decision = Decision { requeue: super::sooner(decision.requeue, left), ..decision };
        return close.into_iter().fold(decision, Decision::with);
    };
    let (limit, waited) = (view.job.grace().saturating_add(CANCEL_MARGIN), view.since(&told.time));
    if waited < limit {
        return decision.again(limit - waited);
    }
    decision.with(Action::close(run, lifecycle::given_up(run, view.now()), Guard::None)).again(Duration::ZERO)
}

/// The newest run has ended: records what follows.
fn after_run(view: &JobView<'_>, run: &AgentRun) -> Decision {
    let cancelled = view.desired() == DesiredState::Cancelled;
    if (!run.may_have_started() || view.start_failed())
        && !cancelled
        && let Some(error) = pending_error(view, run)
    {
        return finish(view, Phase::Failed, Some(error));
    }
    let retry = retry(view);
    // The run in whose place a tombstone is had started if its attempt was counted.
    let counted = view.old.attempt >= Some(lifecycle::upcoming(&retry).attempt);
    let started = run.may_have_started() || (run.spec.identity.tombstone && counted);
    let after = lifecycle::after_run(&retry, run, started, &view.policy(), cancelled, view.now());
    match after.next {
        Next::Succeed => finish(view, Phase::Succeeded, None),
        Next::Fail(error) => finish(view, Phase::Failed, Some(error)),
        Next::Cancel => finish(view, Phase::Cancelled, None),
        Next::Continue => {
            let heard = view.termination().is_some_and(|t| t.source == TerminationSource::Runner);
            let phase = match view.desired() {
                DesiredState::Paused if heard || !view.pod_may_run() => Phase::Paused,
                _ => waiting_phase(&after.retry),
            };
            Decision {
                phase,
                active_run: Some(run.number().saturating_add(1)),
                error: after.error.or(view.old.error.clone()),
                retry: Some(after.retry),
                pending_since: pending::carried(view, started),
                ..Decision::unchanged(view)
            }
            .again(Duration::ZERO)
        }
    }
}

/// Whether the time for a pod to come up is over.
fn pending_error(view: &JobView<'_>, run: &AgentRun) -> Option<ErrorStatus> {
    let said = run.termination().and_then(|t| t.error.clone());
    said.filter(|e| e.kind == error_types::PENDING_TIMEOUT).or_else(|| pending::of(view).timed_out)
}

/// The command for the runner, if its state differs: level-triggered. A pause is also written anew for a newer generation
/// of the job: so no controller that knows only of an older one, which may have been a resume, writes that over it.
fn with_command(view: &JobView<'_>, run: &AgentRun, decision: Decision) -> Decision {
    let (old, generation) = (run.spec.command.as_ref(), view.job.metadata.generation);
    if RunCommand::asked_by(old, view.desired(), generation, view.now().clone()).is_none() {
        return decision;
    }
    decision.with(Action::CommandRun { run: Box::new(run.clone()), state: view.desired() })
}
