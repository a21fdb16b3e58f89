//! What a request makes of a job's status, and what a runner is told of its job. Pure: from (status, request, now) to the new
//! status. The gateway's part of status is `runner`, `control.confirmed` and, first come, `outcome`.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::error::Refusal;
use crate::{
    api::{
        AgentJob, AgentJobStatus, Confirmed, ErrorStatus, ExecutionMode, Outcome, Permit, Resolved, RunnerState,
        RunnerStatus, fid,
    },
    protocol::runner::{Confirm, Ending, Hello, Job, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, Report, cut_result},
};

/// The longest error type that is passed on, in bytes.
const MAX_TYPE_BYTES: usize = 128;

/// A gateway heard of the claim's runner.
pub struct Contact<'a> {
    /// The runner's epoch, which is the claim's.
    pub epoch: i32,
    /// What its agent does.
    pub state: RunnerState,
    /// When.
    pub now: Timestamp,
    /// Who is to watch over its silence from now on; `None` leaves that as it is.
    pub gateway: Option<&'a str>,
}

/// Whether the job runs without Temporal.
pub fn is_direct(status: &AgentJobStatus) -> bool {
    mode(status) == Some(ExecutionMode::Direct)
}

/// Whether the job has a workflow.
pub fn is_temporal(status: &AgentJobStatus) -> bool {
    mode(status) == Some(ExecutionMode::Temporal)
}

fn mode(status: &AgentJobStatus) -> Option<ExecutionMode> {
    status.resolved.as_ref().map(|r| r.execution_mode)
}

/// The permit of the claim's runner, if it has one.
pub fn permit(status: &AgentJobStatus) -> Option<&Permit> {
    status.claim.as_ref()?.permit.as_ref()
}

/// Records that the runner lives. Changes nothing if all of it is known, so a heartbeat costs a write only when there is news:
/// the agent has started, a permit was offered that this answers, a silence is over.
pub fn contact(status: &mut AgentJobStatus, contact: &Contact<'_>) {
    let offer = permit(status).map(|p| p.offer);
    let now = Time(contact.now);
    let old = status.runner.take().filter(|r| r.epoch == contact.epoch);
    let mut runner = old.unwrap_or_else(|| RunnerStatus {
        epoch: contact.epoch,
        ready_time: now.clone(),
        started_time: None,
        answered: None,
        silent_since: None,
        gateway: None,
    });
    if contact.state != RunnerState::Waiting && runner.started_time.is_none() {
        runner.started_time = Some(now);
    }
    runner.answered = runner.answered.max(offer);
    runner.silent_since = None;
    if let Some(gateway) = contact.gateway {
        runner.gateway = Some(gateway.into());
    }
    status.runner = Some(runner);
}

/// A runner reports in.
pub fn hello(status: &mut AgentJobStatus, hello: &Hello, of: &Contact<'_>) {
    contact(status, of);
    let new = confirmed(hello.sender.epoch, hello.state, hello.seq, None, of.now);
    // A hello may have been overtaken by a confirmation of the same command: it never takes one back.
    let news = match confirmation(status) {
        Some(old) if old.epoch == new.epoch => (new.seq, rank(new.state)) > (old.seq, rank(old.state)),
        Some(old) => new.epoch > old.epoch,
        None => true,
    };
    if news {
        status.control.get_or_insert_default().confirmed = Some(new);
    }
}

/// A command was carried out, or can't be.
pub fn confirm(status: &mut AgentJobStatus, confirm: &Confirm, of: &Contact<'_>) {
    contact(status, of);
    let problem = confirm.problem.as_deref().map(|p| cut(p, MAX_MESSAGE_BYTES));
    let new = confirmed(confirm.sender.epoch, confirm.state, confirm.seq, problem, of.now);
    let news = match confirmation(status) {
        Some(old) if old.epoch == new.epoch => {
            new.seq > old.seq || (new.seq == old.seq && (new.state, &new.problem) != (old.state, &old.problem))
        }
        Some(old) => new.epoch > old.epoch,
        None => true,
    };
    if news {
        status.control.get_or_insert_default().confirmed = Some(new);
    }
}

fn confirmation(status: &AgentJobStatus) -> Option<&Confirmed> {
    status.control.as_ref()?.confirmed.as_ref()
}

fn confirmed(epoch: i32, state: RunnerState, seq: i64, problem: Option<String>, now: Timestamp) -> Confirmed {
    Confirmed { state, seq: seq.max(0), epoch, time: Time(now), problem }
}

/// How far an agent has come under one command.
fn rank(state: RunnerState) -> u8 {
    match state {
        RunnerState::Waiting => 0,
        RunnerState::Running => 1,
        RunnerState::Frozen => 2,
        RunnerState::Stopping => 3,
    }
}

/// How the agent ended, and what it was told before. The first to say so is believed: a repeat changes nothing, another outcome is refused.
pub fn outcome(status: &mut AgentJobStatus, report: &Report, now: Timestamp) -> Result<(), Refusal> {
    let epoch = report.sender.epoch;
    if let Some(old) = status.outcome.as_ref().filter(|o| o.epoch == epoch) {
        return if old.kind == report.ending.kind { Ok(()) } else { Err(Refusal::OtherOutcome) };
    }
    if report.ending.started
        && let Some(runner) = status.runner.as_mut().filter(|r| r.epoch == epoch)
        && runner.started_time.is_none()
    {
        runner.started_time = Some(Time(now));
    }
    let new = confirmed(epoch, RunnerState::Stopping, report.seq, None, now);
    if new.seq > 0 && confirmation(status).is_none_or(|old| (new.epoch, new.seq) > (old.epoch, old.seq)) {
        status.control.get_or_insert_default().confirmed = Some(new);
    }
    status.outcome = Some(ended(epoch, &report.ending, now));
    Ok(())
}

/// An ending as it is recorded: cut, whatever the runner says that it did.
fn ended(epoch: i32, ending: &Ending, now: Timestamp) -> Outcome {
    let error = ending
        .error
        .as_ref()
        .map(|e| ErrorStatus { kind: cut(&e.kind, MAX_TYPE_BYTES), message: cut(&e.message, MAX_MESSAGE_BYTES) });
    Outcome {
        epoch,
        kind: ending.kind,
        time: Time(now),
        started: ending.started,
        error,
        non_retryable: ending.non_retryable,
        exit_code: ending.exit_code,
        result: ending.result.as_ref().map(|r| cut_result(r, MAX_RESULT_BYTES)),
        active_millis: ending.active_millis.max(0),
    }
}

/// At most `limit` bytes of a text, whole characters.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.into();
    }
    let end = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[..end].into()
}

/// What a runner needs to know of its job, from the whole object.
pub fn job(job: &AgentJob) -> Result<Job, Refusal> {
    let status = job.status.as_ref().ok_or(Refusal::NotClaimed)?;
    let claim = status.claim.as_ref().ok_or(Refusal::NotClaimed)?;
    let Resolved { timeouts, .. } = status.resolved.as_ref().ok_or(Refusal::NotClaimed)?;
    let created = job.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
    let heartbeat = timeouts.heartbeat.get().as_millis() as u64;
    // What earlier pods of this attempt used up is gone. Zero would mean no time at all, and 1 ms says the same.
    let left = |limit: u64| limit.saturating_sub(claim.active_millis.max(0) as u64).max(1);
    Ok(Job {
        fid: status.fid.clone().unwrap_or_else(|| fid(created, job.uid())),
        entry_point: job.spec.entry_point.clone(),
        inputs: job.spec.inputs.clone(),
        extra: job.spec.extra.clone(),
        attempt: claim.attempt,
        resumed: claim.resumed,
        pause_policy: job.spec.pause_policy,
        pause_notice: job.spec.pause_notice.clone(),
        grace_seconds: job.grace_seconds(),
        heartbeat_interval_millis: (heartbeat / 4).clamp(250, 30_000),
        execution_limit_millis: timeouts.execution.map(|e| left(e.get().as_millis() as u64)),
    })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
