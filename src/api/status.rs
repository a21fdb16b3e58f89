//! `status`: what the operator knows of a job.
//!
//! Each part has one writer. The worker (in Direct mode the controller) writes `claim` and `control.command`; the gateway
//! writes `runner`, `control.confirmed` and, first come, `outcome`; everything else is the controller's alone.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DesiredState, ExecutionMode, Seconds, schema};

/// A summary of the conditions, for people and for `kubectl get`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Phase {
    /// No agent has started in this attempt yet: submitted, scheduled, pulling, waiting for its permit.
    #[default]
    Pending,
    /// The agent runs.
    Running,
    /// The agent stands still, confirmed.
    Paused,
    /// An attempt failed; the next one is to come.
    Retrying,
    /// A cancel is under way.
    Cancelling,
    /// The agent ended with success. Final.
    Succeeded,
    /// The job failed. Final.
    Failed,
    /// The job was cancelled. Final.
    Cancelled,
}

impl Phase {
    /// Whether nothing will change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What the operator knows of a job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentJobStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// A summary of the conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Kodosumi's execution id, see `KODO_FID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<String>,
    /// How many times the agent was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// The pod of the newest epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<String>,
    /// What was left to the operator's defaults, as it was resolved when the job was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// The Temporal workflow, and what its queries answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowStatus>,
    /// What the agent left, where small; else an object with `truncated: true`, `size` in bytes and `digest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub result: Option<Value>,
    /// Why the newest attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
    /// When the agent first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub start_time: Option<Time>,
    /// When the job reached its terminal phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub completion_time: Option<Time>,
    /// Since when the newest pod is pending; the pending time-out counts from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub pending_since: Option<Time>,
    /// Ready, Paused, Succeeded, Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Which runner is the job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Pause, resume and cancel on their way to the runner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlStatus>,
    /// What the newest runner reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerStatus>,
    /// How the newest epoch ended. The first to say so is believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What was left to the operator's defaults, as resolved when the job was accepted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The mode that the job runs in.
    pub execution_mode: ExecutionMode,
    /// The retry policy that the job runs with.
    pub retry_policy: ResolvedRetryPolicy,
    /// The time-outs that the job runs with.
    pub timeouts: ResolvedTimeouts,
}

/// A retry policy with every field set. Temporal's words and meaning.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedRetryPolicy {
    /// How often the agent is started at the most; 0 means without limit.
    pub maximum_attempts: i32,
    /// The wait before the first retry.
    pub initial_interval: Seconds,
    /// What each wait is multiplied with.
    pub backoff_coefficient: f64,
    /// The longest wait.
    pub maximum_interval: Seconds,
    /// Error types that end the job at once.
    #[serde(default)]
    pub non_retryable_error_types: Vec<String>,
}

impl ResolvedRetryPolicy {
    /// The wait after the `failures`th failure: `initialInterval * backoffCoefficient ^ (failures - 1)`, at most
    /// `maximumInterval`.
    pub fn back_off(&self, failures: i32) -> Duration {
        let (first, most) = (self.initial_interval.get(), self.maximum_interval.get());
        let factor = self.backoff_coefficient.max(1.0).powi(failures.saturating_sub(1).max(0));
        // Too large, infinite or not a number: the maximum.
        Duration::try_from_secs_f64(first.as_secs_f64() * factor).map_or(most, |wait| wait.min(most))
    }
}

/// Time-outs with every field set that has a default.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTimeouts {
    /// How long a runner may be silent.
    pub heartbeat: Seconds,
    /// One attempt's limit, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Seconds>,
    /// From pod created to runner ready.
    pub pending: Seconds,
}

/// The Temporal workflow of a job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowStatus {
    /// The workflow id.
    pub id: String,
    /// The newest run that we know of.
    #[serde(rename = "runID", skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The Temporal namespace.
    pub namespace: String,
    /// What `get_status` answered, or how the execution was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What `is_paused` answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_paused: Option<bool>,
    /// What `get_error` answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
}

/// An error for people and for machines.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct ErrorStatus {
    /// One stable word, such as `AgentFailed`, or the agent's own type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub message: String,
}

/// Which runner is the job's: everything else checks against this. Written, with a test on the epoch that it replaces,
/// before the pod is created.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Counts pods, from 1.
    #[schemars(range(min = 1))]
    pub epoch: i32,
    /// The attempt that this pod is for, from 1. Used up only by the permit.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    /// Whether this pod goes on with an attempt that was evicted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID, once it exists.
    #[serde(rename = "podUID", default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// How long the agent was active in earlier pods of this attempt, in milliseconds: what `timeouts.execution` has used up.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
    /// The API server's words when it refused the pod. A person is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The permit: only with it may the agent start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Permit>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The right of the claim's runner to start the agent, and in Temporal mode the activity that waits for its outcome.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    /// When it was given.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Counts how often the same runner was bound anew, from 0: after a heartbeat time-out, or continue-as-new.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub offer: i32,
    /// The workflow run whose activity waits. Temporal mode only.
    #[serde(rename = "runID", default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The task token of that activity, in base64. Temporal mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_token: Option<String>,
}

/// Pause, resume and cancel on their way: what the spec desires, what was sent, what the runner was told and has confirmed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlStatus {
    /// What the spec desires. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<SpecWish>,
    /// What the controller last asked of the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentRequest>,
    /// What the runner is told, whoever asked for it. Written by the worker, in Direct mode by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// What the runner has confirmed. Written by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Confirmed>,
}

/// What the spec desires, and since when the controller knows.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SpecWish {
    /// The state.
    pub state: DesiredState,
    /// Since when.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// What the controller last asked of the workflow.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SentRequest {
    /// The state.
    pub state: DesiredState,
    /// The request's id: the workflow takes each only once.
    pub id: String,
    /// The annotation `kodosumi.io/control-request` as it was then: a fresh one asks again for the same state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it was sent.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// What the runner is told. A runner obeys the highest `seq`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Command {
    /// The state.
    pub state: DesiredState,
    /// Counts commands, from 1.
    #[schemars(range(min = 0))]
    pub seq: i64,
    /// When it was written.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// What a runner says its agent does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RunnerState {
    /// The runner waits for its permit; no agent has started.
    #[default]
    Waiting,
    /// The agent runs.
    Running,
    /// Every process of the agent is stopped.
    Frozen,
    /// The agent was told to stop and has not ended yet.
    Stopping,
}

/// What a runner has confirmed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Confirmed {
    /// What its agent does.
    pub state: RunnerState,
    /// The command that this answers.
    #[schemars(range(min = 0))]
    pub seq: i64,
    /// The runner's epoch.
    #[schemars(range(min = 1))]
    pub epoch: i32,
    /// When it was confirmed.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Why the command could not be carried out, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What the newest runner reported.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunnerStatus {
    /// The runner's epoch.
    #[schemars(range(min = 1))]
    pub epoch: i32,
    /// When it reported in.
    #[schemars(schema_with = "schema::time")]
    pub ready_time: Time,
    /// When it started the agent, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub started_time: Option<Time>,
    /// The newest [`Permit::offer`] under which a gateway heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<i32>,
    /// Since when it is silent, in the words of a gateway that listened for it all that time. The next sign of life takes it
    /// back; a runner that stays silent is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub silent_since: Option<Time>,
    /// The gateway that it talks to, and that would notice its silence. Direct mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// How an epoch ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// Exit 0.
    Succeeded,
    /// Anything else that is the agent's end.
    Failed,
    /// The agent stopped because the job was paused with `pausePolicy: Evict`. It goes on in a new pod.
    Evicted,
    /// The agent stopped because the job was cancelled.
    Cancelled,
}

/// How an epoch ended: delivered by its runner, or worked out from its container.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The epoch that ended.
    #[schemars(range(min = 1))]
    pub epoch: i32,
    /// How.
    pub kind: OutcomeKind,
    /// When we learned of it.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Whether the agent had started at all.
    pub started: bool,
    /// Why, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
    /// Whether no policy may start it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_retryable: bool,
    /// The agent's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What the agent left, cut to what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub result: Option<Value>,
    /// How long the agent was active in this epoch, in milliseconds; paused time does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
}
