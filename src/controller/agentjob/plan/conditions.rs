//! The conditions, from the rest of the status and the runs: Ready, Paused, Succeeded, Reconciling, Stalled,
//! EventsComplete.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{Decision, view::JobView};
use crate::api::{
    AgentJobStatus, AgentRun, DesiredState, Phase, Reason, RunnerState, Termination,
    conditions::{self, ConditionUpdate, EVENTS_COMPLETE, PAUSED, READY, RECONCILING, STALLED, SUCCEEDED},
};

/// Where the job is on its way to what the spec asks for.
enum Course {
    /// On its way.
    UnderWay,
    /// Paused, or ended as somebody wanted it.
    Settled,
    /// Failed, or it can't go on: why.
    Stuck(Reason, String),
}

impl Course {
    fn of(view: &JobView<'_>, decision: &Decision, status: &AgentJobStatus) -> Self {
        match (&decision.blocked, decision.phase) {
            (Some((reason, message)), _) => Self::Stuck(reason.clone(), message.clone()),
            (None, Phase::Failed) => {
                let error = status.error.clone().unwrap_or_default();
                Self::Stuck(Reason::Failed, format!("{}: {}", error.kind, error.message))
            }
            (None, Phase::Succeeded | Phase::Cancelled) => Self::Settled,
            (None, Phase::Paused) if is_to_be_paused(view) => Self::Settled,
            (None, _) => Self::UnderWay,
        }
    }
}

/// Whether the pause of a paused job is to last: a resume that the workflow has not carried out yet is on its way.
fn is_to_be_paused(view: &JobView<'_>) -> bool {
    view.desired() == DesiredState::Paused || (view.is_held() && request_received(view))
}

/// All of them, for the new status.
pub(super) fn of(view: &JobView<'_>, decision: &Decision, status: &AgentJobStatus) -> Vec<Condition> {
    let (succeeded, course) = (succeeded(view, decision, status), Course::of(view, decision, status));
    let reconciling = reconciling(&course, &succeeded);
    let updates = [ready(view, decision), paused(view, decision.phase), succeeded, reconciling, stalled(course)];
    let mut list = status.conditions.clone();
    for update in updates.into_iter().chain(events_complete(view, decision.phase)) {
        conditions::set(&mut list, update, view.job.metadata.generation, view.now().clone());
    }
    list
}

fn update(kind: &'static str, status: Option<bool>, reason: Reason, message: impl Into<String>) -> ConditionUpdate {
    ConditionUpdate { kind, status, reason, message: message.into() }
}

fn ready(view: &JobView<'_>, decision: &Decision) -> ConditionUpdate {
    if let Some((reason, message)) = &decision.not_ready {
        return update(READY, Some(false), reason.clone(), message);
    }
    if let Some((reason, message)) = decision.blocked.as_ref().filter(|(r, _)| *r == Reason::TemporalNotConfigured) {
        return update(READY, Some(false), reason.clone(), message);
    }
    match decision.phase {
        Phase::Failed => return update(READY, Some(false), Reason::Failed, "the job has failed: see Succeeded"),
        phase if phase.is_terminal() => return update(READY, Some(true), Reason::Finished, "the job has ended"),
        _ => {}
    }
    let heartbeat = view.resolved.timeouts.heartbeat;
    let asked = view.job.spec.timeouts.as_ref().and_then(|t| t.heartbeat);
    let message = match asked.filter(|asked| asked.get() < heartbeat.get()) {
        Some(_) => format!(
            "this generation is accepted and passed on, with timeouts.heartbeat raised to {heartbeat}, the operator's least"
        ),
        None => "this generation is accepted and passed on".into(),
    };
    update(READY, Some(true), Reason::Accepted, message)
}

fn paused(view: &JobView<'_>, phase: Phase) -> ConditionUpdate {
    let run = view.run.filter(|r| !r.is_closed());
    let problem = run.and_then(AgentRun::problem);
    let command = view.command().filter(|_| run.is_some());
    let received = request_received(view);
    let wanted = command.filter(|_| received).unwrap_or(view.desired());
    match (phase, problem) {
        (Phase::Paused, _) => {
            let still = match unresponsive_since(view) {
                Some(since) => {
                    format!("every process of the agent was stopped at the last contact with its runner, {since}")
                }
                None if view.agent_may_run() && view.acknowledged() == Some(RunnerState::Frozen) => {
                    "every process of the agent is stopped".into()
                }
                None => "no agent is started".into(),
            };
            let message = format!("{still}. Resume with spec.desiredState: Running");
            update(PAUSED, Some(true), Reason::Paused, message)
        }
        (_, Some(problem)) => update(PAUSED, Some(false), Reason::CannotPause, problem),
        (p, None) if wanted == DesiredState::Paused && !p.is_terminal() => {
            let what = match command {
                _ if view.is_lost() => "the runner is lost, and Kubernetes doesn't report yet that its agent has ended",
                _ if !received => "the workflow has not received the request yet: are Temporal and a worker up?",
                Some(DesiredState::Paused) => "the runner has not confirmed yet that the agent is stopped",
                _ => "the command is being sent to the runner",
            };
            update(PAUSED, Some(false), Reason::Pausing, what)
        }
        _ if resuming(view) => {
            let message = "the runner has not confirmed yet that the agent is resumed";
            update(PAUSED, Some(false), Reason::Resuming, message)
        }
        (p, _) if view.desired() == DesiredState::Paused && !p.is_terminal() => {
            let message =
                "resumed by a signal, though spec.desiredState is Paused; kubectl koco pause requests it again";
            update(PAUSED, Some(false), Reason::NotPaused, message)
        }
        _ => update(PAUSED, Some(false), Reason::NotPaused, "no pause is requested"),
    }
}

/// Whether the workflow, if any, has received the spec's desired state.
fn request_received(view: &JobView<'_>) -> bool {
    let Some(answer) = view.answer() else {
        return !view.is_temporal() || view.old.workflow.is_none();
    };
    let recorded = view.old.control.as_ref().and_then(|c| c.sent.as_ref());
    let sent = view.observed.sent.as_ref().or(recorded);
    let last = answer.last_request.as_ref();
    sent.is_some_and(|s| s.state == view.desired() && last.is_some_and(|l| l.id == s.id))
}

/// Whether the running agent's last acknowledgement is Frozen, and it was commanded to run since. It doesn't count as
/// paused then: it may run already.
fn resuming(view: &JobView<'_>) -> bool {
    let Some(run) = view.run.filter(|r| r.may_run()) else { return false };
    let (Some(command), Some(answer)) = (&run.spec.command, run.acknowledged()) else { return false };
    command.state == DesiredState::Running
        && answer.generation < command.generation
        && answer.state == RunnerState::Frozen
}

fn succeeded(view: &JobView<'_>, decision: &Decision, status: &AgentJobStatus) -> ConditionUpdate {
    let error = status.error.clone().unwrap_or_default();
    let attempt = status.attempt.unwrap_or(0);
    match decision.phase {
        Phase::Succeeded => {
            update(SUCCEEDED, Some(true), Reason::Succeeded, "the agent ended with success; see status.result")
        }
        Phase::Failed => {
            let reason = Reason::or(&error.kind, Reason::Failed);
            let message = match &status.runner_pod {
                Some(pod) => format!("attempt {attempt}, the last: {}. See kubectl logs {pod}", error.message),
                None => error.message,
            };
            update(SUCCEEDED, Some(false), reason, message)
        }
        Phase::Cancelled => update(SUCCEEDED, Some(false), Reason::Cancelled, "the job was cancelled"),
        Phase::Retrying => {
            let failed = format!("attempt {attempt} failed: {}; a retry", error.message);
            match hindrance(decision) {
                Some((reason, message)) => {
                    update(SUCCEEDED, None, reason.clone(), format!("{failed} waits: {}: {message}", reason.as_str()))
                }
                None => update(SUCCEEDED, None, Reason::Retrying, format!("{failed} follows")),
            }
        }
        Phase::Cancelling => update(SUCCEEDED, None, Reason::Cancelling, "the agent is being stopped"),
        Phase::Paused => update(SUCCEEDED, None, Reason::Paused, "the job is paused"),
        Phase::Running => match unresponsive_since(view) {
            Some(since) => {
                let message =
                    format!("the runner of attempt {attempt} is unresponsive since {since}: is its node reachable?");
                update(SUCCEEDED, None, Reason::RunnerUnresponsive, message)
            }
            None => update(SUCCEEDED, None, Reason::Running, format!("attempt {attempt} is running")),
        },
        Phase::Pending => {
            let reason = hindrance(decision).map_or(Reason::Pending, |(reason, _)| reason.clone());
            update(SUCCEEDED, None, reason, pending(view, decision))
        }
    }
}

/// Since when the running agent's runner is unresponsive.
fn unresponsive_since(view: &JobView<'_>) -> Option<Timestamp> {
    let run = view.run.filter(|r| r.may_run())?;
    run.status.as_ref()?.unresponsive_since.as_ref().map(|since| since.0)
}

/// What a job whose agent has not started waits for, whether that may come by itself or not.
fn hindrance(decision: &Decision) -> Option<&(Reason, String)> {
    decision.blocked.as_ref().or(decision.waits.as_ref())
}

fn pending(view: &JobView<'_>, decision: &Decision) -> String {
    // The name is shown only once the pod exists: until then it is secret.
    match (hindrance(decision), view.pod) {
        (Some((reason, message)), _) => format!("{}: {message}", reason.as_str()),
        (None, None) => "the job is being submitted".into(),
        (None, Some(pod)) => format!("pod {} is starting", pod.name),
    }
}

/// Says the same as Succeeded while that is unknown.
fn reconciling(course: &Course, succeeded: &ConditionUpdate) -> ConditionUpdate {
    let reason = succeeded.reason.clone();
    match course {
        Course::UnderWay => update(RECONCILING, Some(true), reason, &succeeded.message),
        Course::Settled => update(RECONCILING, Some(false), reason, "nothing more is asked for"),
        Course::Stuck(reason, _) => update(RECONCILING, Some(false), reason.clone(), "see Stalled"),
    }
}

fn stalled(course: Course) -> ConditionUpdate {
    match course {
        Course::Stuck(reason, message) => update(STALLED, Some(true), reason, message),
        Course::UnderWay | Course::Settled => update(STALLED, Some(false), Reason::Moving, "no action is needed"),
    }
}

/// What its runs have said. A run that is no longer kept takes nothing back.
fn events_complete(view: &JobView<'_>, phase: Phase) -> Option<ConditionUpdate> {
    let ends: Vec<(i32, &Termination)> =
        view.observed.runs.iter().filter_map(|run| Some((run.number(), run.termination()?))).collect();
    if let Some((last, _)) = ends.iter().rfind(|(_, end)| end.events_missing.is_some()) {
        let missing = total(ends.iter().filter_map(|(_, end)| end.events_missing));
        let message =
            format!("{missing} events were not known to be stored when their runs ended, the last of them run {last}");
        return Some(update(EVENTS_COMPLETE, Some(false), Reason::EventsMissing, message));
    }
    let said = view.old.conditions.iter().find(|c| c.type_ == EVENTS_COMPLETE && c.status != "Unknown");
    if let Some(said) = said {
        return Some(update(EVENTS_COMPLETE, Some(said.status == "True"), Reason::other(&said.reason), &said.message));
    }
    if !phase.is_terminal() || !ends.iter().any(|(_, end)| end.events.is_some()) {
        return None;
    }
    // An agent that has not started has told nothing, and a run that never had a pod has no agent.
    let told = |number| {
        let end = ends.iter().find(|(run, _)| *run == number).map(|(_, end)| *end);
        let without_pod = || {
            let run = view.run.filter(|run| run.number() == number);
            run.is_some_and(|run| run.spec.identity.tombstone) && view.old.runner_pod_uid.is_none()
        };
        end.map_or_else(without_pod, |end| end.events.is_some() || !end.started)
    };
    Some(match (1..=view.active_run()?).find(|number| !told(*number)) {
        None => {
            let events = total(ends.iter().filter_map(|(_, end)| end.events));
            update(
                EVENTS_COMPLETE,
                Some(true),
                Reason::EventsStored,
                format!("all {events} events of its runs are stored"),
            )
        }
        Some(run) => {
            let message = format!("how many events run {run} had is not known: it has not told, or is no longer kept");
            update(EVENTS_COMPLETE, None, Reason::EventsUnknown, message)
        }
    })
}

fn total(events: impl Iterator<Item = i64>) -> i64 {
    events.fold(0, i64::saturating_add)
}
