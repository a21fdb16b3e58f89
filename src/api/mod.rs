//! The contract with users: the resources AgentJob, AgentRun and AgentTemplate, their conditions and names.
//! No I/O. Every other module may use this one; it uses no other.

pub mod conditions;
mod duration;
mod fid;
mod job;
pub mod names;
mod progress;
mod raw;
mod reference;
mod run;
mod schema;
mod spec;
mod status;
mod template;
mod trace;

/// The version of the schema that this release needs: it grows with each change of a CRD that an older one would not
/// store.
pub const SCHEMA_VERSION: u32 = 7;

pub use conditions::Reason;
pub use duration::{Seconds, millis, whole_millis};
pub use fid::fid;
pub use job::{AgentJob, AgentJobSpec};
pub use progress::{AgentProgress, Budget, BudgetLimit, MAX_PROGRESS_MESSAGE_BYTES, Spent, Usage};
pub use raw::{RawJson, depth, json_object};
pub use reference::JobRef;
pub use run::{
    Acknowledged, AgentRun, AgentRunSpec, AgentRunStatus, RunCommand, RunIdentity, RunnerState, StartGrant,
    Termination, TerminationSource, TerminationType,
};
pub use spec::{
    DesiredState, DisruptionPolicy, Events, ExecutionMode, InputsSource, NamedObject, PauseNotice, PausePolicy,
    RetryPolicy, Timeouts,
};
pub use status::{
    AgentJobStatus, Confirmed, ControlStatus, ErrorStatus, ObservedDesiredState, Phase, Resolved, ResolvedRetryPolicy,
    ResolvedTimeouts, RetryStatus, SentRequest, WorkflowStatus,
};
pub use template::{AgentTemplate, AgentTemplateSpec, TemplateRef};
pub use trace::{SpanId, TraceContext, job_span, run_span, workflow_span};
