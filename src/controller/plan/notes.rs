//! Events: what changed, in words that say what to do. From two statuses, so that each transition is told once.

use crate::api::{AgentJobStatus, Phase, conditions};

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Normal,
    /// Worth a look.
    Warning,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// How grave.
    pub level: Level,
    /// One stable word.
    pub reason: String,
    /// For people.
    pub message: String,
}

fn note(level: Level, reason: &str, message: impl Into<String>) -> Note {
    let mut message = message.into();
    // The API server takes 1,024 bytes.
    if let Some((cut, _)) =
        message.char_indices().take_while(|(i, _)| *i < 1000).last().filter(|_| message.len() > 1000)
    {
        message.truncate(cut);
        message.push('…');
    }
    Note { level, reason: reason.into(), message }
}

pub(super) fn between(old: &AgentJobStatus, new: &AgentJobStatus) -> Vec<Note> {
    use Level::{Normal, Warning};
    let mut notes = Vec::new();
    if old.workflow.is_none()
        && let Some(workflow) = &new.workflow
    {
        notes.push(note(Normal, "Submitted", format!("workflow {} is started", workflow.id)));
    }
    if old.runner_pod != new.runner_pod
        && let (Some(pod), Some(claim)) = (&new.runner_pod, &new.claim)
    {
        notes.push(note(Normal, "PodCreated", format!("pod {pod} for attempt {}", claim.attempt)));
    }
    if old.attempt != new.attempt
        && let Some(attempt) = new.attempt
    {
        notes.push(note(Normal, "AttemptStarted", format!("attempt {attempt} has its permit: the agent may start")));
    }
    if new.error != old.error
        && let Some(error) = new.error.as_ref().filter(|_| new.phase != Some(Phase::Failed))
    {
        notes.push(note(Warning, "AttemptFailed", format!("{}: {}", error.kind, error.message)));
    }
    let stalled = |s: &AgentJobStatus| {
        let found = s.conditions.iter().find(|c| c.type_ == conditions::STALLED && c.status == "True");
        found.map(|c| (c.reason.clone(), c.message.clone()))
    };
    if let Some((reason, message)) = stalled(new).filter(|new| stalled(old).is_none_or(|old| old.0 != new.0)) {
        notes.push(note(Warning, &reason, format!("{}. The job waits for this", message.trim_end_matches('.'))));
    }
    if old.phase != new.phase
        && let Some(phase) = new.phase
    {
        notes.extend(phase_note(phase, new));
    }
    notes
}

fn phase_note(phase: Phase, status: &AgentJobStatus) -> Option<Note> {
    use Level::{Normal, Warning};
    let error = status.error.clone().unwrap_or_default();
    let pod = status.runner_pod.clone().unwrap_or_default();
    Some(match phase {
        Phase::Pending | Phase::Retrying => return None,
        Phase::Running => note(Normal, "Running", format!("the agent runs; follow it with kubectl logs -f {pod}")),
        Phase::Paused => note(Normal, "Paused", "the job stands still; resume with spec.desiredState: Running"),
        Phase::Cancelling => note(Normal, "Cancelling", "the agent gets SIGTERM, its grace period, then SIGKILL"),
        Phase::Succeeded => note(Normal, "Succeeded", "the agent ended with success; its result is in status.result"),
        Phase::Cancelled => note(Normal, "Cancelled", "the job was cancelled; no pod of it runs"),
        Phase::Failed => note(Warning, "Failed", format!("{}: {}. See kubectl logs {pod}", error.kind, error.message)),
    })
}
