//! Updates of a run's status by requests. Pure: from (run, request, now) to the new status. Limited by the run's spec:
//! no binding and no command is acknowledged that was never given.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{admit::Admitted, progress};
use crate::{
    api::{Acknowledged, AgentRun, AgentRunStatus, RunnerState, Termination, whole_millis},
    gateway::server::Refusal,
    lifecycle,
    protocol::runner::{EndReport, MAX_MESSAGE_BYTES, cut_text},
};

/// A runner's reported state.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The highest command that it has carried out.
    pub generation: i64,
    /// The state of its agent.
    pub state: RunnerState,
    /// Why the command could not be carried out, if so.
    pub problem: Option<String>,
    /// When it was received.
    pub time: Time,
}

/// The newest binding; -1 before the grant.
fn binding(run: &AgentRun) -> i32 {
    run.spec.grant.as_ref().map_or(-1, |g| g.binding)
}

/// Contact with the runner. A heartbeat costs a write only if it changes something: the runner was bound anew, which
/// must be acknowledged, or it was deemed unresponsive.
pub fn contact(run: &AgentRun, status: &mut AgentRunStatus) {
    (status.unresponsive_since, status.unresponsive_among_many) = (None, false);
    if let Some(acknowledged) = &mut status.acknowledged
        && binding(run) >= 1
    {
        acknowledged.binding = acknowledged.binding.max(binding(run));
    }
}

/// A runner registers. `gateway` is the one that it is connected to, in Direct mode.
pub fn register(run: &AgentRun, status: &mut AgentRunStatus, runner: &Admitted, heard: &Heard, gateway: Option<&str>) {
    // Both are recorded once, together.
    if let Some(pod) = runner.pod.as_ref().filter(|_| status.public_key.is_none()) {
        status.public_key = Some(runner.key.to_string());
        status.pod_uid = Some(pod.uid.clone());
    }
    status.ready_time.get_or_insert_with(|| heard.time.clone());
    talks_to(status, gateway);
    contact(run, status);
    let new = acknowledged(run, heard);
    // A confirmation of the same command may have come before: it is kept.
    let order = |a: &Acknowledged| (a.generation, rank(a.state));
    if status.acknowledged.as_ref().is_none_or(|old| order(&new) > order(old) && !is_plain_start(old, &new)) {
        acknowledge(run, status, new);
    }
}

/// Whether all that is new is that the agent has started, which grant and readiness imply: not worth a write.
fn is_plain_start(old: &Acknowledged, new: &Acknowledged) -> bool {
    let started = (old.state, new.state) == (RunnerState::Waiting, RunnerState::Running);
    old.generation == new.generation && started && new.problem.is_none() && old.problem.is_none()
}

/// Sets the gateway that checks the runner from now on; `None` changes nothing.
pub fn talks_to(status: &mut AgentRunStatus, gateway: Option<&str>) {
    if let Some(gateway) = gateway {
        status.gateway = Some(gateway.into());
    }
}

/// Whether a command of this number was ever given.
pub fn was_commanded(run: &AgentRun, generation: i64) -> Result<(), Refusal> {
    if generation > run.command_generation() { Err(Refusal::UnknownCommand) } else { Ok(()) }
}

/// A command was carried out, or can't be.
pub fn confirm(run: &AgentRun, status: &mut AgentRunStatus, heard: &Heard) {
    contact(run, status);
    let new = acknowledged(run, heard);
    let news = status.acknowledged.as_ref().is_none_or(|old| {
        let differs = (new.state, &new.problem) != (old.state, &old.problem);
        new.generation > old.generation || (new.generation == old.generation && differs && !is_plain_start(old, &new))
    });
    if news {
        acknowledge(run, status, new);
    }
}

/// Sets what the runner has acknowledged, and keeps account of the time for which its agent stands still under a pause.
fn acknowledge(run: &AgentRun, status: &mut AgentRunStatus, new: Acknowledged) {
    let still = matches!(new.state, RunnerState::Frozen | RunnerState::Waiting);
    let paused = still && new.problem.is_none() && run.last_pause() == Some(new.generation);
    match status.paused_since.take() {
        Some(since) if !paused => {
            let millis = whole_millis(lifecycle::elapsed(&since, &new.time));
            status.paused_millis = status.paused_millis.saturating_add(millis);
        }
        since => status.paused_since = since.or_else(|| paused.then(|| new.time.clone())),
    }
    status.acknowledged = Some(new);
}

fn acknowledged(run: &AgentRun, heard: &Heard) -> Acknowledged {
    Acknowledged {
        binding: binding(run),
        generation: heard.generation.clamp(0, run.command_generation().max(0)),
        state: heard.state,
        problem: heard.problem.clone(),
        time: heard.time.clone(),
    }
}

/// The progress of an agent under one command.
fn rank(state: RunnerState) -> u8 {
    match state {
        RunnerState::Waiting => 0,
        RunnerState::Running => 1,
        RunnerState::Frozen => 2,
        RunnerState::Stopping => 3,
    }
}

/// Records the agent's end, and in the same write its last acknowledgement.
pub fn end(run: &AgentRun, status: &mut AgentRunStatus, report: &EndReport, now: &Time) {
    let heard = Heard { generation: report.generation, state: RunnerState::Stopping, problem: None, time: now.clone() };
    let new = acknowledged(run, &heard);
    let known = status.acknowledged.as_ref().map_or(0, |old| old.generation);
    if new.generation > known {
        acknowledge(run, status, new);
    }
    if let Some(said) = &report.progress {
        progress::record(status, said, now);
    }
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    status.termination = Some(Termination {
        events: report.events.map(number),
        events_missing: report.events_missing.filter(|missing| *missing > 0).map(number),
        ..lifecycle::claimed(run, &report.end, now)
    });
}

/// Whether a closed run ended as the report says. The first to say how is believed: the same again is no error.
pub fn is_recorded(run: &AgentRun, report: &EndReport, now: &Time) -> Result<(), Refusal> {
    let Some(recorded) = run.termination() else { return Err(Refusal::RunClosed) };
    // With the same limits applied as to the recorded end.
    let claimed = lifecycle::claimed(run, &report.end, now);
    if recorded.kind == claimed.kind { Ok(()) } else { Err(Refusal::OtherOutcome) }
}

/// At most [`MAX_MESSAGE_BYTES`] of a runner's text.
pub fn cut(text: &str) -> String {
    cut_text(text, MAX_MESSAGE_BYTES)
}

#[cfg(test)]
#[path = "updates_tests.rs"]
mod tests;
