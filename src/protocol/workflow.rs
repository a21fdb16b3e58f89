//! The contract of the `AgentWorkflow`: its input, signals, queries, and the activities that it calls. Used by the
//! worker, which runs it, by the controller, which starts and queries it, and by the gateway, which signals it.
//!
//! Inputs and secrets never enter the history: everything here only names the job. Some serialized names are older than
//! the words used here; they stay, so that recorded histories still replay.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{
    DesiredState, DisruptionPolicy, ErrorStatus, PausePolicy, ResolvedRetryPolicy, ResolvedTimeouts, RunnerState,
};

/// The workflow's type.
pub const WORKFLOW_TYPE: &str = "AgentWorkflow";
/// Signals that any client may send, with any JSON as their payload. The controller's carries a [`Request`].
pub const SIGNAL_PAUSE: &str = "pause";
/// See [`SIGNAL_PAUSE`].
pub const SIGNAL_RESUME: &str = "resume";
/// See [`SIGNAL_PAUSE`].
pub const SIGNAL_CANCEL: &str = "cancel";
/// From the gateway: the runner of a run is ready. Payload: [`RunnerReady`].
pub const SIGNAL_RUNNER_READY: &str = "runner_ready";
/// From the controller: a run ended before it was granted. Payload: [`RunnerFailed`].
pub const SIGNAL_RUNNER_FAILED: &str = "runner_failed";
/// From the gateway: the runner carried out a command. Payload: [`RunnerConfirmed`].
pub const SIGNAL_RUNNER_CONFIRMED: &str = "runner_confirmed";
/// Query: a [`StatusAnswer`].
pub const QUERY_STATUS: &str = "get_status";
/// Query: `true` if the job is paused, confirmed by its runner where there is one.
pub const QUERY_IS_PAUSED: &str = "is_paused";
/// Query: `null` or an [`ErrorStatus`].
pub const QUERY_ERROR: &str = "get_error";

pub use crate::api::JobRef;

/// The input of an `AgentWorkflow`, carried through continue-as-new.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// The job.
    pub job: JobRef,
    /// When to retry.
    pub retry_policy: ResolvedRetryPolicy,
    /// How long things may take.
    pub timeouts: ResolvedTimeouts,
    /// What a disruption does.
    pub disruption_policy: DisruptionPolicy,
    /// How a pause stops a running agent.
    pub pause_policy: PausePolicy,
    /// The agent's grace period, in seconds.
    pub grace_seconds: i64,
    /// Which commands the workflow issues, in which order.
    #[serde(default)]
    pub shape: Shape,
    /// The workflow's progress: the default at the first start.
    #[serde(default)]
    pub progress: Progress,
}

/// The shape of a workflow, decided when it is started: a later one may have other commands, and those that run go on as
/// they began. A worker that doesn't know a shape fails the workflow's task, and another takes it over.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(try_from = "u32", into = "u32")]
pub enum Shape {
    /// The first start of a runner is a local activity, and no cleanup follows an end that is on record.
    #[default]
    First,
}

impl TryFrom<u32> for Shape {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if number == 0 {
            Ok(Self::First)
        } else {
            Err(format!("a workflow of shape {number}, which is of a later release"))
        }
    }
}

impl From<Shape> for u32 {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::First => 0,
        }
    }
}

/// A workflow's progress, which continue-as-new hands to the next execution. Only the workflow writes it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// The number of the newest run, 0 if none was started.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// How many starts were granted: the attempts used up.
    pub attempt: i32,
    /// Attempts that don't count against the maximum because of `disruptionPolicy: Ignore`.
    #[serde(rename = "forgiven")]
    pub ignored_disruptions: i32,
    /// The newest run's step.
    pub step: Step,
    /// Whether the newest attempt was evicted, so that the next run continues it.
    pub evicted: bool,
    /// Whether the newest grant continued an evicted attempt and used up none.
    pub resumed: bool,
    /// The run whose runner is ready.
    pub ready: i32,
    /// The run that ended before it was granted.
    pub failed: Option<RunnerFailed>,
    /// How many attempts have failed, for the back-off.
    pub failures: i32,
    /// How many runs in a row have ended before their agent started, for the back-off.
    #[serde(rename = "setbacks")]
    pub start_failures: i32,
    /// How often the newest attempt was evicted, for the back-off.
    pub evictions: i32,
    /// When the next run may begin, in milliseconds since 1970; unset if it needn't wait.
    #[serde(rename = "notBefore")]
    pub retry_at: Option<i64>,
    /// The desired state, from the spec or from a signal.
    pub desired: DesiredState,
    /// Counts changes of `desired`.
    #[serde(rename = "seq")]
    pub generation: i64,
    /// The state that the runner confirmed last, and the generation of that command.
    pub confirmed: Option<(RunnerState, i64)>,
    /// The controller's last request.
    pub last_request: Option<Request>,
    /// The newest attempt's error.
    pub error: Option<ErrorStatus>,
    /// The generation of the last command that was written to the AgentRun.
    pub delivered: i64,
}

/// The step of a run.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// It has ended, or there is none yet.
    #[default]
    #[serde(rename = "idle")]
    NoRun,
    /// `start_runner` creates its pod.
    #[serde(rename = "starting")]
    Creating,
    /// Its pod is created; its runner is not ready or not granted yet.
    Waiting,
    /// It is granted: `execute_agent` waits for its end.
    #[serde(rename = "started")]
    Granted,
}

/// The controller's request, as the payload of pause, resume and cancel. A repeated id is ignored.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique for each change of the spec's desired state.
    pub id: String,
    /// The requested state.
    pub desired: DesiredState,
}

/// Payload of [`SIGNAL_RUNNER_READY`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerReady {
    /// The runner's run.
    #[serde(rename = "epoch")]
    pub run: i32,
}

/// Payload of [`SIGNAL_RUNNER_FAILED`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerFailed {
    /// The run that failed before it was granted.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// Why.
    pub error: ErrorStatus,
    /// Whether the job fails with it (the pending time-out), or another run follows.
    pub fatal: bool,
}

/// Payload of [`SIGNAL_RUNNER_CONFIRMED`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerConfirmed {
    /// The runner's run.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// The command that it carried out.
    #[serde(rename = "seq")]
    pub generation: i64,
    /// Its agent's state now.
    pub state: RunnerState,
}

/// The answer of [`QUERY_STATUS`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    /// The workflow's stage.
    pub status: Stage,
    /// How many times the agent was started.
    pub attempt: i32,
    /// The number of the newest run.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// The desired state, from the spec or from a signal.
    pub desired: DesiredState,
    /// Counts changes of `desired`.
    #[serde(rename = "seq")]
    pub generation: i64,
    /// The controller's last request.
    #[serde(default)]
    pub last_request: Option<Request>,
    /// The same as [`QUERY_IS_PAUSED`] answers, so that one query is enough.
    pub is_paused: bool,
    /// The same as [`QUERY_ERROR`] answers: that of the newest run that failed, which may be an earlier one.
    #[serde(default)]
    pub error: Option<ErrorStatus>,
    /// The newest run, if the workflow knows that it has ended.
    #[serde(default)]
    pub ended_run: Option<i32>,
}

/// The stage of a workflow.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// No pod yet, or its runner is not ready.
    #[default]
    Pending,
    /// Held before the grant by a pause.
    Held,
    /// The newest run is granted.
    Running,
    /// The agent was evicted by a pause.
    Evicted,
    /// An attempt failed, a retry follows.
    Retrying,
    /// A cancel is under way.
    Cancelling,
    /// The agent ended with success.
    Completed,
    /// The job failed.
    Failed,
    /// The job was cancelled.
    Cancelled,
}

impl Stage {
    /// The word in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Running => "running",
            Self::Evicted => "evicted",
            Self::Retrying => "retrying",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Input of the activity `start_runner`, which creates a run and its pod.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StartRunner {
    /// The job.
    pub job: JobRef,
    /// The number of the new run.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// The attempt that its pod is for.
    pub attempt: i32,
    /// Whether it continues an evicted attempt.
    pub resumed: bool,
    /// The newest command, with which the run is created. Absent in inputs of an older release.
    #[serde(default)]
    pub desired: DesiredState,
    /// Its number, 0 if there was none.
    #[serde(default, rename = "seq")]
    pub generation: i64,
}

/// Result of `start_runner`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StartedRunner {
    /// The run that was started: the requested one, or a later one if the AgentRuns were already ahead of the workflow,
    /// which was reset then.
    #[serde(rename = "epoch")]
    pub run: i32,
}

/// Input of the activity `execute_agent`, which grants the start and is completed asynchronously with an
/// [`AgentResult`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExecuteAgent {
    /// The job.
    pub job: JobRef,
    /// The run to grant.
    #[serde(rename = "epoch")]
    pub run: i32,
    /// The attempt.
    pub attempt: i32,
    /// The newest command, written together with the grant. Absent in inputs of an older release.
    #[serde(default)]
    pub desired: DesiredState,
    /// Its number, 0 if there was none.
    #[serde(default, rename = "seq")]
    pub generation: i64,
}

/// The result of `execute_agent` and of the workflow.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct AgentResult {
    /// The agent's result, cut to the limit (see `status.result`).
    #[serde(default)]
    pub result: Option<Value>,
}

/// Input of the activity `control_runner`, which writes a command into an AgentRun for the gateways to pass on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ControlRunner {
    /// The job.
    pub job: JobRef,
    /// The desired state.
    pub desired: DesiredState,
    /// Its number.
    #[serde(rename = "seq")]
    pub generation: i64,
    /// The run whose runner it is for.
    #[serde(default, rename = "epoch")]
    pub run: i32,
}

/// Result of `control_runner`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ControlledRunner {
    /// The number of the command if it was accepted. A higher one is the next free number: the AgentRun was already
    /// ahead of the workflow, which was reset then, and the command must be sent again under that number.
    #[serde(rename = "seq")]
    pub generation: i64,
}

/// Input of the activity `cleanup`, which closes the newest run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// The job.
    pub job: JobRef,
    /// The number of the newest run, 0 if none was started.
    #[serde(default, rename = "epoch")]
    pub run: i32,
    /// The agent's grace period, in seconds: pods get that long to end.
    #[serde(default)]
    pub grace_seconds: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_is_not_known_is_refused() {
        assert_eq!(serde_json::from_str::<Shape>("0").unwrap(), Shape::default());
        assert_eq!(serde_json::to_string(&Shape::default()).unwrap(), "0");
        assert!(serde_json::from_str::<Shape>("1").unwrap_err().to_string().contains("shape 1"));
    }
}
