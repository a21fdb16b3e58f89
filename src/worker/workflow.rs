//! The `AgentWorkflow`: signals, queries, and the coroutines that run a job's attempts. Run by the worker only.
//! Its decisions are in [`super::decide`], its coroutines in [`super::attempts`], its activities' definitions in
//! [`super::calls`].
//!
//! Changing this code, [`super::decide`] and [`crate::lifecycle`]: histories of running jobs are replayed with it, also
//! after a rollback. What changes the order or kind of commands (activities, timers, continue-as-new) goes behind a new
//! [`Shape`](crate::protocol::workflow::Shape), which workflows get in their input when they are started. Ship it dormant
//! in one release (no workflow is started with it yet), and use it in the next. `tests/replay.rs` checks: a recorded
//! history that no longer replays is a job that would be stuck.

use futures::FutureExt;
use serde::de::DeserializeOwned;
use temporalio_common::data_converters::RawValue;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ApplicationFailure, ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView,
    WorkflowResult, WorkflowTermination, workflows,
};

use super::{
    attempts::{attempts, control},
    calls::{self, ActivityDefinitions},
    decide::{End, State},
};
use crate::{
    api::{DesiredState, ErrorStatus},
    protocol::workflow::{
        AgentResult, Cleanup, Input, QUERY_ERROR, QUERY_IS_PAUSED, QUERY_STATUS, SIGNAL_CANCEL, SIGNAL_PAUSE,
        SIGNAL_RESUME, SIGNAL_RUNNER_CONFIRMED, SIGNAL_RUNNER_FAILED, SIGNAL_RUNNER_READY, Stage, StatusAnswer,
        WORKFLOW_TYPE,
    },
};

/// One job's workflow, from its first run to its result.
#[workflow]
pub struct AgentWorkflow {
    pub(super) state: State,
}

/// Decodes a signal's payload, if it is valid. Raw, because a payload that the SDK can't decode, or none, would block
/// the workflow for ever.
fn read<T: DeserializeOwned>(payload: &RawValue) -> Option<T> {
    payload.payloads.first().and_then(|p| serde_json::from_slice(&p.data).ok())
}

/// Closes the newest run, or prevents its creation.
async fn cleanup(ctx: &WorkflowContext<AgentWorkflow>) {
    let cleanup = ctx.state(|s| Cleanup {
        job: s.state.input.job.clone(),
        run: s.state.progress().run,
        grace_seconds: s.state.input.grace_seconds,
    });
    if let Err(error) = ctx.execute_activity(ActivityDefinitions::cleanup, cleanup, calls::cleanup()).await {
        // Only if it was failed by hand. The job's own end stays.
        tracing::warn!(%error, "cleanup");
    }
}

#[workflow_methods]
impl AgentWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: Input) -> Self {
        Self { state: State::new(input) }
    }

    /// Runs the job.
    #[run(name = WORKFLOW_TYPE)]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<AgentResult> {
        let ctx = ctx.clone();
        let end = {
            // A cancellation by Temporal's own tools: the same as the signal.
            let native = async {
                ctx.cancelled().await;
                ctx.state_mut(|s| s.state.request(DesiredState::Cancelled, None));
                futures::future::pending::<()>().await;
            }
            .fuse();
            let control = control(&ctx).fuse();
            let attempts = attempts(&ctx).fuse();
            futures::pin_mut!(native, control, attempts);
            loop {
                workflows::select! { end = attempts => break end, _ = native => {}, _ = control => {} }
            }
        };
        match &end {
            End::ContinueAsNew => {
                // A cancel in this execution's last task would be lost in the next execution.
                if ctx.cancelled().now_or_never().is_some() {
                    ctx.state_mut(|s| s.state.request(DesiredState::Cancelled, None));
                }
                let input = ctx.state(|s| s.state.input.clone());
                ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
            }
            End::Succeeded(_) => ctx.state_mut(|s| s.state.closed = Some(Stage::Completed)),
            End::Failed(_) => ctx.state_mut(|s| s.state.closed = Some(Stage::Failed)),
            End::Cancelled => {}
        }
        if ctx.state(|s| s.state.needs_cleanup(&end)) {
            cleanup(&ctx).await;
        }
        match end {
            End::Succeeded(result) => Ok(result),
            End::Failed(error) => Err(ApplicationFailure::builder(anyhow::anyhow!("{}", error.message))
                .type_name(error.kind)
                .non_retryable(true)
                .build()
                .into()),
            // ContinueAsNew has returned above.
            End::Cancelled | End::ContinueAsNew => {
                ctx.state_mut(|s| s.state.closed = Some(Stage::Cancelled));
                Err(WorkflowTermination::cancelled())
            }
        }
    }

    /// Pauses the job.
    #[signal(name = SIGNAL_PAUSE)]
    pub fn pause(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.request(DesiredState::Paused, read(&payload));
    }

    /// Resumes the job.
    #[signal(name = SIGNAL_RESUME)]
    pub fn resume(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.request(DesiredState::Running, read(&payload));
    }

    /// Cancels the job.
    #[signal(name = SIGNAL_CANCEL)]
    pub fn cancel(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.request(DesiredState::Cancelled, read(&payload));
    }

    /// A runner is ready.
    #[signal(name = SIGNAL_RUNNER_READY)]
    pub fn runner_ready(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        if let Some(ready) = read(&payload) {
            self.state.runner_ready(&ready);
        }
    }

    /// A run has ended before it was granted.
    #[signal(name = SIGNAL_RUNNER_FAILED)]
    pub fn runner_failed(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        if let Some(failed) = read(&payload) {
            self.state.runner_failed(failed);
        }
    }

    /// A runner has carried out a command.
    #[signal(name = SIGNAL_RUNNER_CONFIRMED)]
    pub fn runner_confirmed(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        if let Some(confirmed) = read(&payload) {
            self.state.runner_confirmed(&confirmed);
        }
    }

    /// The workflow's status.
    #[query(name = QUERY_STATUS)]
    pub fn get_status(&self, _ctx: &WorkflowContextView) -> StatusAnswer {
        self.state.answer()
    }

    /// Whether the job is paused.
    #[query(name = QUERY_IS_PAUSED)]
    pub fn is_paused(&self, _ctx: &WorkflowContextView) -> bool {
        self.state.is_paused()
    }

    /// The newest attempt's error.
    #[query(name = QUERY_ERROR)]
    pub fn get_error(&self, _ctx: &WorkflowContextView) -> Option<ErrorStatus> {
        self.state.progress().error.clone()
    }
}
