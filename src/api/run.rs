//! The AgentRun resource: one for each runner, which is one for each pod. It is created before its pod, owns it, and is
//! owned by the AgentJob. Instructions are in `spec`, observations in `status`, so that RBAC can separate the writers.
//!
//! A run is *closed* once `status.termination` or `spec.identity.tombstone` is set. That one field both fences the run
//! and records its end: the first write wins, and it never changes afterwards (CEL). A closed run is never granted, and
//! a run of a higher number is created only after the lower one was read closed.
//!
//! Only koco writes AgentRuns. Users read them, so they hold no credential: a runner's public key is none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AgentProgress, DesiredState, ErrorStatus, ExecutionMode, JobRef, PausePolicy, RawJson, Seconds, Spent, Usage,
    schema,
};

/// Which run of which job it is, the grant with which its agent may start, and the newest command for it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "kodosumi.io",
    version = "v1alpha1",
    kind = "AgentRun",
    doc = "AgentRun is one runner of an AgentJob: its pod, the grant with which its agent may start, and how it ended. Written by koco only.",
    plural = "agentruns",
    singular = "agentrun",
    shortname = "ar",
    category = "kodosumi",
    namespaced,
    status = "AgentRunStatus",
    derive = "PartialEq",
    label("app.kubernetes.io/name", "koco"),
    label("app.kubernetes.io/part-of", "koco"),
    // The same as SCHEMA_VERSION: a test compares them.
    annotation("kodosumi.io/schema-version", "7"),
    selectable = ".spec.identity.jobName",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.identity.jobName"),
    printcolumn(name = "Number", type_ = "integer", json_path = ".spec.identity.number"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".spec.identity.attempt"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.identity.podName"),
    printcolumn(name = "Ended", type_ = "string", json_path = ".status.termination.type"),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.termination.error.type"),
    printcolumn(name = "Exit", type_ = "integer", json_path = ".status.termination.exitCode"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.termination.source"),
    printcolumn(name = "Started", type_ = "date", json_path = ".spec.grant.time"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.termination.duration"),
    printcolumn(name = "Tombstone", type_ = "boolean", json_path = ".spec.identity.tombstone", priority = 1),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.termination) || (has(self.status) && has(self.status.termination) && self.status.termination == oldSelf.status.termination)"
    ).message("status.termination never changes"),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.publicKey) || (has(self.status) && has(self.status.publicKey) && self.status.publicKey == oldSelf.status.publicKey && has(self.status.podUID) == has(oldSelf.status.podUID) && (!has(self.status.podUID) || self.status.podUID == oldSelf.status.podUID))"
    ).message("status.publicKey and status.podUID never change"),
    validation = Rule::new(
        "!(has(oldSelf.status) && has(oldSelf.status.termination)) && !has(oldSelf.spec.identity.tombstone) || self.spec == oldSelf.spec"
    ).message("the spec of a closed run never changes")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.identity.tombstone) || !has(self.grant)").message("spec.grant: a tombstone is never granted"),
    validation = Rule::new("!has(oldSelf.grant) || (has(self.grant) && self.grant.binding >= oldSelf.grant.binding)").message("spec.grant.binding only grows"),
    validation = Rule::new("!has(oldSelf.command) || (has(self.command) && self.command.generation >= oldSelf.command.generation)").message("spec.command.generation only grows")
)]
pub struct AgentRunSpec {
    /// Identifies the run. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.identity is immutable"))]
    pub identity: RunIdentity,
    /// Allows the agent to start. Written by the worker; in Direct mode a run is created with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<StartGrant>,
    /// The newest command for the runner. Written by the worker, in Direct mode by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<RunCommand>,
}

/// Identifies the run, and holds the settings of its runner that are not in the job's spec.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunIdentity {
    /// The job's name, in the same namespace.
    pub job_name: String,
    /// The job's UID.
    #[serde(rename = "jobUID")]
    pub job_uid: String,
    /// Counts the runs of a job, from 1.
    #[schemars(range(min = 1))]
    pub number: i32,
    /// The attempt that this run is for, from 1. It is used up only if the agent starts.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    /// Whether this run continues an attempt that was evicted by a pause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// How long the agent was active in earlier runs of this attempt, in milliseconds: what `timeouts.execution` has
    /// used up.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
    /// What the agents of the job's earlier runs have used up, of all attempts: what counts against `spec.budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// The name of its pod. It has a random part, so that a pod of this name can't be created beforehand.
    pub pod_name: String,
    /// What runs the job's attempts.
    pub execution_mode: ExecutionMode,
    /// How a pause stops the agent.
    #[serde(default)]
    pub pause_policy: PausePolicy,
    /// The job's `timeouts.heartbeat`: the longest time without a heartbeat.
    pub heartbeat: Seconds,
    /// Set on a run that was created closed, in place of one that never existed or was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tombstone: bool,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The right of a run's runner to start the agent, and in Temporal mode the activity that waits for its end.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StartGrant {
    /// When it was granted.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Counts how often the same runner was bound to another task, from 0: after a heartbeat time-out, or
    /// continue-as-new.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub binding: i32,
    /// The workflow whose activity waits. Temporal mode only.
    #[serde(rename = "workflowID", default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// The workflow run whose activity waits. Temporal mode only.
    #[serde(rename = "runID", default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The activity's own attempt. Temporal mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity_attempt: Option<i32>,
}

/// A command for a runner.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RunCommand {
    /// The desired state of the agent.
    pub state: DesiredState,
    /// Counts commands, from 1.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// When it was written.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// The generation of the newest command to pause the run's agent, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub last_pause: Option<i64>,
    /// In Direct mode, the generation of the AgentJob that asked for this: one that is older changes nothing any more. In
    /// Temporal mode the workflow has the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub job_generation: Option<i64>,
}

impl RunCommand {
    /// The command that follows `old`.
    pub fn after(old: Option<&Self>, state: DesiredState, generation: i64, time: Time) -> Self {
        let new = Self { state, generation, time, last_pause: old.and_then(Self::newest_pause), job_generation: None };
        Self { last_pause: new.newest_pause(), ..new }
    }

    /// The command that follows `old` if a generation of the AgentJob wants this state, in Direct mode; `None` if `old` says
    /// that already, is of a later generation, or is a cancel, which is final.
    pub fn asked_by(old: Option<&Self>, state: DesiredState, job_generation: Option<i64>, time: Time) -> Option<Self> {
        let told = old.map_or(DesiredState::Running, |c| c.state);
        let is_known = told == state && (state != DesiredState::Paused || old?.job_generation >= job_generation);
        let is_of_later = old.is_some_and(|old| old.job_generation > job_generation);
        if is_known || is_of_later || told == DesiredState::Cancelled {
            return None;
        }
        let command = match old.filter(|old| old.state == state) {
            // The runner has it already: only who asked for it is new.
            Some(old) => old.clone(),
            None => Self::after(old, state, old.map_or(0, |c| c.generation).saturating_add(1), time),
        };
        Some(Self { job_generation, ..command })
    }

    /// The generation of the newest command to pause, this one included.
    fn newest_pause(&self) -> Option<i64> {
        self.last_pause.max((self.state == DesiredState::Paused).then_some(self.generation))
    }
}

/// What was observed of a run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentRunStatus {
    /// The UID of its pod, from the token with which its runner registered.
    #[serde(rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The public key of its runner, recorded when it registered: `ed25519:` and 64 hexadecimal digits. Requests and
    /// termination messages are believed only if they were made with this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^ed25519:[0-9a-f]{64}$"))]
    pub public_key: Option<String>,
    /// When its runner registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub ready_time: Option<Time>,
    /// What its runner has acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    /// Since when its agent stands still under a pause, by its runner's acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub paused_since: Option<Time>,
    /// How long it stood still under earlier pauses, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub paused_millis: i64,
    /// What its agent has reported of its progress; written at most once a minute, and with the run's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<AgentProgress>,
    /// The last contact with the runner, once a gateway deems it unresponsive. The next contact removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub unresponsive_since: Option<Time>,
    /// Whether many runners are unresponsive at the same time, so that silence is no evidence against one of them: only
    /// the loss of its node is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unresponsive_among_many: bool,
    /// The gateway that its runner is connected to, which detects an unresponsive runner. Direct mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The API server's message when it refused the pod. A user or administrator must fix the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_error: Option<String>,
    /// How it ended. The first write wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination: Option<Termination>,
}

/// The state of an agent, as its runner reports it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RunnerState {
    /// The runner waits for its grant; no agent has started.
    #[default]
    Waiting,
    /// The agent runs.
    Running,
    /// Every process of the agent is stopped.
    Frozen,
    /// The agent is being stopped and has not ended yet.
    Stopping,
}

/// What a runner has acknowledged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// The newest [`StartGrant::binding`] under which a gateway had contact with the runner; -1 before the grant.
    pub binding: i32,
    /// The generation of the acknowledged command, 0 if there was none.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// The state of its agent.
    pub state: RunnerState,
    /// Why the command could not be carried out, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When the gateway received it.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
}

/// The kind of a run's end.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationType {
    /// Exit 0.
    Succeeded,
    /// The agent failed, or its runner was lost.
    Failed,
    /// The agent stopped because the job was paused with `pausePolicy: Evict`. It is resumed in another run.
    Evicted,
    /// The agent stopped because the job was cancelled, or it never started for that reason.
    Cancelled,
}

impl TerminationType {
    /// The word as it is written in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Evicted => "Evicted",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Who reported the end of a run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationSource {
    /// Its runner: reported, not observed.
    Runner,
    /// The kubelet: seen in the status of the pod.
    Kubelet,
    /// koco itself: the runner was unresponsive, or the run was cancelled or given up.
    Koco,
}

impl TerminationSource {
    /// The word as it is written in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runner => "Runner",
            Self::Kubelet => "Kubelet",
            Self::Koco => "Koco",
        }
    }
}

/// How a run ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// The kind of end.
    #[serde(rename = "type")]
    pub kind: TerminationType,
    /// Who reported it.
    pub source: TerminationSource,
    /// When it was recorded.
    #[schemars(schema_with = "schema::time")]
    pub time: Time,
    /// Whether the agent had started.
    pub started: bool,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorStatus>,
    /// Whether no retry policy may start it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_retryable: bool,
    /// The exit code, of the agent or of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The agent's result, cut to the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any")]
    pub result: Option<RawJson>,
    /// How long the agent was active in this run, in milliseconds; paused time does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub active_millis: i64,
    /// What the agent has reported to have used in this run, by its runner.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub usage: Usage,
    /// How many events it has, by its runner, whether they are stored yet or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub events: Option<i64>,
    /// How many of its agent's events were not known to be stored when it ended, if any, by its runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub events_missing: Option<i64>,
    /// Whether its pod was gone before its containers were seen to have ended, as after a forced deletion: they may run on
    /// for the pod's grace period.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pod_vanished: bool,
    /// The time from the agent's start to the end, such as `1h3m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

impl AgentRun {
    /// The job of this run.
    pub fn job(&self) -> JobRef {
        JobRef {
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.spec.identity.job_name.clone(),
            uid: self.spec.identity.job_uid.clone(),
        }
    }

    /// Whether a workflow decides on its job's attempts.
    pub fn is_temporal(&self) -> bool {
        self.spec.identity.execution_mode == ExecutionMode::Temporal
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.spec.identity.number
    }

    /// Its name; empty on one that was never stored.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether it has the name of a run of its job and number. Others are not koco's, which relies on names because
    /// only one object can have each.
    pub fn has_its_name(&self) -> bool {
        let id = &self.spec.identity;
        self.name() == super::names::run(&id.job_name, &id.job_uid, id.number)
    }

    /// The UID that the API server gave it; empty on one that was never stored.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// How it ended, if that is recorded.
    pub fn termination(&self) -> Option<&Termination> {
        self.status.as_ref()?.termination.as_ref()
    }

    /// Drops what koco doesn't decide by, for caches: a large result.
    pub fn trim(&mut self) {
        let ended = self.status.as_mut().and_then(|s| s.termination.as_mut());
        if let Some(result) = ended.and_then(|t| t.result.as_mut()) {
            result.trim_large();
        }
        self.metadata.managed_fields = None;
    }

    /// Whether its result is not there because it was trimmed.
    pub fn lacks_result(&self) -> bool {
        self.termination().and_then(|t| t.result.as_ref()).is_some_and(RawJson::is_trimmed)
    }

    /// Whether it has ended, or was created closed. Stable: a closed run is never open again.
    pub fn is_closed(&self) -> bool {
        self.spec.identity.tombstone || self.termination().is_some()
    }

    /// Whether its runner has registered.
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.ready_time.is_some())
    }

    /// Whether its agent may have started: its runner has registered and there is a grant.
    pub fn may_have_started(&self) -> bool {
        self.is_ready() && self.spec.grant.is_some()
    }

    /// Whether its agent may be running now.
    pub fn may_run(&self) -> bool {
        self.may_have_started() && !self.is_closed()
    }

    /// What its runner has acknowledged.
    pub fn acknowledged(&self) -> Option<&Acknowledged> {
        self.status.as_ref()?.acknowledged.as_ref()
    }

    /// The newest binding that its runner has acknowledged; -1 if none.
    pub fn acknowledged_binding(&self) -> i32 {
        self.acknowledged().map_or(-1, |a| a.binding)
    }

    /// Whether it was bound anew and its runner has not acknowledged that.
    pub fn is_to_acknowledge(&self) -> bool {
        self.spec.grant.as_ref().is_some_and(|g| g.binding >= 1 && g.binding > self.acknowledged_binding())
    }

    /// The generation of the newest command, 0 if there is none.
    pub fn command_generation(&self) -> i64 {
        self.spec.command.as_ref().map_or(0, |c| c.generation)
    }

    /// The generation of the newest command to pause its agent, if there was one.
    pub fn last_pause(&self) -> Option<i64> {
        self.spec.command.as_ref()?.newest_pause()
    }

    /// When its agent could start: it is granted, and its runner has registered.
    pub fn could_start(&self) -> Option<&Time> {
        let (granted, ready) = (&self.spec.grant.as_ref()?.time, self.status.as_ref()?.ready_time.as_ref()?);
        Some(granted.max(ready))
    }

    /// The agent's state, if the newest command is acknowledged.
    pub fn acknowledged_state(&self) -> Option<RunnerState> {
        let answer = self.acknowledged().filter(|a| a.problem.is_none())?;
        (answer.generation >= self.command_generation()).then_some(answer.state)
    }

    /// Why the newest command could not be carried out, if so.
    pub fn problem(&self) -> Option<&str> {
        let answer = self.acknowledged().filter(|a| a.generation >= self.command_generation())?;
        answer.problem.as_deref()
    }
}
