//! The contract of the `AgentWorkflow`: its input, signals, queries, and the activities that it calls.
//! Used by the worker, which runs it, by the controller, which starts and asks it, and by the gateway, which signals it.
//!
//! Inputs, results of big agents and secrets never enter the history: everything here names the job and no more.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{
    DesiredState, DisruptionPolicy, ErrorStatus, PausePolicy, ResolvedRetryPolicy, ResolvedTimeouts, RunnerState,
};

/// The workflow's type.
pub const WORKFLOW_TYPE: &str = "AgentWorkflow";
/// Signals that anybody may send, with any JSON as their payload. The controller's carries a [`Request`].
pub const SIGNAL_PAUSE: &str = "pause";
/// See [`SIGNAL_PAUSE`].
pub const SIGNAL_RESUME: &str = "resume";
/// See [`SIGNAL_PAUSE`].
pub const SIGNAL_CANCEL: &str = "cancel";
/// From the gateway: the runner of an epoch reported in. Payload: [`RunnerReady`].
pub const SIGNAL_RUNNER_READY: &str = "runner_ready";
/// From the controller: an epoch ended before its permit. Payload: [`RunnerFailed`].
pub const SIGNAL_RUNNER_FAILED: &str = "runner_failed";
/// From the gateway: the runner carried out a command. Payload: [`RunnerConfirmed`].
pub const SIGNAL_RUNNER_CONFIRMED: &str = "runner_confirmed";
/// Query: a [`StatusAnswer`].
pub const QUERY_STATUS: &str = "get_status";
/// Query: `true` if the job stands still, confirmed by its runner where there is one.
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
    /// When to start it again.
    pub retry_policy: ResolvedRetryPolicy,
    /// How long things may take.
    pub timeouts: ResolvedTimeouts,
    /// What a disruption does.
    pub disruption_policy: DisruptionPolicy,
    /// How a running agent is made to stand still.
    pub pause_policy: PausePolicy,
    /// The agent's grace period, in seconds.
    pub grace_seconds: i64,
    /// Where the workflow stands: all zero at the first start.
    #[serde(default)]
    pub progress: Progress,
}

/// Where a workflow stands; what a new run needs to go on with the same runner. The workflow's own: nobody else writes it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// The newest epoch, 0 if none was started.
    pub epoch: i32,
    /// How many permits were given: the attempts used up.
    pub attempt: i32,
    /// Attempts that `disruptionPolicy: Ignore` took back; they don't count against the maximum.
    pub forgiven: i32,
    /// How far the newest epoch is.
    pub step: Step,
    /// Whether the newest attempt was evicted, so that the next epoch goes on with it.
    pub evicted: bool,
    /// Whether the newest permit went on with an evicted attempt and used up none.
    pub resumed: bool,
    /// The epoch whose runner has reported in.
    pub ready: i32,
    /// The epoch that ended before its permit.
    pub failed: Option<RunnerFailed>,
    /// How many attempts have failed, for the back-off.
    pub failures: i32,
    /// How many epochs in a row have ended before their agent started, for the back-off.
    pub setbacks: i32,
    /// When the next epoch may begin, in milliseconds since 1970; unset if it needn't wait.
    pub not_before: Option<i64>,
    /// What is wanted now, whoever asked for it.
    pub desired: DesiredState,
    /// Counts changes of `desired`.
    pub seq: i64,
    /// What the runner has confirmed last, and its seq.
    pub confirmed: Option<(RunnerState, i64)>,
    /// The controller's last request.
    pub last_request: Option<Request>,
    /// The newest attempt's error.
    pub error: Option<ErrorStatus>,
    /// The seq of the last command that was delivered to the runner's record.
    pub delivered: i64,
}

/// How far an epoch is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// It has ended, or there is none yet.
    #[default]
    Idle,
    /// `start_runner` makes its pod.
    Starting,
    /// Its pod is there: the runner reports in, and waits for its permit.
    Waiting,
    /// It has its permit: `execute_agent` waits for its outcome.
    Started,
}

/// What the controller asks for, as the payload of pause, resume and cancel. Each id is taken only once.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique for each wish of the spec.
    pub id: String,
    /// What it asked for.
    pub desired: DesiredState,
}

/// Payload of [`SIGNAL_RUNNER_READY`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerReady {
    /// The runner's epoch.
    pub epoch: i32,
}

/// Payload of [`SIGNAL_RUNNER_FAILED`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerFailed {
    /// The epoch that failed before its permit.
    pub epoch: i32,
    /// Why.
    pub error: ErrorStatus,
    /// Whether the job fails with it (the pending time-out), or another pod may be tried.
    pub fatal: bool,
}

/// Payload of [`SIGNAL_RUNNER_CONFIRMED`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RunnerConfirmed {
    /// The runner's epoch.
    pub epoch: i32,
    /// The command that it carried out.
    pub seq: i64,
    /// What its agent does now.
    pub state: RunnerState,
}

/// The answer of [`QUERY_STATUS`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    /// One word: where the workflow stands.
    pub status: Stage,
    /// How many times the agent was started.
    pub attempt: i32,
    /// The newest epoch.
    pub epoch: i32,
    /// What is wanted now, whoever asked for it.
    pub desired: DesiredState,
    /// Counts changes of `desired`.
    pub seq: i64,
    /// The controller's last request.
    #[serde(default)]
    pub last_request: Option<Request>,
    /// The same as [`QUERY_IS_PAUSED`] answers, so that one question is enough.
    pub is_paused: bool,
    /// The same as [`QUERY_ERROR`] answers.
    #[serde(default)]
    pub error: Option<ErrorStatus>,
}

/// Where a workflow stands, in one word.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// No pod yet, or its runner has not reported in.
    #[default]
    Pending,
    /// Held before the permit by a pause.
    Held,
    /// The agent has its permit.
    Running,
    /// The agent was evicted by a pause.
    Evicted,
    /// An attempt failed, the next one is to come.
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
    /// The word as it is answered.
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

/// Input of the activity `start_runner`: collects what earlier epochs left and creates the pod of this one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StartRunner {
    /// The job.
    pub job: JobRef,
    /// The new epoch.
    pub epoch: i32,
    /// The attempt that its pod is for.
    pub attempt: i32,
    /// Whether it goes on with an evicted attempt.
    pub resumed: bool,
    /// The newest command, which the run is created with. Absent in inputs of an older release: none.
    #[serde(default)]
    pub desired: DesiredState,
    /// Its number, 0 if there was none.
    #[serde(default)]
    pub seq: i64,
}

/// Result of `start_runner`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StartedRunner {
    /// The epoch that was started: the one asked for, or a later one where the job's claim was already further (a workflow
    /// that was reset).
    pub epoch: i32,
}

/// Input of the activity `execute_agent`, which gives the permit and is completed asynchronously with an [`AgentResult`].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExecuteAgent {
    /// The job.
    pub job: JobRef,
    /// The epoch whose runner gets the permit.
    pub epoch: i32,
    /// The attempt.
    pub attempt: i32,
    /// The newest command, which is granted together with the start. Absent in inputs of an older release: none.
    #[serde(default)]
    pub desired: DesiredState,
    /// Its number, 0 if there was none.
    #[serde(default)]
    pub seq: i64,
}

/// What a finished agent left: the result of `execute_agent` and of the workflow.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub struct AgentResult {
    /// What the agent left, cut to what fits (see `status.result`).
    #[serde(default)]
    pub result: Option<Value>,
}

/// Input of the activity `control_runner`, which writes the command for the gateways to pass on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ControlRunner {
    /// The job.
    pub job: JobRef,
    /// The state.
    pub desired: DesiredState,
    /// Its number.
    pub seq: i64,
    /// The run whose runner it is for.
    #[serde(default)]
    pub epoch: i32,
}

/// Result of `control_runner`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ControlledRunner {
    /// The number of the command if it was taken. A higher one is the next that is free: the record was already further
    /// (a workflow that was reset), and the command must be sent again under it.
    pub seq: i64,
}

/// Input of the activity `cleanup`: no pod of the job is left running.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// The job.
    pub job: JobRef,
    /// The newest run, 0 if none was started.
    #[serde(default)]
    pub epoch: i32,
    /// The agent's grace period, in seconds: pods get that long to end.
    #[serde(default)]
    pub grace_seconds: i64,
}
