//! What the `AgentWorkflow` decides: plain functions of its state, with neither Temporal nor a clock in them. Used by the
//! workflow only. They must stay deterministic, and they change only in the way that [`super::workflow`] describes.

use std::time::Duration;

use crate::{
    api::{DesiredState, DisruptionPolicy, ErrorStatus, PausePolicy, RunnerState},
    protocol::{
        error_types,
        workflow::{
            AgentResult, Input, Progress, Request, RunnerConfirmed, RunnerFailed, RunnerReady, Stage, StatusAnswer,
            Step,
        },
    },
};

/// The longest request id that is remembered: it is carried along and answered, and anybody may send one.
const MAX_REQUEST_ID: usize = 256;

/// The state of a workflow.
pub struct State {
    /// Its input, with where it stands: the whole of what continue-as-new carries on.
    pub input: Input,
    /// How it ended, from when that is decided.
    pub closed: Option<Stage>,
    /// Whether a `control_runner` is on its way.
    pub controlling: bool,
}

/// How `execute_agent` ended.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEnd {
    /// With success.
    Succeeded(AgentResult),
    /// With an error; `last` if no policy may retry it.
    Failed {
        /// Its type and message.
        error: ErrorStatus,
        /// Whether the one who delivered it rules out a retry.
        last: bool,
    },
}

/// How a workflow's run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The agent ended with success.
    Succeeded(AgentResult),
    /// The job failed.
    Failed(ErrorStatus),
    /// The job was cancelled, or is gone.
    Cancelled,
    /// The run's history is long: another run goes on.
    Again,
}

/// What is to be done with an epoch whose pod was created.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterStart {
    /// Wait.
    Wait,
    /// Give it the permit.
    Permit,
    /// It ended before that.
    Failed(RunnerFailed),
}

impl State {
    /// The state at the start of a run.
    pub fn new(input: Input) -> Self {
        Self { input, closed: None, controlling: false }
    }

    /// Where it stands.
    pub fn at(&self) -> &Progress {
        &self.input.progress
    }

    fn at_mut(&mut self) -> &mut Progress {
        &mut self.input.progress
    }

    /// Whether a cancel is wanted.
    pub fn cancelled(&self) -> bool {
        self.at().desired == DesiredState::Cancelled
    }

    /// Whether a pause is wanted.
    pub fn paused(&self) -> bool {
        self.at().desired == DesiredState::Paused
    }

    /// Somebody asks for a state. The same request again changes nothing, nor does anything after a cancel.
    pub fn ask(&mut self, desired: DesiredState, request: Option<Request>) {
        let at = self.at_mut();
        if let Some(request) = request.filter(|r| r.id.len() <= MAX_REQUEST_ID) {
            if at.last_request.as_ref().is_some_and(|last| last.id == request.id || is_older(&request, last)) {
                return;
            }
            at.last_request = Some(request);
        }
        if at.desired != DesiredState::Cancelled && at.desired != desired {
            at.desired = desired;
            at.seq += 1;
        }
    }

    /// A runner has reported in. It may do so before the end of `start_runner` is seen, which may name a later epoch.
    pub fn runner_ready(&mut self, ready: &RunnerReady) {
        if self.concerns(ready.epoch) {
            self.at_mut().ready = ready.epoch;
        }
    }

    /// An epoch has ended before its permit.
    pub fn runner_failed(&mut self, failed: RunnerFailed) {
        if self.concerns(failed.epoch) {
            self.at_mut().failed = Some(failed);
        }
    }

    fn concerns(&self, epoch: i32) -> bool {
        match self.at().step {
            Step::Starting => epoch >= self.at().epoch,
            Step::Waiting => epoch == self.at().epoch,
            Step::Idle | Step::Started => false,
        }
    }

    /// A runner has carried out a command.
    pub fn runner_confirmed(&mut self, confirmed: &RunnerConfirmed) {
        let at = self.at_mut();
        let newer = at.confirmed.is_none_or(|(_, seq)| confirmed.seq >= seq);
        if confirmed.epoch == at.epoch && newer {
            at.confirmed = Some((confirmed.state, confirmed.seq));
        }
    }

    /// The command that the runner's record doesn't have yet, if a runner may be there to read it.
    pub fn command(&self) -> Option<(DesiredState, i64)> {
        let at = self.at();
        (at.delivered < at.seq && at.epoch > 0).then_some((at.desired, at.seq))
    }

    /// A command was written to the runner's record, or the record is further than we are and wants it under `taken`.
    pub fn delivered(&mut self, seq: i64, taken: i64) {
        let at = self.at_mut();
        if taken > seq {
            at.seq = at.seq.max(taken);
        } else {
            at.delivered = at.delivered.max(seq);
        }
    }

    /// Whether the job stands still: said only when it is true. Before the permit no agent runs.
    pub fn is_paused(&self) -> bool {
        let frozen = self.at().confirmed.is_some_and(|(s, seq)| s == RunnerState::Frozen && seq >= self.at().seq);
        self.paused() && (self.at().step != Step::Started || frozen) && self.closed.is_none()
    }

    /// Where it stands, in one word.
    pub fn stage(&self) -> Stage {
        let at = self.at();
        match (self.closed, at.desired, at.step) {
            (Some(end), ..) => end,
            (None, DesiredState::Cancelled, _) => Stage::Cancelling,
            (None, _, Step::Started) => Stage::Running,
            (None, DesiredState::Paused, _) if at.evicted => Stage::Evicted,
            (None, DesiredState::Paused, _) => Stage::Held,
            (None, DesiredState::Running, Step::Idle) if at.not_before.is_some() => Stage::Retrying,
            (None, DesiredState::Running, _) => Stage::Pending,
        }
    }

    /// The answer to `get_status`.
    pub fn answer(&self) -> StatusAnswer {
        let at = self.at();
        StatusAnswer {
            status: self.stage(),
            attempt: at.attempt,
            epoch: at.epoch,
            desired: at.desired,
            seq: at.seq,
            last_request: at.last_request.clone(),
            is_paused: self.is_paused(),
            error: at.error.clone(),
        }
    }

    /// How much of the back-off is left.
    pub fn back_off_left(&self, now_millis: i64) -> Option<Duration> {
        let left = u64::try_from(self.at().not_before?.saturating_sub(now_millis)).unwrap_or(0);
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// The next epoch begins.
    pub fn begin(&mut self) {
        let at = self.at_mut();
        (at.epoch, at.step) = (at.epoch.saturating_add(1), Step::Starting);
        (at.not_before, at.failed, at.confirmed) = (None, None, None);
    }

    /// The attempt that the epoch under way is for: a new one, or the one that was evicted.
    pub fn next_attempt(&self) -> i32 {
        if self.at().evicted { self.at().attempt.max(1) } else { self.at().attempt.saturating_add(1) }
    }

    /// `start_runner` has made the pod; its epoch is a later one if the claim was already further.
    pub fn started_runner(&mut self, epoch: i32) {
        let at = self.at_mut();
        (at.epoch, at.step) = (at.epoch.max(epoch), Step::Waiting);
    }

    /// What to do with the epoch whose pod is there. No agent starts while a pause is wanted.
    pub fn after_start(&self) -> AfterStart {
        let at = self.at();
        match &at.failed {
            Some(failed) if failed.epoch == at.epoch => AfterStart::Failed(failed.clone()),
            _ if at.ready == at.epoch && at.desired == DesiredState::Running => AfterStart::Permit,
            _ => AfterStart::Wait,
        }
    }

    /// The agent may start: this uses up an attempt, unless it goes on with an evicted one.
    pub fn permit(&mut self) {
        let attempt = self.next_attempt();
        let at = self.at_mut();
        (at.attempt, at.resumed, at.evicted, at.step) = (attempt, at.evicted, false, Step::Started);
    }

    /// No epoch came up in time.
    pub fn gave_up(&mut self, error: ErrorStatus) {
        self.at_mut().error = Some(error);
    }

    /// An epoch ended before its agent started: nothing is used up, another is tried after the back-off.
    pub fn setback(&mut self, error: ErrorStatus, now_millis: i64) {
        let at = self.at_mut();
        at.setbacks = at.setbacks.saturating_add(1);
        at.error = Some(error);
        self.retry(self.at().setbacks, now_millis);
    }

    /// What to do after the end of `execute_agent`: `None` is to go round again.
    pub fn agent_ended(&mut self, ended: AgentEnd, now_millis: i64) -> Option<End> {
        let (error, last) = match ended {
            AgentEnd::Succeeded(result) => {
                self.at_mut().error = None;
                return Some(End::Succeeded(result));
            }
            AgentEnd::Failed { error, last } => (error, last),
        };
        if self.cancelled() || error.kind == error_types::JOB_GONE {
            return Some(End::Cancelled);
        }
        match error.kind.as_str() {
            error_types::NOT_STARTED => {
                let at = self.at_mut();
                if at.resumed {
                    at.evicted = true;
                } else {
                    at.attempt -= 1;
                }
                self.setback(error, now_millis);
                None
            }
            error_types::EVICTED if self.input.pause_policy == PausePolicy::Evict => {
                let at = self.at_mut();
                (at.step, at.evicted, at.setbacks) = (Step::Idle, true, 0);
                None
            }
            // Ended by a pause or a cancel that this workflow doesn't know of (it was reset): one more failure, and not
            // final for having been non-retryable where it was meant.
            error_types::EVICTED | error_types::CANCELLED => self.failed(error, false, now_millis),
            error_types::DISRUPTED => match self.input.disruption_policy {
                DisruptionPolicy::Count => self.failed(error, last, now_millis),
                DisruptionPolicy::FailJob => self.failed(error, true, now_millis),
                DisruptionPolicy::Ignore => {
                    self.at_mut().forgiven += 1;
                    self.count(error);
                    self.retry(self.at().failures, now_millis);
                    None
                }
            },
            _ => self.failed(error, last, now_millis),
        }
    }

    fn count(&mut self, error: ErrorStatus) {
        let at = self.at_mut();
        (at.failures, at.setbacks) = (at.failures.saturating_add(1), 0);
        at.error = Some(error);
    }

    /// An attempt has failed: the job's retry policy decides.
    fn failed(&mut self, error: ErrorStatus, last: bool, now_millis: i64) -> Option<End> {
        self.count(error.clone());
        let policy = &self.input.retry_policy;
        let (counted, maximum) = (self.at().attempt - self.at().forgiven, policy.maximum_attempts);
        let used_up = maximum > 0 && counted >= maximum;
        if last || used_up || policy.non_retryable_error_types.contains(&error.kind) {
            let of = if maximum > 0 { format!(" of {maximum}") } else { String::new() };
            let message = format!("attempt {counted}{of}: {}", error.message);
            return Some(End::Failed(ErrorStatus { kind: error.kind, message }));
        }
        self.retry(self.at().failures, now_millis);
        None
    }

    fn retry(&mut self, failures: i32, now_millis: i64) {
        let wait = i64::try_from(self.input.retry_policy.back_off(failures).as_millis()).unwrap_or(i64::MAX);
        let at = self.at_mut();
        (at.step, at.not_before) = (Step::Idle, Some(now_millis.saturating_add(wait)));
    }
}

/// Whether a request is of an earlier generation of the spec than another: it was on its way for long. Ids that are not the
/// controller's have no generation.
fn is_older(request: &Request, last: &Request) -> bool {
    let generation = |r: &Request| r.id.split('/').next().and_then(|g| g.parse::<i64>().ok());
    generation(request).zip(generation(last)).is_some_and(|(this, last)| this < last)
}

#[cfg(test)]
mod tests;
