//! The contract with users: the AgentJob resource, its conditions and the names that we give to things.
//! No I/O. Every other module may use this one; it uses none of ours.

pub mod conditions;
mod duration;
mod fid;
mod job;
pub mod names;
mod reference;
mod schema;
mod spec;
mod status;

pub use duration::Seconds;
pub use fid::fid;
pub use job::{AgentJob, AgentJobSpec};
pub use reference::JobRef;
pub use spec::{DesiredState, DisruptionPolicy, ExecutionMode, PauseNotice, PausePolicy, RetryPolicy, Timeouts};
pub use status::{
    AgentJobStatus, Claim, Command, Confirmed, ControlStatus, ErrorStatus, Outcome, OutcomeKind, Permit, Phase,
    Resolved, ResolvedRetryPolicy, ResolvedTimeouts, RunnerState, RunnerStatus, SentRequest, SpecWish, WorkflowStatus,
};
