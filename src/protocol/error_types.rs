//! The error types that end up in `status.error.type`, in Temporal's history and in `nonRetryableErrorTypes`. They are
//! stable.

/// The agent exited with a code other than 0 and left no type of its own.
pub const AGENT_FAILED: &str = "AgentFailed";
/// A signal that koco did not send ended the agent.
pub const AGENT_KILLED: &str = "AgentKilled";
/// The kernel killed the agent, or its whole container, because it was out of memory.
pub const OOM_KILLED: &str = "OOMKilled";
/// The agent's command could not be started.
pub const START_FAILED: &str = "StartFailed";
/// What `spec.inputsFrom` names can't be inputs: it is no text, no JSON, or too large. The agent was not started.
pub const INVALID_INPUTS_FROM: &str = "InvalidInputsFrom";
/// The inputs don't fit `spec.inputsSchema`, or that is no schema: the agent was not started. An agent that judges them
/// itself may say the same, as the Python package does.
pub const INVALID_INPUTS: &str = "InvalidInputs";
/// The runner sent no heartbeat in time and did not acknowledge the next binding.
pub const HEARTBEAT_TIMEOUT: &str = "HeartbeatTimeout";
/// The attempt took longer than `timeouts.execution`.
pub const EXECUTION_TIMEOUT: &str = "ExecutionTimeout";
/// The job's agents have used more than its `spec.budget` allows. Never retried.
pub const BUDGET_EXCEEDED: &str = "BudgetExceeded";
/// The pod was not ready within `timeouts.pending`. Uses up no attempt; fails the job.
pub const PENDING_TIMEOUT: &str = "PendingTimeout";
/// Inputs are larger than the operator allows. Nothing was started.
pub const INPUTS_TOO_LARGE: &str = "InputsTooLarge";
/// The template leaves no room for what becomes of it. Nothing was started.
pub const TEMPLATE_TOO_LARGE: &str = "TemplateTooLarge";
/// A drain, a lost node or a deleted pod ended an agent that had started.
pub const DISRUPTED: &str = "Disrupted";
/// The container ended without a termination message.
pub const RUNNER_LOST: &str = "RunnerLost";
/// The agent exited with 0, but its result file is not JSON.
pub const INVALID_RESULT: &str = "InvalidResult";
/// The agent exited with 0, but its result nests too deeply.
pub const RESULT_TOO_DEEP: &str = "ResultTooDeep";
/// The job's workflow was terminated, or timed out, from outside.
pub const WORKFLOW_CLOSED: &str = "WorkflowClosed";
/// The agent stopped because its job was paused with `pausePolicy: Evict`. Never in a status: the attempt is resumed.
pub const EVICTED: &str = "Evicted";
/// The agent stopped because its job was cancelled.
pub const CANCELLED: &str = "Cancelled";
/// The pod ended before its agent started: no attempt is used up.
pub const NOT_STARTED: &str = "NotStarted";
/// The job is gone, or is being deleted. Never in a status: the workflow ends as cancelled.
pub const JOB_GONE: &str = "JobGone";
/// Another run, or another try of the activity, has replaced this one. Seen in AgentRuns and in Temporal's history
/// only.
pub const SUPERSEDED: &str = "Superseded";
/// The pod could not be created; the activity is retried. Seen in Temporal's history only.
pub const POD_REFUSED: &str = "PodRefused";
/// The previous run's pod has not ended; the activity is retried. Seen in Temporal's history only.
pub const POD_NOT_ENDED: &str = "PodNotEnded";
/// The workflow is of another installation of koco; the activity is retried. Seen in Temporal's history only.
pub const FOREIGN_INSTALLATION: &str = "ForeignInstallation";
/// A local activity was left to a regular one. Seen in Temporal's history only.
pub const NOT_LOCAL: &str = "NotLocal";
/// A request to the API server failed; the activity is retried. Seen in Temporal's history only.
pub const API_SERVER: &str = "ApiServer";

/// The types that a runner reports, besides its agent's own.
const OF_RUNNERS: [&str; 11] = [
    AGENT_KILLED,
    OOM_KILLED,
    START_FAILED,
    INVALID_INPUTS_FROM,
    EXECUTION_TIMEOUT,
    BUDGET_EXCEEDED,
    DISRUPTED,
    RUNNER_LOST,
    INVALID_RESULT,
    RESULT_TOO_DEEP,
    NOT_STARTED,
];

/// The types that only koco's roles determine.
const OF_ROLES: [&str; 12] = [
    INPUTS_TOO_LARGE,
    TEMPLATE_TOO_LARGE,
    HEARTBEAT_TIMEOUT,
    PENDING_TIMEOUT,
    WORKFLOW_CLOSED,
    EVICTED,
    CANCELLED,
    JOB_GONE,
    SUPERSEDED,
    POD_REFUSED,
    POD_NOT_ENDED,
    API_SERVER,
];

/// The type as a label of metrics: agents' own types, of which there may be any number, are one word.
pub fn word(kind: &str) -> &'static str {
    let ours = OF_RUNNERS.into_iter().chain(OF_ROLES).chain([AGENT_FAILED, INVALID_INPUTS, FOREIGN_INSTALLATION]);
    ours.into_iter().find(|known| *known == kind).unwrap_or("Custom")
}

/// Whether an agent can't set this type in its error file: retry policies rely on its meaning.
pub fn is_reserved(kind: &str) -> bool {
    OF_RUNNERS.contains(&kind) || is_of_roles(kind)
}

/// Whether a runner can't report this type, because only koco's roles determine it.
pub fn is_of_roles(kind: &str) -> bool {
    OF_ROLES.contains(&kind)
}
