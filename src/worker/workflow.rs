//! The `AgentWorkflow`: signals, queries, and the coroutines that carry a job through its attempts. Run by the worker only.
//! What it decides is in [`super::decide`], what it does is in [`super::attempts`], what it calls is in [`super::calls`].
//!
//! Changing this code, [`super::decide`] and [`crate::lifecycle`]: histories of running jobs are replayed with it, also by a release that is
//! rolled back. What changes the order or kind of commands (activities, timers, continue-as-new) goes behind
//! `ctx.patched("name")`. Ship it dormant in one release (`ctx.patched` not asked yet, only the old path taken), switch it
//! on in the next, and `ctx.deprecate_patch` it when no run without the marker is left. `tests/replay.rs` tells: a recorded
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
    calls::{self, Calls},
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

/// One job, from its first pod to its result.
#[workflow]
pub struct AgentWorkflow {
    pub(super) state: State,
}

/// What a signal carries, if it is what we expect. Raw, because a payload that the SDK can't decode, or none, would wedge
/// the workflow for good.
fn read<T: DeserializeOwned>(payload: &RawValue) -> Option<T> {
    payload.payloads.first().and_then(|p| serde_json::from_slice(&p.data).ok())
}

#[workflow_methods]
impl AgentWorkflow {
    #[init]
    fn new(_ctx: &WorkflowContextView, input: Input) -> Self {
        Self { state: State::new(input) }
    }

    /// Carries the job through its attempts.
    #[run(name = WORKFLOW_TYPE)]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<AgentResult> {
        let ctx = ctx.clone();
        let end = {
            // Somebody cancels with Temporal's own means: the same as the signal.
            let native = async {
                ctx.cancelled().await;
                ctx.state_mut(|s| s.state.ask(DesiredState::Cancelled, None));
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
                // A cancel that comes in the run's last task would not be there in the next run.
                if ctx.cancelled().now_or_never().is_some() {
                    ctx.state_mut(|s| s.state.ask(DesiredState::Cancelled, None));
                }
                let input = ctx.state(|s| s.state.input.clone());
                ctx.continue_as_new(input, ContinueAsNewOptions::default())?;
            }
            End::Succeeded(_) => ctx.state_mut(|s| s.state.closed = Some(Stage::Completed)),
            End::Failed(_) => ctx.state_mut(|s| s.state.closed = Some(Stage::Failed)),
            End::Cancelled => {}
        }
        let cleanup = ctx.state(|s| Cleanup {
            job: s.state.input.job.clone(),
            run: s.state.progress().run,
            grace_seconds: s.state.input.grace_seconds,
        });
        if let Err(error) = ctx.execute_activity(Calls::cleanup, cleanup, calls::cleanup()).await {
            // Only somebody who fails it by hand ends it so. The job's own end stands.
            tracing::warn!(%error, "cleanup");
        }
        match end {
            End::Succeeded(result) => Ok(result),
            End::Failed(error) => Err(ApplicationFailure::builder(anyhow::anyhow!("{}", error.message))
                .type_name(error.kind)
                .non_retryable(true)
                .build()
                .into()),
            // ContinueAsNew has left above.
            End::Cancelled | End::ContinueAsNew => {
                ctx.state_mut(|s| s.state.closed = Some(Stage::Cancelled));
                Err(WorkflowTermination::cancelled())
            }
        }
    }

    /// The agent is to stand still.
    #[signal(name = SIGNAL_PAUSE)]
    pub fn pause(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.ask(DesiredState::Paused, read(&payload));
    }

    /// The agent is to go on.
    #[signal(name = SIGNAL_RESUME)]
    pub fn resume(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.ask(DesiredState::Running, read(&payload));
    }

    /// The job is to end.
    #[signal(name = SIGNAL_CANCEL)]
    pub fn cancel(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        self.state.ask(DesiredState::Cancelled, read(&payload));
    }

    /// A runner has reported in.
    #[signal(name = SIGNAL_RUNNER_READY)]
    pub fn runner_ready(&mut self, _ctx: &mut SyncWorkflowContext<Self>, payload: RawValue) {
        if let Some(ready) = read(&payload) {
            self.state.runner_ready(&ready);
        }
    }

    /// A run has ended before its start was granted.
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

    /// Where the workflow stands.
    #[query(name = QUERY_STATUS)]
    pub fn get_status(&self, _ctx: &WorkflowContextView) -> StatusAnswer {
        self.state.answer()
    }

    /// Whether the job stands still.
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
