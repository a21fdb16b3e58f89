//! The conditions, from the rest of the status: Ready, Paused, Succeeded, Stalled.

use k8s_openapi::jiff::Timestamp;

use super::Draft;
use crate::api::{
    DesiredState, ExecutionMode, Phase, RunnerState,
    conditions::{self, PAUSED, READY, STALLED, SUCCEEDED, Say},
};

pub(super) fn plan(d: &mut Draft<'_>) {
    let phase = d.status.phase.unwrap_or_default();
    let says = [ready(d, phase), paused(d, phase), succeeded(d, phase), stalled(d)];
    let (generation, now) = (d.job.metadata.generation, d.now());
    for say in says {
        conditions::set(&mut d.status.conditions, say, generation, now.clone());
    }
}

fn say(kind: &'static str, status: Option<bool>, reason: &str, message: impl Into<String>) -> Say {
    Say { kind, status, reason: reason.into(), message: message.into() }
}

fn ready(d: &Draft<'_>, phase: Phase) -> Say {
    if let Some((reason, message)) = &d.not_ready {
        return say(READY, Some(false), reason, message);
    }
    if let Some((reason, message)) = d.stalled.as_ref().filter(|(r, _)| r == "TemporalNotConfigured") {
        return say(READY, Some(false), reason, message);
    }
    if phase.is_terminal() {
        return say(READY, Some(true), "Finished", "the job has ended");
    }
    say(READY, Some(true), "Accepted", "this generation is accepted and handed on")
}

fn paused(d: &Draft<'_>, phase: Phase) -> Say {
    let control = d.status.control.as_ref();
    let problem = control.and_then(|c| {
        let (command, confirmed) = (c.command.as_ref()?, c.confirmed.as_ref()?);
        (confirmed.seq >= command.seq).then(|| confirmed.problem.clone()).flatten()
    });
    let command = control.and_then(|c| c.command.as_ref()).map(|c| c.state);
    let heard = heard(d);
    let wanted = command.filter(|_| heard).unwrap_or(d.wish());
    match (phase, problem) {
        (Phase::Paused, _) => {
            let still = match silent_since(d) {
                Some(since) => format!("every process of the agent stood still when its runner fell silent at {since}"),
                None if d.agent_may_run() => "every process of the agent stands still".into(),
                None => "no agent is started".into(),
            };
            let message = format!("{still}. Resume with spec.desiredState: Running");
            say(PAUSED, Some(true), "Paused", message)
        }
        (_, Some(problem)) => say(PAUSED, Some(false), "CannotPause", problem),
        (p, None) if wanted == DesiredState::Paused && !p.is_terminal() => {
            let what = match command {
                _ if d.is_lost() => "the runner is lost, and Kubernetes can't say yet that its agent has ended",
                _ if !heard => "the workflow has not taken the request yet: are Temporal and a worker up?",
                Some(DesiredState::Paused) => "the runner has not confirmed yet that the agent stands still",
                _ => "the command is on its way to the runner",
            };
            say(PAUSED, Some(false), "Pausing", what)
        }
        _ if resuming(d) => {
            say(PAUSED, Some(false), "Resuming", "the runner has not confirmed yet that the agent goes on")
        }
        (p, _) if d.wish() == DesiredState::Paused && !p.is_terminal() => {
            let message = "resumed from elsewhere, though the spec asks for a pause; kubectl koco pause asks again";
            say(PAUSED, Some(false), "NotPaused", message)
        }
        _ => say(PAUSED, Some(false), "NotPaused", "nobody asked for a pause"),
    }
}

/// Whether the workflow, where there is one, has heard what the spec asks for.
fn heard(d: &Draft<'_>) -> bool {
    let Some(answer) = d.seen.answer.as_ref().and_then(|a| a.status.as_ref()) else {
        return d.mode() == ExecutionMode::Direct || d.status.workflow.is_none();
    };
    let sent = d.status.control.as_ref().and_then(|c| c.sent.as_ref());
    let last = answer.last_request.as_ref();
    sent.is_some_and(|s| s.state == d.wish() && last.is_some_and(|l| l.id == s.id))
}

/// Whether the newest word of the running agent is that it stands still, and it was told to go on since. It is not called
/// Paused then: it may run already.
fn resuming(d: &Draft<'_>) -> bool {
    let Some(control) = d.status.control.as_ref().filter(|_| d.agent_may_run()) else { return false };
    let (Some(command), Some(confirmed), Some(claim)) = (&control.command, &control.confirmed, &d.status.claim) else {
        return false;
    };
    command.state == DesiredState::Running
        && confirmed.epoch == claim.epoch
        && confirmed.seq < command.seq
        && confirmed.state == RunnerState::Frozen
}

fn succeeded(d: &Draft<'_>, phase: Phase) -> Say {
    let error = d.status.error.clone().unwrap_or_default();
    let attempt = d.status.attempt.unwrap_or(0);
    match phase {
        Phase::Succeeded => say(SUCCEEDED, Some(true), "Succeeded", "the agent ended with success; see status.result"),
        Phase::Failed => {
            let reason = if is_reason(&error.kind) { error.kind.as_str() } else { "Failed" };
            let pod = d.status.runner_pod.clone().unwrap_or_default();
            let next = format!("See kubectl logs {pod}");
            say(SUCCEEDED, Some(false), reason, format!("attempt {attempt}, the last: {}. {next}", error.message))
        }
        Phase::Cancelled => say(SUCCEEDED, Some(false), "Cancelled", "the job was cancelled"),
        Phase::Retrying => say(
            SUCCEEDED,
            None,
            "Retrying",
            format!("attempt {attempt} failed: {}; the next is to come", error.message),
        ),
        Phase::Cancelling => say(SUCCEEDED, None, "Cancelling", "the agent is being stopped"),
        Phase::Paused => say(SUCCEEDED, None, "Paused", "the job is paused"),
        Phase::Running => match silent_since(d) {
            Some(since) => {
                let message =
                    format!("the runner of attempt {attempt} is silent since {since}: is its node reachable?");
                say(SUCCEEDED, None, "RunnerSilent", message)
            }
            None => say(SUCCEEDED, None, "Running", format!("attempt {attempt} runs")),
        },
        Phase::Pending => say(SUCCEEDED, None, "Pending", pending(d)),
    }
}

/// Since when a gateway has listened for the running agent's runner in vain.
fn silent_since(d: &Draft<'_>) -> Option<Timestamp> {
    let claim = d.status.claim.as_ref().filter(|_| d.agent_may_run())?;
    let runner = d.status.runner.as_ref().filter(|r| r.epoch == claim.epoch)?;
    runner.silent_since.as_ref().map(|since| since.0)
}

fn pending(d: &Draft<'_>) -> String {
    match (&d.stalled, &d.status.claim) {
        (Some((reason, message)), _) => format!("{reason}: {message}"),
        (None, None) => "the job is being submitted".into(),
        (None, Some(claim)) => format!("pod {} is on its way", claim.pod_name),
    }
}

/// Kubernetes wants a reason to look like one; an agent's own error type may be anything.
fn is_reason(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 128
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn stalled(d: &Draft<'_>) -> Say {
    match &d.stalled {
        Some((reason, message)) => {
            let reason = if is_reason(reason) { reason.as_str() } else { "Stalled" };
            say(STALLED, Some(true), reason, message)
        }
        None => say(STALLED, Some(false), "Moving", "nobody needs to do anything"),
    }
}
