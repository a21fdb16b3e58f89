//! The conditions of an AgentJob, after the Kubernetes API conventions: the phase only sums them up. `Reconciling` and
//! `Stalled` are those that kstatus knows, by which Flux, Helm and others read any resource: at most one of them is True.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// This generation of the spec is accepted and passed on to runner and workflow.
pub const READY: &str = "Ready";
/// The agent is paused, confirmed by its runner.
pub const PAUSED: &str = "Paused";
/// Unknown while the job runs; then whether it succeeded.
pub const SUCCEEDED: &str = "Succeeded";
/// The job is on its way to what the spec asks for. Not while it is paused or stalled, nor when it has ended.
pub const RECONCILING: &str = "Reconciling";
/// The job can't go on until a user or administrator fixes the cause, or has failed.
pub const STALLED: &str = "Stalled";
/// Whether all events of the job are stored, by what its runners have said at their ends: False once a run has ended with
/// events that were not known to be, True or Unknown when the job has ended, absent if no run has told how many it had.
pub const EVENTS_COMPLETE: &str = "EventsComplete";

/// The reason of a condition or event, in CamelCase and stable: koco's own, and those that it passes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This generation is accepted and passed on.
    Accepted,
    /// The job has ended.
    Finished,
    /// The agent is paused.
    Paused,
    /// A pause was requested and is not confirmed yet.
    Pausing,
    /// A pause was requested and can't be carried out.
    CannotPause,
    /// A resume is not confirmed yet.
    Resuming,
    /// No pause.
    NotPaused,
    /// No agent has started in this attempt yet.
    Pending,
    /// The agent runs.
    Running,
    /// A gateway receives nothing from the runner.
    RunnerUnresponsive,
    /// An attempt failed, a retry follows.
    Retrying,
    /// A cancel is in progress.
    Cancelling,
    /// The agent ended with success.
    Succeeded,
    /// The job failed.
    Failed,
    /// The job was cancelled.
    Cancelled,
    /// Nothing blocks the job.
    Moving,
    /// The job's AgentTemplate does not exist.
    TemplateNotFound,
    /// What the job's AgentTemplate gives makes no valid job.
    TemplateInvalid,
    /// The API server refuses the pod.
    PodRefused,
    /// A pod does not end.
    PodNotEnding,
    /// An object that is not the job's has the name of the job's run.
    RunNameTaken,
    /// The API server refuses what koco needs to do for the job.
    RequestRefused,
    /// No Temporal server is configured.
    TemporalNotConfigured,
    /// The job's workflow is in another Temporal namespace.
    TemporalNamespaceChanged,
    /// Temporal doesn't know the job's workflow.
    WorkflowNotFound,
    /// Events of the agent are missing in the archive.
    EventsMissing,
    /// All events of the job are in the archive.
    EventsStored,
    /// A run of the job has not told how many events it had.
    EventsUnknown,
    /// A reason of the kubelet, the scheduler, Temporal's client, or the agent's error type.
    Other(String),
}

impl Reason {
    /// Another component's reason, or `Stalled` where it does not look like a reason.
    pub fn other(word: &str) -> Self {
        Self::Other(if is_reason(word) { word.into() } else { "Stalled".into() })
    }

    /// Another component's reason, or `fallback` where it does not look like a reason.
    pub fn or(word: &str, fallback: Self) -> Self {
        if is_reason(word) { Self::Other(word.into()) } else { fallback }
    }

    /// The reason as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Accepted => "Accepted",
            Self::Finished => "Finished",
            Self::Paused => "Paused",
            Self::Pausing => "Pausing",
            Self::CannotPause => "CannotPause",
            Self::Resuming => "Resuming",
            Self::NotPaused => "NotPaused",
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::RunnerUnresponsive => "RunnerUnresponsive",
            Self::Retrying => "Retrying",
            Self::Cancelling => "Cancelling",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Moving => "Moving",
            Self::TemplateNotFound => "TemplateNotFound",
            Self::TemplateInvalid => "TemplateInvalid",
            Self::PodRefused => "PodRefused",
            Self::PodNotEnding => "PodNotEnding",
            Self::RunNameTaken => "RunNameTaken",
            Self::RequestRefused => "RequestRefused",
            Self::TemporalNotConfigured => "TemporalNotConfigured",
            Self::TemporalNamespaceChanged => "TemporalNamespaceChanged",
            Self::WorkflowNotFound => "WorkflowNotFound",
            Self::EventsMissing => "EventsMissing",
            Self::EventsStored => "EventsStored",
            Self::EventsUnknown => "EventsUnknown",
            Self::Other(word) => word,
        }
    }
}

/// Kubernetes validates the format of reasons; an agent's own error type may be any text.
fn is_reason(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 128
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A new value of a condition; [`set`] derives the transition time.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionUpdate {
    /// One of the constants above.
    pub kind: &'static str,
    /// `Some(true)` True, `Some(false)` False, `None` Unknown.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// What is happening and what to do next, human-readable.
    pub message: String,
}

/// Sets a condition; `lastTransitionTime` changes only with the status.
pub fn set(list: &mut Vec<Condition>, update: ConditionUpdate, generation: Option<i64>, now: Time) {
    let status = match update.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = list.iter().position(|c| c.type_ == update.kind);
    let since = match old.map(|i| &list[i]) {
        Some(c) if c.status == status => c.last_transition_time.clone(),
        _ => now,
    };
    let new = Condition {
        type_: update.kind.into(),
        status: status.into(),
        reason: update.reason.as_str().into(),
        message: update.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match old {
        Some(i) => list[i] = new,
        None => list.push(new),
    }
}

/// Whether a condition is True.
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    list.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The condition that says why a job can't go on until somebody helps; that it has failed is no such reason.
pub fn stall(list: &[Condition]) -> Option<&Condition> {
    let stalled = list.iter().find(|c| c.type_ == STALLED && c.status == "True");
    stalled.filter(|c| c.reason != Reason::Failed.as_str())
}
