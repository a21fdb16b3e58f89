//! The enums and small structures of `spec`. Used by everyone; see [`super::AgentJobSpec`] for the whole.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Seconds;

/// What runs a job's attempts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExecutionMode {
    /// The controller itself: only Kubernetes is needed.
    #[default]
    Direct,
    /// A Temporal workflow: retries, durable back-off, signals and queries.
    Temporal,
}

impl ExecutionMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Temporal];

    /// The word as it is written in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "Direct",
            Self::Temporal => "Temporal",
        }
    }
}

/// The desired state of a job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum DesiredState {
    /// The agent runs.
    #[default]
    Running,
    /// The agent is paused.
    Paused,
    /// The job ends. Final.
    Cancelled,
}

impl DesiredState {
    /// The word as it is written in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// How a pause stops a running agent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PausePolicy {
    /// Every process of the agent is stopped where it is; memory and open files stay.
    #[default]
    Freeze,
    /// The agent gets SIGTERM and its grace period to checkpoint, its pod ends; on resume a new pod of the same attempt
    /// starts with `KODO_RESUMED=1`.
    Evict,
    /// As `Freeze`; an agent that can't be frozen within seconds is stopped as by `Evict`.
    FreezeOrEvict,
}

impl PausePolicy {
    /// Whether a pause may end the agent.
    pub fn may_evict(self) -> bool {
        matches!(self, Self::Evict | Self::FreezeOrEvict)
    }
}

/// How a drain, a lost node or a deleted pod affects an agent that had started.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DisruptionPolicy {
    /// It counts as an attempt, because the agent's tools may have had effects.
    #[default]
    Count,
    /// Starting again is harmless: the attempt is not counted.
    Ignore,
    /// Starting again is never right: the job fails.
    FailJob,
}

/// Where further inputs come from: a ConfigMap or a Secret.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.configMapRef) != has(self.secretRef)").message("spec.inputsFrom[*] must have one of configMapRef and secretRef")
)]
pub struct InputsSource {
    /// What the names of its inputs begin with, before the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub prefix: String,
    /// The ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<NamedObject>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NamedObject>,
}

/// An object in the job's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NamedObject {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Whether the agent starts without it, too.
    #[serde(default)]
    pub optional: bool,
}

/// When and how often a failed agent is retried. The fields mean the same as Temporal's; an attempt is a start of the
/// agent. Omitted fields take the operator's defaults.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// The maximum number of starts of the agent. 0 means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("spec.retryPolicy.maximumAttempts must be 0 (no limit) or more"))]
    pub maximum_attempts: Option<i32>,
    /// The wait before the first retry, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("spec.retryPolicy.initialInterval must be more than 0s"))]
    pub initial_interval: Option<Seconds>,
    /// The factor from each wait to the next; 1 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1.0").message("spec.retryPolicy.backoffCoefficient must be 1 or more"))]
    pub backoff_coefficient: Option<f64>,
    /// The longest wait between two attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("spec.retryPolicy.maximumInterval must be more than 0s"))]
    pub maximum_interval: Option<Seconds>,
    /// Error types that are not retried: `AgentFailed`, `AgentKilled`, `OOMKilled`, `HeartbeatTimeout`,
    /// `ExecutionTimeout`, `Disrupted`, or what the agent itself writes as `type` to its error file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub non_retryable_error_types: Option<Vec<String>>,
}

/// Time-outs. Omitted fields take the operator's defaults.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The longest time without a heartbeat of the runner; at least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("spec.timeouts.heartbeat must be at least 1s"))]
    pub heartbeat: Option<Seconds>,
    /// One attempt's limit. Time spent paused does not count. Unset or null: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("spec.timeouts.execution must be more than 0s"))]
    pub execution: Option<Seconds>,
    /// From the pod's creation until its runner is ready. A pod held back by a scheduling gate isn't pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("spec.timeouts.pending must be at least 1s"))]
    pub pending: Option<Seconds>,
}

/// An optional notice that the agent gets before it is frozen.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PauseNotice {
    /// The signal for the agent's main process, `SIGUSR1` or `SIGUSR2`.
    #[schemars(regex(pattern = r"^SIGUSR[12]$"))]
    pub signal: String,
    /// How long it may take to reach a safe point, in seconds, 1 to 30. An agent that is ready earlier stops itself
    /// with SIGSTOP. On resume every process gets SIGCONT, which it may catch.
    #[schemars(range(min = 1, max = 30))]
    pub seconds: i32,
}

/// What is kept of the agent's events.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(default)]
pub struct Events {
    /// Whether lines of the agent's standard output and error are events, as those that it sends itself are.
    pub stdio: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self { stdio: true }
    }
}
