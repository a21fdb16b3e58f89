//! The two coroutines of the `AgentWorkflow`: one runs the attempts, the other delivers commands, and neither
//! waits for the other. Used by [`super::workflow`] only; deterministic, as all of the workflow.
//!
//! The progress of an attempt is kept in the state only ([`Step`]), so that a new execution can continue from any wait.

use std::time::{Duration, SystemTime};

use futures::FutureExt;
use temporalio_sdk::{TimerOptions, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext, workflows};

use super::{
    calls::{self, ActivityDefinitions},
    decide::{AfterStart, End, State},
    workflow::AgentWorkflow,
};
use crate::{
    api::{ErrorStatus, whole_millis},
    lifecycle,
    protocol::{
        error_types,
        workflow::{ControlRunner, ExecuteAgent, StartRunner, Step},
    },
};

type Ctx = WorkflowContext<AgentWorkflow>;

/// The longest history of one execution, in events, unless the server suggests continue-as-new earlier. The server's
/// limits are 10,000 signals and 51,200 events.
const LONG_HISTORY: u32 = 8_000;
/// How long to wait beyond a cancelled agent's grace period for its end.
const CANCEL_MARGIN: Duration = Duration::from_secs(30);
/// How long to wait for the end of a `start_runner` that was cancelled: longer than it may take.
const STOP_STARTING: Duration = Duration::from_secs(60);
/// The wait before a command that could not be written is retried.
const COMMAND_AGAIN: Duration = Duration::from_secs(5);

/// Waits for the state to fulfil a condition; not ended by the workflow's own cancellation.
async fn wait(ctx: &Ctx, condition: impl Fn(&State) -> bool) {
    let options = WaitConditionOptions::builder().cancellation_token(WorkflowCancellationToken::new()).build();
    // Only a cancelled token gives an error, and this one is never cancelled.
    let _ = ctx.wait_condition_with_options(|w| condition(&w.state), options).await;
}

/// A timer that ends early when its token is cancelled.
async fn timer(ctx: &Ctx, duration: Duration, token: &WorkflowCancellationToken) {
    ctx.timer(TimerOptions::builder(duration).cancellation_token(token.clone()).build()).await;
}

fn now_millis(ctx: &Ctx) -> i64 {
    let since = ctx.workflow_time().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    whole_millis(since)
}

/// Whether it is time to continue as new. Not during a cancel, which soon ends the workflow anyway.
fn should_continue_as_new(ctx: &Ctx, state: &State) -> bool {
    !state.cancelled() && (ctx.continue_as_new_suggested() || ctx.history_length() > LONG_HISTORY)
}

/// Waits until this execution may continue as new.
async fn await_continue_as_new(ctx: &Ctx) {
    wait(ctx, |s| should_continue_as_new(ctx, s) && !s.controlling).await;
}

/// Waits for a condition; a cancel or a long history ends the wait.
async fn wait_or_end(ctx: &Ctx, condition: impl Fn(&State) -> bool) -> Result<(), End> {
    let (cancelled, continue_as_new) = (wait(ctx, State::cancelled).fuse(), await_continue_as_new(ctx).fuse());
    let fulfilled = wait(ctx, condition).fuse();
    futures::pin_mut!(cancelled, fulfilled, continue_as_new);
    workflows::select! {
        () = cancelled => Err(End::Cancelled),
        () = fulfilled => Ok(()),
        () = continue_as_new => Err(End::ContinueAsNew),
    }
}

/// Runs the job's attempts, from any step.
pub async fn attempts(ctx: &Ctx) -> End {
    loop {
        let step = match ctx.state(|w| w.state.progress().step) {
            Step::NoRun => begin_run(ctx).await,
            Step::Creating => create_run(ctx).await,
            Step::Waiting => grant_start(ctx).await,
            Step::Granted => execute(ctx).await,
        };
        if let Err(end) = step {
            return end;
        }
    }
}

/// Between runs: waits while a pause is wanted, then for the back-off, and begins a run.
async fn begin_run(ctx: &Ctx) -> Result<(), End> {
    wait_or_end(ctx, |s| !s.paused()).await?;
    let now = now_millis(ctx);
    let Some(left) = ctx.state(|w| lifecycle::back_off_left(w.state.progress(), now)) else {
        ctx.state_mut(|w| w.state.begin());
        return Ok(());
    };
    let token = WorkflowCancellationToken::new();
    let (timer, paused) = (timer(ctx, left, &token).fuse(), wait_or_end(ctx, State::paused).fuse());
    futures::pin_mut!(timer, paused);
    workflows::select! {
        () = timer => Ok(()),
        interrupted = paused => {
            token.cancel();
            interrupted
        }
    }
}

/// Creates the first run and its pod within the workflow task; `None` if that is left to the activity. Nothing but
/// waits and activities may follow at once: where a signal has come meanwhile, the server takes no end of an execution,
/// and this is done twice.
async fn start_locally(ctx: &Ctx, input: StartRunner) -> Option<Result<(), End>> {
    if !ctx.state(|w| w.state.starts_locally()) || ctx.state(|w| should_continue_as_new(ctx, &w.state)) {
        return None;
    }
    match ctx.execute_local_activity(ActivityDefinitions::start_runner, input, calls::start_locally()).await {
        Ok(runner) => {
            ctx.state_mut(|w| w.state.started_runner(runner.run));
            Some(Ok(()))
        }
        Err(e) if is_gone(&calls::failure(&e).0) => Some(Err(End::Cancelled)),
        Err(_) => None,
    }
}

/// Whether the job is gone, or is to be cancelled. Cleanup follows.
fn is_gone(error: &ErrorStatus) -> bool {
    [error_types::JOB_GONE, error_types::CANCELLED].contains(&error.kind.as_str())
}

/// Creates the run and its pod.
async fn create_run(ctx: &Ctx) -> Result<(), End> {
    let input = ctx.state(|w| StartRunner {
        job: w.state.input.job.clone(),
        run: w.state.progress().run,
        attempt: lifecycle::next_attempt(w.state.progress()),
        resumed: w.state.progress().evicted,
        desired: w.state.progress().desired,
        generation: w.state.progress().generation,
    });
    if let Some(done) = start_locally(ctx, input.clone()).await {
        return done;
    }
    let token = WorkflowCancellationToken::new();
    let options = calls::start_runner(token.clone(), ctx.task_queue());
    let started = ctx.execute_activity(ActivityDefinitions::start_runner, input, options).fuse();
    let interrupted = wait_or_end(ctx, |_| false).fuse();
    futures::pin_mut!(started, interrupted);
    let ended = workflows::select! {
        ended = started => ended,
        interrupted = interrupted => {
            if interrupted == Err(End::Cancelled) {
                // It may be about to create a pod: cleanup must follow its end.
                token.cancel();
                let limit = WorkflowCancellationToken::new();
                let too_long = timer(ctx, STOP_STARTING, &limit).fuse();
                futures::pin_mut!(too_long);
                workflows::select! { _ = started => limit.cancel(), () = too_long => {} }
            }
            return interrupted;
        }
    };
    match ended {
        Ok(runner) => ctx.state_mut(|w| w.state.started_runner(runner.run)),
        Err(e) => {
            let (error, _) = calls::failure(&e);
            if is_gone(&error) {
                return Err(End::Cancelled);
            }
            let now = now_millis(ctx);
            ctx.state_mut(|w| w.state.start_failed(error, now));
        }
    }
    Ok(())
}

/// Waits for the runner to be ready and while a pause is wanted, and grants the start.
async fn grant_start(ctx: &Ctx) -> Result<(), End> {
    wait_or_end(ctx, |s| s.after_start() != AfterStart::Wait).await?;
    match ctx.state(|w| w.state.after_start()) {
        AfterStart::Wait => {}
        AfterStart::Grant => ctx.state_mut(|w| lifecycle::grant(w.state.progress_mut())),
        AfterStart::Failed(failed) if failed.fatal => {
            ctx.state_mut(|w| w.state.pending_timed_out(failed.error.clone()));
            return Err(End::Failed(failed.error));
        }
        AfterStart::Failed(failed) => {
            let now = now_millis(ctx);
            ctx.state_mut(|w| w.state.start_failed(failed.error, now));
        }
    }
    Ok(())
}

/// Grants the start, or binds the runner anew, and waits for its agent's end; after a cancel no longer than the grace
/// period and a margin.
async fn execute(ctx: &Ctx) -> Result<(), End> {
    let (input, options, grace) = ctx.state(|w| {
        let (s, at) = (&w.state, w.state.progress());
        let (job, run, attempt) = (s.input.job.clone(), at.run, at.attempt);
        // The newest command is written with the grant. `control_runner` delivers it again: only that returns the right
        // generation if the AgentRun is ahead of a workflow that was reset.
        let input = ExecuteAgent { job, run, attempt, desired: at.desired, generation: at.generation };
        let grace = Duration::from_secs(u64::try_from(s.input.grace_seconds).unwrap_or(0));
        (input, calls::execute_agent(s), grace)
    });
    let limit = WorkflowCancellationToken::new();
    let ended = ctx.execute_activity(ActivityDefinitions::execute_agent, input, options).fuse();
    let too_long = async {
        wait(ctx, State::cancelled).await;
        timer(ctx, grace.saturating_add(CANCEL_MARGIN), &limit).await;
    }
    .fuse();
    // The next execution binds the same runner anew; this activity ends with this execution.
    let continue_as_new = await_continue_as_new(ctx).fuse();
    futures::pin_mut!(ended, too_long, continue_as_new);
    let ended = workflows::select! {
        ended = ended => ended,
        () = too_long => return Err(End::Cancelled),
        () = continue_as_new => return Err(End::ContinueAsNew),
    };
    limit.cancel();
    let now = now_millis(ctx);
    let end = calls::agent_end(ended);
    ctx.state_mut(|w| w.state.run_ended(end, now)).map_or(Ok(()), Err)
}

/// Delivers the newest command; a newer one replaces it.
pub async fn control(ctx: &Ctx) {
    loop {
        // With a long history the next execution delivers it, so that a flood of commands can't prevent
        // continue-as-new.
        wait(ctx, |s| s.command().is_some() && !should_continue_as_new(ctx, s)).await;
        let Some((desired, generation)) = ctx.state(|w| w.state.command()) else { continue };
        let input = ctx.state_mut(|w| {
            w.state.controlling = true;
            ControlRunner { job: w.state.input.job.clone(), desired, generation, run: w.state.progress().run }
        });
        let written = ctx.execute_activity(ActivityDefinitions::control_runner, input, calls::control_runner()).await;
        ctx.state_mut(|w| {
            w.state.controlling = false;
            if let Ok(taken) = &written {
                w.state.delivered(generation, taken.generation);
            }
        });
        if written.is_err() {
            let token = WorkflowCancellationToken::new();
            let again = timer(ctx, COMMAND_AGAIN, &token).fuse();
            let newer = wait(ctx, |s| s.progress().generation > generation).fuse();
            futures::pin_mut!(again, newer);
            workflows::select! { () = newer => token.cancel(), () = again => {} }
        }
    }
}
