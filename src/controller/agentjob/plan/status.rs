//! The new status, from the decisions and the newest run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Decision, view::JobView};
use crate::{
    api::{AgentJobStatus, AgentProgress, Confirmed, ControlStatus, ObservedDesiredState, Phase, RawJson, Spent, fid},
    lifecycle,
};

/// The status without the conditions.
pub(super) fn compose(view: &JobView<'_>, decision: &Decision) -> AgentJobStatus {
    let (job, old) = (view.job, &view.old);
    let created = job.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
    let (runner_pod, runner_pod_uid) = pod(view, decision);
    let ends_now = decision.phase.is_terminal() && !view.is_terminal();
    AgentJobStatus {
        observed_generation: job.metadata.generation,
        phase: Some(decision.phase),
        fid: old.fid.clone().or_else(|| Some(fid(created, job.uid()))),
        attempt: attempt(view, decision),
        active_run: decision.active_run,
        runner_pod,
        runner_pod_uid,
        retry: decision.retry.clone(),
        resolved: Some(view.resolved.clone()).filter(|_| job.spec.unfilled().is_none()),
        workflow: decision.workflow.clone(),
        progress: progress(view),
        spent: spent(view, decision),
        result: if ends_now && decision.phase == Phase::Succeeded { result(view) } else { old.result.clone() },
        error: decision.error.clone(),
        start_time: old.start_time.clone().or_else(|| start_time(view)),
        completion_time: if ends_now { Some(view.now().clone()) } else { old.completion_time.clone() },
        pending_since: decision.pending_since.clone(),
        conditions: old.conditions.clone(),
        control: Some(control(view, decision)),
    }
}

/// The newest run's pod, once it was observed. Until then the previous pod's name stays, for its logs; but not its UID,
/// or the newest run's pod would look deleted.
fn pod(view: &JobView<'_>, decision: &Decision) -> (Option<String>, Option<String>) {
    let old = (view.old.runner_pod.clone(), view.old.runner_pod_uid.clone());
    let run = view.run.filter(|r| Some(r.number()) == decision.active_run);
    let registered = run.and_then(|r| r.status.as_ref()?.pod_uid.clone());
    let uid = registered.or_else(|| view.pod.filter(|_| run.is_some()).map(|p| p.uid.clone()));
    match (run, uid) {
        (Some(run), Some(uid)) => (Some(run.spec.identity.pod_name.clone()), Some(uid)),
        _ if decision.active_run != view.old.active_run => (old.0, None),
        _ => old,
    }
}

/// How many times the agent was started.
fn attempt(view: &JobView<'_>, decision: &Decision) -> Option<i32> {
    let started = view.run.filter(|r| r.may_have_started()).map(|r| r.spec.identity.attempt);
    let answered = view.answer().map(|a| a.attempt);
    let counted = decision.retry.as_ref().map(|r| r.attempts);
    view.old.attempt.max(started).max(answered).max(counted).filter(|n| *n > 0)
}

/// When the agent first started.
fn start_time(view: &JobView<'_>) -> Option<Time> {
    let run = view.run.filter(|r| r.may_have_started())?;
    let granted = run.spec.grant.as_ref()?.time.clone();
    let ready = run.status.as_ref()?.ready_time.clone()?;
    Some(granted.max(ready))
}

/// How far the newest agent is; of a new attempt's agent nothing is known until it reports. What was used is that of all.
fn progress(view: &JobView<'_>) -> Option<AgentProgress> {
    let old = view.old.progress.clone();
    let Some(run) = view.run.filter(|_| !view.is_terminal()) else { return old };
    let before = run.spec.identity.spent.unwrap_or_default().usage;
    let known = old.as_ref().map(|old| old.usage).unwrap_or_default();
    let usage = known.at_least(before.plus(lifecycle::usage(run)));
    let reported = run.status.as_ref().and_then(|status| status.progress.clone());
    let starts_anew = run.may_have_started() && !run.spec.identity.resumed;
    match (reported, old) {
        (Some(new), _) => Some(AgentProgress { usage, ..new }),
        (None, Some(old)) if starts_anew => {
            Some(AgentProgress { percent: None, message: None, usage, ..old }).filter(|_| !usage.is_empty())
        }
        (None, old) => old,
    }
}

/// What is used up, once the job goes on from its newest run or ends with it: no write of its own.
fn spent(view: &JobView<'_>, decision: &Decision) -> Option<Spent> {
    let Some(run) = view.run.filter(|_| !view.is_terminal()) else { return view.old.spent };
    let leaves = decision.phase.is_terminal() || decision.active_run > Some(run.number());
    let new = if leaves { lifecycle::spent(run) } else { run.spec.identity.spent.unwrap_or_default() };
    Some(view.old.spent.unwrap_or_default().at_least(new)).filter(|spent| !spent.is_empty())
}

fn result(view: &JobView<'_>) -> Option<RawJson> {
    view.termination()?.result.clone()
}

/// What the spec desires, what was sent, and what the newest runner has confirmed.
fn control(view: &JobView<'_>, decision: &Decision) -> ControlStatus {
    let (state, old) = (view.desired(), view.old.control.clone().unwrap_or_default());
    let known = old.desired.filter(|d| d.state == state);
    let desired = known.unwrap_or_else(|| ObservedDesiredState { state, time: view.now().clone() });
    let confirmed = view.run.and_then(|run| {
        let answer = run.acknowledged()?;
        Some(Confirmed {
            state: answer.state,
            generation: answer.generation,
            run: run.number(),
            time: answer.time.clone(),
            problem: answer.problem.clone(),
        })
    });
    ControlStatus { desired: Some(desired), sent: decision.sent.clone(), confirmed: confirmed.or(old.confirmed) }
}
