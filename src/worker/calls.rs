//! The activities as the workflow calls them: names, types, time-outs, retries. What they do is in
//! [`super::activities`]. Used by the workflow; tests implement them with a simulated runner.

use std::time::Duration;

use temporalio_common::RetryPolicy;
use temporalio_macros::activity_definitions;
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, LocalActivityOptions, WorkflowCancellationToken,
    activities::ActivityError,
};

use super::decide::{ActivityEnd, State};
use crate::{
    api::{ErrorStatus, names},
    protocol::{
        error_types,
        workflow::{AgentResult, Cleanup, ControlRunner, ControlledRunner, ExecuteAgent, StartRunner, StartedRunner},
    },
};

/// Longer than any job: pauses last for weeks.
const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Longer than an activity's own limit, [`super::activities::LIMIT`]: after this its worker is lost.
pub const SHORT: Duration = Duration::from_secs(30);
/// Longer than a local activity's own limit, [`super::activities::LOCAL_LIMIT`], and shorter than a workflow task may
/// take (10 s): signals wait for its end.
pub const LOCAL: Duration = Duration::from_secs(5);

/// The activities' definitions.
pub struct ActivityDefinitions;

#[activity_definitions]
impl ActivityDefinitions {
    /// Creates a run and its pod, once the previous pod has ended.
    #[activity(name = "start_runner")]
    pub fn start_runner(_: StartRunner) -> Result<StartedRunner, ActivityError> {
        unimplemented!()
    }
    /// Grants the start. Completed asynchronously with the agent's end.
    #[activity(name = "execute_agent")]
    pub fn execute_agent(_: ExecuteAgent) -> Result<AgentResult, ActivityError> {
        unimplemented!()
    }
    /// Writes a command into the run, for the gateways to pass on.
    #[activity(name = "control_runner")]
    pub fn control_runner(_: ControlRunner) -> Result<ControlledRunner, ActivityError> {
        unimplemented!()
    }
    /// Closes the newest run, or prevents its creation.
    #[activity(name = "cleanup")]
    pub fn cleanup(_: Cleanup) -> Result<(), ActivityError> {
        unimplemented!()
    }
}

fn retries(first: u64, most: u64) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(Duration::from_secs(first))
        .maximum_interval(Duration::from_secs(most))
        .build()
}

/// For `start_runner`. With the token the workflow cancels it and waits for its end, which is immediate between two
/// tries. It has a task queue of its own, so that pods that can't be created, or don't end, take no slot from cancels
/// and pauses.
pub fn start_runner(token: WorkflowCancellationToken, task_queue: &str) -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(SHORT)
        .task_queue(names::start_task_queue(task_queue))
        .cancellation_token(token)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retries(1, 60))
        .build()
}

/// For the first try of the first `start_runner`, within the workflow task: it spares an activity and a task. Tried
/// once; whatever takes longer is left to the activity, which the server repeats, cancels and shows. A worker that dies
/// meanwhile leaves no trace of it, and the next one tries it again.
pub fn start_locally() -> LocalActivityOptions {
    LocalActivityOptions::builder()
        .activity_id("start_runner".to_string())
        .start_to_close_timeout(LOCAL)
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        .build()
}

/// For `execute_agent`: retries are for infrastructure only, agents' failures are reported non-retryable. Like all,
/// it has its own token: the workflow's cancellation would end it without stopping the runner.
pub fn execute_agent(state: &State) -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(YEARS)
        .heartbeat_timeout(state.input.timeouts.heartbeat.get())
        .activity_id(names::activity(state.progress().run))
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(retries(1, 5))
        .build()
}

/// For `control_runner`: few retries, so that a newer command soon replaces it.
pub fn control_runner() -> ActivityOptions {
    let few = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(500))
        .maximum_interval(Duration::from_secs(5))
        .maximum_attempts(4)
        .build();
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(few)
        .build()
}

/// For `cleanup`, which is never cancelled.
pub fn cleanup() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(SHORT)
        .activity_id("cleanup")
        .cancellation_token(WorkflowCancellationToken::new())
        .retry_policy(retries(1, 30))
        .build()
}

/// Reads how an activity ended.
pub fn agent_end(ended: Result<AgentResult, ActivityExecutionError>) -> ActivityEnd {
    match ended {
        Ok(result) => ActivityEnd::Succeeded(result),
        Err(e) => {
            let (error, detail) = failure(&e);
            ActivityEnd::Failed { error, non_retryable: detail.unwrap_or(false), recorded: detail.is_some() }
        }
    }
}

/// An activity's error, and whether it says that no policy may retry it: all that koco's roles report of an agent's end
/// says that or the opposite.
pub fn failure(e: &ActivityExecutionError) -> (ErrorStatus, Option<bool>) {
    use temporalio_common::error::IncomingError;
    let of = |kind: &str, message: String| ErrorStatus { kind: kind.into(), message };
    match e.cause() {
        Some(IncomingError::Application(a)) => {
            let kind = a.type_name().filter(|t| !t.is_empty()).unwrap_or(error_types::AGENT_FAILED);
            // Not by `temporal activity fail`: that means retryable.
            (of(kind, a.source_error().to_string()), a.details::<bool>().ok().flatten())
        }
        Some(IncomingError::Timeout(_)) => (of(error_types::HEARTBEAT_TIMEOUT, e.to_string()), None),
        _ => (of(error_types::RUNNER_LOST, e.to_string()), None),
    }
}
