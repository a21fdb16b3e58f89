//! Direct mode: the controller takes the workflow's part, with one attempt. Nothing but Kubernetes is needed.

use std::time::Duration;

use super::{Action, Draft, pending};
use crate::{
    api::{Command, DesiredState, DisruptionPolicy, ErrorStatus, OutcomeKind, Permit, Phase, RunnerState},
    pods::collect,
    protocol::error_types,
};

/// How long a runner may take beyond its agent's grace period to report its end, before its pod is deleted.
const MARGIN: Duration = Duration::from_secs(30);

pub(super) fn plan(d: &mut Draft<'_>) {
    command(d);
    d.mirror_claim();
    if d.status.claim.is_none() {
        match d.wish() {
            DesiredState::Cancelled => return d.finish(Phase::Cancelled, None),
            DesiredState::Paused => d.status.phase = Some(Phase::Paused),
            DesiredState::Running => {
                d.status.phase = Some(Phase::Pending);
                d.status.claim = Some(d.next_claim(1, false, 0));
                d.look_again(Duration::ZERO);
            }
        }
        return;
    }
    if d.outcome().is_some() {
        if d.outcome_is_written() {
            after(d);
        }
        return;
    }
    if d.agent_may_run() {
        running(d);
    } else {
        before_permit(d);
    }
}

/// The command for the runner: written only when it differs, so that signals follow from states and never from edges.
fn command(d: &mut Draft<'_>) {
    let (wish, now) = (d.wish(), d.now());
    let Some(control) = d.status.control.as_mut() else { return };
    let (state, seq) = control.command.as_ref().map_or((DesiredState::Running, 0), |c| (c.state, c.seq));
    if state != wish {
        control.command = Some(Command { state: wish, seq: seq + 1, time: now });
    }
}

/// A pod is to come, or is on its way.
fn before_permit(d: &mut Draft<'_>) {
    let retrying = d.status.attempt.is_some() && d.status.claim.as_ref().is_some_and(|c| !c.resumed);
    d.status.phase = Some(if retrying { Phase::Retrying } else { Phase::Pending });
    if d.wish() == DesiredState::Cancelled {
        d.delete_pods(|p| !p.agent_ended());
        if d.seen.pods.iter().all(|p| p.agent_ended()) && d.seen.pods_are_live {
            d.finish(Phase::Cancelled, None);
        } else {
            d.status.phase = Some(Phase::Cancelling);
        }
        return;
    }
    let Some(claim) = d.status.claim.clone() else { return };
    if claim.pod_uid.is_none() {
        if d.wish() == DesiredState::Paused {
            d.status.phase = Some(Phase::Paused);
            return;
        }
        let earlier = collect::before_epoch(&d.seen.pods, claim.epoch);
        if earlier.is_empty() {
            // Not before the claim is written.
            if d.job.status.as_ref().and_then(|s| s.claim.as_ref()).is_some_and(|c| c.epoch == claim.epoch) {
                d.actions.push(Action::CreatePod);
            }
        } else {
            d.delete_pods(|p| p.epoch < claim.epoch && !p.agent_ended());
        }
        return;
    }
    if let Some(error) = pending::plan(d) {
        d.delete_pods(|p| !p.agent_ended());
        return d.finish(Phase::Failed, Some(error));
    }
    if d.wish() == DesiredState::Paused {
        d.status.phase = Some(Phase::Paused);
    } else if d.runner_is_ready() {
        let permit = Permit { time: d.now(), offer: 0, run_id: None, task_token: None };
        if let Some(claim) = d.status.claim.as_mut() {
            claim.permit = Some(permit);
        }
        d.mirror_claim();
        d.status.phase = Some(Phase::Running);
    }
}

/// The agent has its permit.
fn running(d: &mut Draft<'_>) {
    d.status.phase = Some(match (d.wish(), d.confirmed()) {
        (DesiredState::Paused, Some(RunnerState::Frozen | RunnerState::Waiting)) => Phase::Paused,
        (DesiredState::Cancelled, _) => Phase::Cancelling,
        _ => Phase::Running,
    });
    if d.wish() == DesiredState::Cancelled {
        let told = d.status.control.as_ref().and_then(|c| c.command.as_ref()).map(|c| c.time.clone());
        let limit = d.job.grace() + MARGIN;
        let waited = told.map_or(Duration::ZERO, |t| d.since(&t));
        if waited >= limit {
            d.delete_pods(|p| !p.agent_ended());
        } else {
            d.look_again(limit - waited);
        }
    }
}

/// The epoch has ended.
fn after(d: &mut Draft<'_>) {
    let (Some(outcome), Some(claim)) = (d.outcome().cloned(), d.status.claim.clone()) else { return };
    let attempts = claim.attempt;
    let active = claim.active_millis + outcome.active_millis;
    match (outcome.kind, d.wish()) {
        (OutcomeKind::Succeeded, _) => d.finish(Phase::Succeeded, None),
        (_, DesiredState::Cancelled) => d.finish(Phase::Cancelled, None),
        (OutcomeKind::Evicted, DesiredState::Paused) => d.status.phase = Some(Phase::Paused),
        (OutcomeKind::Evicted, _) => again(d, attempts, true, active),
        (OutcomeKind::Cancelled, _) => {
            let message = "the agent was cancelled, but not by spec.desiredState".into();
            d.finish(Phase::Failed, Some(ErrorStatus { kind: error_types::CANCELLED.into(), message }));
        }
        (OutcomeKind::Failed, wish) => {
            let error = outcome.error.clone().unwrap_or_default();
            d.status.error = Some(error.clone());
            // Not `started: false` alone: a command that can't be started would not start in another pod either.
            let unstarted = error.kind == error_types::NOT_STARTED || claim.permit.is_none();
            let forgiven =
                error.kind == error_types::DISRUPTED && d.job.spec.disruption_policy == DisruptionPolicy::Ignore;
            if unstarted && let Some(error) = pending::plan(d) {
                d.finish(Phase::Failed, Some(error));
            } else if (unstarted || forgiven) && wish == DesiredState::Paused {
                d.status.phase = Some(Phase::Paused);
            } else if unstarted {
                again(d, attempts, claim.resumed, claim.active_millis);
            } else if forgiven {
                again(d, attempts + 1, false, 0);
            } else {
                d.finish(Phase::Failed, Some(error));
            }
        }
    }
}

/// Another pod, a little later each time, so that pods that end at once are no hot loop.
fn again(d: &mut Draft<'_>, attempt: i32, resumed: bool, active_millis: i64) {
    let Some(outcome) = d.outcome().cloned() else { return };
    let Some(retry) = d.status.resolved.as_ref().map(|r| r.retry_policy.clone()) else { return };
    let epoch = d.status.claim.as_ref().map_or(1, |c| c.epoch);
    let wait = if resumed && outcome.kind == OutcomeKind::Evicted { Duration::ZERO } else { retry.back_off(epoch) };
    let waited = d.since(&outcome.time);
    if waited < wait {
        d.status.phase = Some(Phase::Retrying);
        return d.look_again(wait - waited);
    }
    d.status.claim = Some(d.next_claim(attempt, resumed, active_millis));
    d.status.phase = Some(if resumed { Phase::Pending } else { Phase::Retrying });
    d.mirror_claim();
    d.look_again(Duration::ZERO);
}
