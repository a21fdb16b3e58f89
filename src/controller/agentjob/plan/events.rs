//! Events for transitions, with messages that say what to do. Derived from two statuses, so that each is published
//! once. A job without problems has two: its start and its end.

use crate::api::{AgentJobStatus, Phase, conditions};

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Normal operation.
    Normal,
    /// Needs attention.
    Warning,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its type.
    pub level: Level,
    /// A stable reason in CamelCase.
    pub reason: String,
    /// Human-readable.
    pub message: String,
}

fn event(level: Level, reason: &str, message: impl Into<String>) -> Event {
    let mut message = message.into();
    // The API server's limit is 1,024 bytes.
    if let Some((cut, _)) =
        message.char_indices().take_while(|(i, _)| *i < 1000).last().filter(|_| message.len() > 1000)
    {
        message.truncate(cut);
        message.push('…');
    }
    Event { level, reason: reason.into(), message }
}

pub(super) fn between(old: &AgentJobStatus, new: &AgentJobStatus) -> Vec<Event> {
    use Level::Warning;
    let mut events = Vec::new();
    if new.error != old.error
        && let Some(error) = new.error.as_ref().filter(|_| new.phase != Some(Phase::Failed))
    {
        events.push(event(Warning, "AttemptFailed", format!("{}: {}", error.kind, error.message)));
    }
    let stalled = |s: &AgentJobStatus| conditions::stall(&s.conditions).map(|c| (c.reason.clone(), c.message.clone()));
    if let Some((reason, message)) = stalled(new).filter(|new| stalled(old).is_none_or(|old| old.0 != new.0)) {
        events.push(event(
            Warning,
            &reason,
            format!("{}. The job waits until this is fixed", message.trim_end_matches('.')),
        ));
    }
    if old.phase != new.phase
        && let Some(phase) = new.phase
    {
        events.extend(phase_event(phase, old, new));
    }
    events
}

fn phase_event(phase: Phase, old: &AgentJobStatus, status: &AgentJobStatus) -> Option<Event> {
    use Level::{Normal, Warning};
    let error = status.error.clone().unwrap_or_default();
    let pod = status.runner_pod.clone().unwrap_or_default();
    let attempt = status.attempt.unwrap_or(1);
    Some(match phase {
        Phase::Pending | Phase::Retrying => return None,
        Phase::Running if old.phase == Some(Phase::Paused) => event(Normal, "Resumed", "the agent goes on"),
        Phase::Running => event(
            Normal,
            "Started",
            format!("attempt {attempt} is running in pod {pod}; follow it with kubectl logs -f {pod}"),
        ),
        Phase::Paused => event(Normal, "Paused", "the job is paused; resume with spec.desiredState: Running"),
        Phase::Cancelling => event(Normal, "Cancelling", "the agent gets SIGTERM, its grace period, then SIGKILL"),
        Phase::Succeeded => event(Normal, "Succeeded", "the agent ended with success; its result is in status.result"),
        Phase::Cancelled => event(Normal, "Cancelled", "the job was cancelled; no pod of it runs"),
        // Nothing was started, so there is no log.
        Phase::Failed if pod.is_empty() => event(Warning, "Failed", format!("{}: {}", error.kind, error.message)),
        Phase::Failed => event(Warning, "Failed", format!("{}: {}. See kubectl logs {pod}", error.kind, error.message)),
    })
}
