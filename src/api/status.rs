//! `status` of an AgentJob. Its only writer is the controller, which derives it from the spec, the newest AgentRun, the
//! pods and the workflow's queries.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AgentProgress, DesiredState, ExecutionMode, RawJson, RunnerState, Seconds, Spent, schema};

/// A summary of the conditions, for users and for `kubectl get`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Phase {
    /// No agent has started in this attempt yet: submitted, scheduled, pulling, waiting for its grant.
    #[default]
    Pending,
    /// The agent runs.
    Running,
    /// The agent is paused, confirmed by its runner.
    Paused,
    /// An attempt failed; a retry follows.
    Retrying,
    /// A cancel is in progress.
    Cancelling,
    /// The agent ended with success. Final.
    Succeeded,
    /// The job failed. Final.
    Failed,
    /// The job was cancelled. Final.
    Cancelled,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Retrying,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word as it is written in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Retrying => "Retrying",
            Self::Cancelling => "Cancelling",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether the phase is final.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// The observed state of a job.
// The default tells a job that no controller has seen from one of which there is nothing to say.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("default" = json!({ "observedGeneration": -1 })))]
pub struct AgentJobStatus {
    /// The generation of the spec that this status is based on; -1 before the first.
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
    /// The number of the newest run. In Direct mode it is written before that run is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_run: Option<i32>,
    /// The pod of the newest run, once it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<String>,
    /// The UID of that pod.
    #[serde(rename = "runnerPodUID", skip_serializing_if = "Option::is_none")]
    pub runner_pod_uid: Option<String>,
    /// The state of the attempts. Direct mode only: in Temporal mode the workflow has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryStatus>,
    /// Defaults of the operator, as resolved when the job was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// The Temporal workflow, and the results of its queries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowStatus>,
    /// How far the newest agent is, as it reports itself, and what the job's agents report to have used in all attempts.
    /// Written at most once a minute, and with the job's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<AgentProgress>,
    /// What the agents of runs that have ended have used up, in all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// The agent's result, if small; else an object with `truncated: true`, `size` in bytes and `digest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub result: Option<RawJson>,
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
    /// Ready, Paused, Succeeded, Reconciling, Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Pause, resume and cancel in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlStatus>,
}

impl AgentJobStatus {
    /// The resolved execution mode, once it is recorded.
    pub fn execution_mode(&self) -> Option<ExecutionMode> {
        self.resolved.as_ref().map(|r| r.execution_mode)
    }

    /// What the job's agents have used up, with what the newest one has reported. It may lag behind the runs.
    pub fn used(&self) -> Spent {
        let spent = self.spent.unwrap_or_default();
        Spent { usage: spent.usage.at_least(AgentProgress::usage_of(self.progress.as_ref())), ..spent }
    }
}

/// The state of a Direct job's attempts before its newest run: written together with `activeRun`, before the run is
/// created, so that a controller that is killed neither loses nor repeats an attempt.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryStatus {
    /// How many attempts were used up before the newest run.
    #[schemars(range(min = 0))]
    pub attempts: i32,
    /// How many attempts have failed, for the back-off.
    #[schemars(range(min = 0))]
    pub failures: i32,
    /// How many runs in a row have ended before their agent started, for the back-off.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub start_failures: i32,
    /// Attempts that don't count against the maximum because of `disruptionPolicy: Ignore`.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub ignored_disruptions: i32,
    /// How often the newest attempt was evicted, for the back-off.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub evictions: i32,
    /// The newest run is not created before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub retry_after: Option<Time>,
    /// Whether the newest run continues an evicted attempt.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// How long that attempt's agent was active so far, in milliseconds.
    #[serde(skip_serializing_if = "is_zero_millis")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

fn is_zero_millis(n: &i64) -> bool {
    *n == 0
}

/// Defaults of the operator, as resolved when the job was accepted.
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

/// A retry policy with every field set.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedRetryPolicy {
    /// The maximum number of starts of the agent; 0 means no limit.
    pub maximum_attempts: i32,
    /// The wait before the first retry.
    pub initial_interval: Seconds,
    /// The factor from each wait to the next.
    pub backoff_coefficient: f64,
    /// The longest wait.
    pub maximum_interval: Seconds,
    /// Error types that are not retried.
    #[serde(default)]
    pub non_retryable_error_types: Vec<String>,
}

impl ResolvedRetryPolicy {
    /// The wait after the `failures`th failure: `initialInterval * backoffCoefficient ^ (failures - 1)`, at most
    /// `maximumInterval`.
    pub fn back_off(&self, failures: i32) -> Duration {
        let (first, most) = (self.initial_interval.get(), self.maximum_interval.get());
        let coefficient = self.backoff_coefficient.max(1.0);
        // Not `powi`, which may differ between machines in the last bit: a replay elsewhere must get the same result.
        let mut factor = 1.0_f64;
        for _ in 1..failures.clamp(1, 1100) {
            factor *= coefficient;
        }
        // Too large, infinite or not a number: the maximum.
        Duration::try_from_secs_f64(first.as_secs_f64() * factor).map_or(most, |wait| wait.min(most))
    }
}

/// Time-outs with every field set that has a default.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTimeouts {
    /// The longest time without a heartbeat of the runner.
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
    /// The newest known execution's run ID.
    #[serde(rename = "runID", skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The Temporal namespace.
    pub namespace: String,
    /// That namespace's id: another server's has another one, also under the same name.
    #[serde(rename = "namespaceID", skip_serializing_if = "Option::is_none")]
    pub namespace_id: Option<String>,
    /// Since when Temporal doesn't know the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub missing_since: Option<Time>,
    /// The result of `get_status`, or how the execution was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The result of `is_paused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_paused: Option<bool>,
    /// The result of `get_error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
}

/// An error.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct ErrorStatus {
    /// A stable type, such as `AgentFailed`, or the agent's own.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub message: String,
}

/// Pause, resume and cancel in progress: what the spec desires, what was sent to the workflow, and what the newest
/// runner has confirmed. The runner's command is in its AgentRun.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlStatus {
    /// What the spec desires. Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<ObservedDesiredState>,
    /// The controller's last request to the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentRequest>,
    /// What the newest runner has confirmed, from its AgentRun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Confirmed>,
}

/// What the spec desires, and since when the controller has known.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct ObservedDesiredState {
    /// The state.
    pub state: DesiredState,
    /// Since when.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// The controller's last request to the workflow.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct SentRequest {
    /// The state.
    pub state: DesiredState,
    /// The request's id: the workflow ignores a repeated one.
    pub id: String,
    /// The annotation `kodosumi.io/control-request` of that time: a new value requests the same state once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it was sent.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// What a runner has confirmed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Confirmed {
    /// The state of its agent.
    pub state: RunnerState,
    /// The generation of the confirmed command.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// The number of its run.
    #[schemars(range(min = 1))]
    pub run: i32,
    /// When it was confirmed.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Why the command could not be carried out, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
