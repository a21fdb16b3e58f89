//! The decisions of the `AgentWorkflow`: pure functions of its state, without Temporal or a clock, for signals,
//! commands and queries. What follows from the end of a run is decided by [`crate::lifecycle`]. Used by the workflow
//! only. They must stay deterministic, and they change only in the way that [`super::workflow`] describes.

use crate::{
    api::{DesiredState, ErrorStatus, RunnerState},
    lifecycle::{self, Ended, Next, Policy},
    protocol::{
        error_types,
        workflow::{
            AgentResult, Input, Progress, Request, RunnerConfirmed, RunnerFailed, RunnerReady, Stage, StatusAnswer,
            Step,
        },
    },
};

/// The longest request id that is remembered: it is kept in the state and returned by queries, and users may send any.
const MAX_REQUEST_ID: usize = 256;

/// Ends that koco found out by itself: the runner may be there still, or its run was deleted.
const LOST: [&str; 4] =
    [error_types::DISRUPTED, error_types::HEARTBEAT_TIMEOUT, error_types::PENDING_TIMEOUT, error_types::RUNNER_LOST];

/// The state of a workflow.
pub struct State {
    /// Its input with its progress: all that continue-as-new passes on.
    pub input: Input,
    /// How it ended, once that is decided.
    pub closed: Option<Stage>,
    /// Whether a `control_runner` is in flight.
    pub controlling: bool,
    /// Whether the newest run was begun by this execution.
    pub begun: bool,
    /// Whether the agent's outcome in the newest run is on record, so that the run is closed.
    recorded: bool,
}

/// How `execute_agent` ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ActivityEnd {
    /// With success.
    Succeeded(AgentResult),
    /// With an error; `non_retryable` if no policy may retry it.
    Failed {
        /// Its type and message.
        error: ErrorStatus,
        /// Whether no retry policy may apply.
        non_retryable: bool,
        /// Whether it is as one of koco's roles reads it from a run that is closed.
        recorded: bool,
    },
}

/// How an execution of the workflow ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The agent ended with success.
    Succeeded(AgentResult),
    /// The job failed.
    Failed(ErrorStatus),
    /// The job was cancelled, or is gone.
    Cancelled,
    /// The history is long: a new execution continues.
    ContinueAsNew,
}

/// What to do with a run whose pod was created.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterStart {
    /// Wait.
    Wait,
    /// Grant the start.
    Grant,
    /// It ended before that.
    Failed(RunnerFailed),
}

impl State {
    /// The state at the start of an execution.
    pub fn new(input: Input) -> Self {
        Self { input, closed: None, controlling: false, begun: false, recorded: false }
    }

    /// The workflow's progress.
    pub fn progress(&self) -> &Progress {
        &self.input.progress
    }

    /// The same, for [`lifecycle`] to change.
    pub fn progress_mut(&mut self) -> &mut Progress {
        &mut self.input.progress
    }

    /// Whether a cancel is wanted.
    pub fn cancelled(&self) -> bool {
        self.progress().desired == DesiredState::Cancelled
    }

    /// Whether a pause is wanted.
    pub fn paused(&self) -> bool {
        self.progress().desired == DesiredState::Paused
    }

    /// Handles a request for a state. A repeated request changes nothing, nor does any request after a cancel.
    pub fn request(&mut self, desired: DesiredState, request: Option<Request>) {
        let progress = self.progress_mut();
        if let Some(request) = request.filter(|r| r.id.len() <= MAX_REQUEST_ID) {
            if progress.last_request.as_ref().is_some_and(|last| last.id == request.id || is_older(&request, last)) {
                return;
            }
            progress.last_request = Some(request);
        }
        if progress.desired != DesiredState::Cancelled && progress.desired != desired {
            progress.desired = desired;
            progress.generation += 1;
        }
    }

    /// A runner is ready. The signal may come before the result of `start_runner`, which may name a later run; that of the
    /// first even before its run is begun, if a worker has died within the task in which it started it.
    pub fn runner_ready(&mut self, ready: &RunnerReady) {
        let is_first = self.progress().run == 0 && ready.run == 1;
        if is_first || self.is_current_run(ready.run) {
            self.progress_mut().ready = ready.run;
        }
    }

    /// A run has ended before it was granted.
    pub fn runner_failed(&mut self, failed: RunnerFailed) {
        if self.is_current_run(failed.run) {
            self.progress_mut().failed = Some(failed);
        }
    }

    fn is_current_run(&self, run: i32) -> bool {
        match self.progress().step {
            Step::Creating => run >= self.progress().run,
            Step::Waiting => run == self.progress().run,
            Step::NoRun | Step::Granted => false,
        }
    }

    /// A runner has carried out a command.
    pub fn runner_confirmed(&mut self, confirmed: &RunnerConfirmed) {
        let progress = self.progress_mut();
        let newer = progress.confirmed.is_none_or(|(_, generation)| confirmed.generation >= generation);
        if confirmed.run == progress.run && newer {
            progress.confirmed = Some((confirmed.state, confirmed.generation));
        }
    }

    /// The command that the newest AgentRun doesn't have yet, if there may be one.
    pub fn command(&self) -> Option<(DesiredState, i64)> {
        let progress = self.progress();
        (progress.delivered < progress.generation && progress.run > 0)
            .then_some((progress.desired, progress.generation))
    }

    /// A command was written to the AgentRun, or the AgentRun is ahead and `taken` is the next free generation.
    pub fn delivered(&mut self, generation: i64, taken: i64) {
        let progress = self.progress_mut();
        if taken > generation {
            progress.generation = progress.generation.max(taken);
        } else {
            progress.delivered = progress.delivered.max(generation);
        }
    }

    /// Whether the job is paused: only if confirmed, or before the grant, when no agent runs.
    pub fn is_paused(&self) -> bool {
        // A runner that got the pause before its grant has not started its agent.
        let still = self.progress().confirmed.is_some_and(|(s, generation)| {
            matches!(s, RunnerState::Frozen | RunnerState::Waiting) && generation >= self.progress().generation
        });
        self.paused() && (self.progress().step != Step::Granted || still) && self.closed.is_none()
    }

    /// The workflow's stage.
    pub fn stage(&self) -> Stage {
        let progress = self.progress();
        match (self.closed, progress.desired, progress.step) {
            (Some(end), ..) => end,
            (None, DesiredState::Cancelled, _) => Stage::Cancelling,
            (None, _, Step::Granted) => Stage::Running,
            (None, DesiredState::Paused, _) if progress.evicted => Stage::Evicted,
            (None, DesiredState::Paused, _) => Stage::Held,
            (None, DesiredState::Running, Step::NoRun) if progress.retry_at.is_some() => Stage::Retrying,
            (None, DesiredState::Running, _) => Stage::Pending,
        }
    }

    /// The answer to `get_status`.
    pub fn answer(&self) -> StatusAnswer {
        let progress = self.progress();
        StatusAnswer {
            status: self.stage(),
            attempt: progress.attempt,
            run: progress.run,
            desired: progress.desired,
            generation: progress.generation,
            last_request: progress.last_request.clone(),
            is_paused: self.is_paused(),
            error: progress.error.clone(),
            ended_run: self.ended_run(),
        }
    }

    /// The newest run, if it is known to have ended.
    fn ended_run(&self) -> Option<i32> {
        let progress = self.progress();
        let told = progress.failed.as_ref().is_some_and(|failed| failed.run == progress.run);
        (progress.run > 0 && (told || progress.step == Step::NoRun)).then_some(progress.run)
    }

    /// Begins the next run.
    pub fn begin(&mut self) {
        lifecycle::begin(self.progress_mut());
        self.begun = true;
    }

    /// Whether the runner's start is first tried within the workflow task. Only the first of all: nothing has to end
    /// before it, so it takes a moment. Not if another execution may have tried that already.
    pub fn starts_locally(&self) -> bool {
        self.begun && self.progress().run == 1
    }

    /// Whether the newest run has to be closed, or its creation prevented. The agent's own outcome is read from a run
    /// that is closed.
    pub fn needs_cleanup(&self, end: &End) -> bool {
        !self.recorded || *end == End::Cancelled
    }

    /// `start_runner` has created the pod; its run is a later one if the AgentRuns were ahead of the workflow.
    pub fn started_runner(&mut self, run: i32) {
        let progress = self.progress_mut();
        (progress.run, progress.step) = (progress.run.max(run), Step::Waiting);
    }

    /// What to do with the run whose pod exists. No agent starts while a pause is wanted.
    pub fn after_start(&self) -> AfterStart {
        let progress = self.progress();
        match &progress.failed {
            Some(failed) if failed.run == progress.run => AfterStart::Failed(failed.clone()),
            _ if progress.ready == progress.run && progress.desired == DesiredState::Running => AfterStart::Grant,
            _ => AfterStart::Wait,
        }
    }

    /// No runner was ready within the pending time-out.
    pub fn pending_timed_out(&mut self, error: ErrorStatus) {
        self.progress_mut().error = Some(error);
        self.recorded = false;
    }

    /// A run ended before its agent started: another run follows after the back-off.
    pub fn start_failed(&mut self, error: ErrorStatus, now_millis: i64) {
        let (progress, policy) = self.parts();
        lifecycle::start_failed(progress, &policy, error, now_millis);
    }

    /// What to do after the end of `execute_agent`: `None` means another run.
    pub fn run_ended(&mut self, ended: ActivityEnd, now_millis: i64) -> Option<End> {
        let (ended, result) = match ended {
            ActivityEnd::Succeeded(result) => {
                self.recorded = true;
                (Ended::Succeeded, result)
            }
            ActivityEnd::Failed { error, non_retryable, recorded } => {
                self.recorded = recorded && !LOST.contains(&error.kind.as_str());
                (Ended::Failed { error, non_retryable }, AgentResult::default())
            }
        };
        let cancelled = self.cancelled();
        let (progress, policy) = self.parts();
        match lifecycle::run_ended(progress, &policy, ended, cancelled, now_millis) {
            Next::Succeed => Some(End::Succeeded(result)),
            Next::Fail(error) => Some(End::Failed(error)),
            Next::Cancel => Some(End::Cancelled),
            Next::Continue => None,
        }
    }

    fn parts(&mut self) -> (&mut Progress, Policy<'_>) {
        let Input { retry_policy, disruption_policy, pause_policy, progress, .. } = &mut self.input;
        (progress, Policy { retry: retry_policy, disruption: *disruption_policy, pause: *pause_policy })
    }
}

/// Whether a request is of an earlier generation of the spec than another, because it was delayed. Only the
/// controller's ids have a generation.
fn is_older(request: &Request, last: &Request) -> bool {
    let generation = |r: &Request| r.id.split('/').next().and_then(|g| g.parse::<i64>().ok());
    generation(request).zip(generation(last)).is_some_and(|(this, last)| this < last)
}

#[cfg(test)]
mod tests;
