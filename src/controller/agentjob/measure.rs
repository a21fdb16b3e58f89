//! Metrics of jobs and runs: what changed between two statuses, or two versions of a run; and a census of the caches at
//! each scrape. Costs no requests. What happens while no controller leads is in the census alone.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Context, index::readable};
use crate::{
    api::{AgentJob, AgentJobStatus, AgentRun, DesiredState, ExecutionMode, Phase, Reason, conditions, millis},
    platform::{clock, metrics::JobMetrics},
    protocol::error_types,
};

/// The most of what an agent says it has used that is added to a sum of all agents.
const MOST_OF_A_RUN: i64 = 1_000_000_000_000;
/// The reasons of `Stalled` that are labels: koco's own.
static OURS: [Reason; 9] = [
    Reason::TemplateNotFound,
    Reason::TemplateInvalid,
    Reason::PodRefused,
    Reason::PodNotEnding,
    Reason::RunNameTaken,
    Reason::RequestRefused,
    Reason::TemporalNotConfigured,
    Reason::TemporalNamespaceChanged,
    Reason::WorkflowNotFound,
];
/// The kubelet's and the scheduler's common ones.
const THEIRS: [&str; 8] = [
    "Unschedulable",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

fn seconds(from: &Time, to: &Time) -> f64 {
    to.0.duration_since(from.0).as_secs_f64().max(0.0)
}

/// A status that was written.
pub(super) fn status(
    metrics: &JobMetrics,
    job: &AgentJob,
    old: &AgentJobStatus,
    new: &AgentJobStatus,
    runs: &[AgentRun],
) {
    let mode = new.execution_mode().unwrap_or_default().as_str();
    let (before, now) = (old.attempt.unwrap_or(0), new.attempt.unwrap_or(0));
    let count = |from: i32, to: i32| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    if now > before {
        metrics.attempts.of([mode]).inc_by(count(before, now));
        metrics.retries.of([mode]).inc_by(count(before.max(1), now));
    }
    if let (None, Some(started), Some(created)) = (&old.start_time, &new.start_time, &job.metadata.creation_timestamp) {
        metrics.start.of([mode]).observe(seconds(created, started));
        let first = runs.iter().find(|r| r.number() == 1).and_then(|r| r.metadata.creation_timestamp.as_ref());
        if let Some(first) = first {
            metrics.queue.of([mode]).observe(seconds(created, first));
        }
    }
    if let Some(phase) = new.phase.filter(|p| p.is_terminal() && Some(*p) != old.phase) {
        let error = new.error.as_ref().filter(|_| phase == Phase::Failed);
        metrics.ended.of([mode, phase.as_str(), error.map_or("", |e| error_types::word(&e.kind))]).inc();
        if let (Some(started), Some(completed)) = (&new.start_time, &new.completion_time) {
            metrics.duration.of([mode, phase.as_str()]).observe(seconds(started, completed));
        }
    }
}

/// A version of a run that replaces an older one in the cache. One that was not known before says nothing of when it
/// changed: it may be from before this controller led.
pub(super) fn run(metrics: &JobMetrics, old: Option<&AgentRun>, new: &AgentRun) {
    let Some(old) = old.filter(|old| old.uid() == new.uid()) else { return };
    let mode = new.spec.identity.execution_mode.as_str();
    if let Some(end) = new.termination().filter(|_| !old.is_closed()) {
        let error = end.error.as_ref().map_or("", |e| error_types::word(&e.kind));
        metrics.runs_ended.of([mode, end.kind.as_str(), error, end.source.as_str()]).inc();
        if end.started {
            metrics.active.of([mode]).observe(millis(end.active_millis).as_secs_f64());
            let said = |number: i64| number.clamp(0, MOST_OF_A_RUN).unsigned_abs();
            metrics.tokens.of([mode, "input"]).inc_by(said(end.usage.input_tokens));
            metrics.tokens.of([mode, "output"]).inc_by(said(end.usage.output_tokens));
            metrics.cost.of([mode]).inc_by(said(end.usage.cost_micros));
        }
    }
    if let (Some(command), Some(answer)) = (&new.spec.command, new.acknowledged())
        && answer.generation >= command.generation
        && answer.problem.is_none()
        && old.acknowledged().is_none_or(|before| before.generation < command.generation)
    {
        metrics.control.of([mode, command.state.as_str()]).observe(seconds(&command.time, &answer.time));
    }
}

/// What the caches hold: nothing before they are complete.
pub(super) fn census(metrics: &JobMetrics, context: &Context, loops: usize) {
    let Some(items) = context.jobs.all(loops) else { return };
    let (mut jobs, mut stalled) = (HashMap::<_, i64>::new(), HashMap::<_, i64>::new());
    let mut pending = HashMap::new();
    for item in &items {
        let Ok(job) = readable(item) else { continue };
        let status = job.status.as_ref();
        let recorded = status.and_then(AgentJobStatus::execution_mode);
        let mode = recorded.unwrap_or_else(|| context.defaults.of(job).execution_mode).as_str();
        let phase = status.and_then(|s| s.phase).unwrap_or_default();
        *jobs.entry((phase.as_str(), mode)).or_default() += 1;
        if let Some(reason) = stall(job) {
            *stalled.entry(reason).or_default() += 1;
        }
        if phase == Phase::Pending && job.spec.desired_state == DesiredState::Running {
            let since = status.and_then(|s| s.pending_since.as_ref()).or(job.metadata.creation_timestamp.as_ref());
            let waited = since.map_or(0.0, |since| seconds(since, &Time(clock::now())));
            pending.entry(mode).and_modify(|most: &mut f64| *most = most.max(waited)).or_insert(waited);
        }
    }
    let mut unresponsive = HashMap::<_, i64>::new();
    context.runs.each(|run| {
        let lost = run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some());
        if lost && !run.is_closed() {
            *unresponsive.entry(run.spec.identity.execution_mode.as_str()).or_default() += 1;
        }
    });
    for mode in ExecutionMode::ALL.map(ExecutionMode::as_str) {
        for phase in Phase::ALL.map(Phase::as_str) {
            metrics.jobs.of([phase, mode]).set(jobs.get(&(phase, mode)).copied().unwrap_or(0));
        }
        metrics.oldest_pending.of([mode]).set(pending.get(mode).copied().unwrap_or(0.0));
        metrics.unresponsive.of([mode]).set(unresponsive.get(mode).copied().unwrap_or(0));
    }
    metrics.stalled.clear();
    for (reason, count) in stalled {
        metrics.stalled.of([reason]).set(count);
    }
}

/// Why a job is stalled, as a label.
fn stall(job: &AgentJob) -> Option<&'static str> {
    let stalled = conditions::stall(&job.status.as_ref()?.conditions)?;
    let mut known = OURS.iter().map(Reason::as_str).chain(THEIRS);
    Some(known.find(|known| *known == stalled.reason).unwrap_or("Other"))
}

#[cfg(test)]
mod tests;
