//! The record of a run's end, and what it means. All sources use it, so that the same limits apply to the runner's
//! report, to its termination message and to the kubelet's status.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Ended;
use crate::{
    api::{
        Acknowledged, AgentProgress, AgentRun, DesiredState, ErrorStatus, RawJson, RunnerState, Spent, Termination,
        TerminationSource, TerminationType, Usage, depth, millis, whole_millis,
    },
    protocol::{
        error_types,
        runner::{
            AgentEnd, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, MAX_RESULT_DEPTH, cut_result, cut_text, result_digest,
        },
        workflow::AgentResult,
    },
};

/// The longest error type that is recorded, in bytes.
const MAX_TYPE_BYTES: usize = 128;

/// How long after its grant a runner may take to report that its agent could not be started.
const START: Duration = Duration::from_secs(60);

/// How long after its agent's end a runner's report may be recorded before the time between counts as active.
const REPORT: Duration = Duration::from_secs(60);

/// How long the kubelet may take to learn that a pod is gone, and to kill its containers after its grace period.
const LINGER: Duration = Duration::from_secs(5);
/// How much longer than its limit an agent may be active before koco itself ends its run: longer than a runner that has
/// ended its agent goes on trying to report that.
const UNENDED: Duration = Duration::from_secs(16 * 60);

/// What the end of a closed run means for the attempts.
pub fn end_of(run: &AgentRun) -> Ended {
    let failed = |kind: &str, message: &str, non_retryable| Ended::Failed {
        error: ErrorStatus { kind: kind.into(), message: message.into() },
        non_retryable,
    };
    let Some(termination) = run.termination() else {
        // A tombstone: the run was deleted, or never existed.
        return failed(error_types::DISRUPTED, "its AgentRun was deleted", false);
    };
    match termination.kind {
        TerminationType::Succeeded => Ended::Succeeded,
        TerminationType::Evicted => failed(error_types::EVICTED, "the agent was evicted by a pause", true),
        TerminationType::Cancelled => failed(error_types::CANCELLED, "the agent was cancelled", true),
        TerminationType::Failed => match &termination.error {
            Some(error) => Ended::Failed { error: error.clone(), non_retryable: termination.non_retryable },
            None => failed(
                error_types::RUNNER_LOST,
                "the runner reported a failure without an error",
                termination.non_retryable,
            ),
        },
    }
}

/// The result of a run that has succeeded, for its workflow. Fails on one that nests too deeply to be read.
pub fn result_of(run: &AgentRun) -> Result<AgentResult, serde_json::Error> {
    let result = run.termination().and_then(|t| t.result.as_ref());
    Ok(AgentResult { result: result.map(RawJson::read).transpose()? })
}

/// An end as the runner reported it, cut to the limits, and as far as koco's own record of the run allows it. The source
/// is [`TerminationSource::Runner`] also for a signed termination message.
pub fn claimed(run: &AgentRun, ending: &AgentEnd, now: &Time) -> Termination {
    let refuted = refute(run, ending, now);
    let kind = if refuted.is_some() { TerminationType::Failed } else { ending.kind };
    let says = |kind| ending.error.as_ref().is_some_and(|e| e.kind == kind);
    let non_retryable = (ending.non_retryable || says(error_types::BUDGET_EXCEEDED)) && refuted.is_none();
    let started = if refuted.is_some() { run.may_have_started() } else { ending.started && run.may_have_started() };
    let error = refuted.or_else(|| ending.error.as_ref().map(reported)).as_ref().map(limited);
    let result = ending.result.as_ref().map(|result| {
        let text = result.to_string();
        if depth(&text) > MAX_RESULT_DEPTH {
            return RawJson::from(result_digest(&text));
        }
        RawJson::from(cut_result(result, MAX_RESULT_BYTES))
    });
    Termination {
        kind,
        source: TerminationSource::Runner,
        time: now.clone(),
        started,
        error,
        non_retryable,
        exit_code: ending.exit_code,
        result,
        active_millis: ending.active_millis.clamp(0, active_at_most(run, now)),
        usage: ending.usage.at_least(Usage::default()),
        events: None,
        events_missing: None,
        pod_vanished: false,
        duration: duration(run, now),
    }
}

/// What is recorded in place of a report that can't be true by koco's own record of the run. The second line behind the
/// runner's key: in a container with enough capabilities an agent can get at that.
fn refute(run: &AgentRun, ending: &AgentEnd, now: &Time) -> Option<ErrorStatus> {
    let instead = |kind: &str, message: &str| Some(ErrorStatus { kind: kind.into(), message: message.into() });
    let commanded = run.spec.command.as_ref().map(|c| c.state);
    let says = |kind| ending.error.as_ref().is_some_and(|e| e.kind == kind);
    // Whatever it says, these end the job.
    let ends = [
        error_types::START_FAILED,
        error_types::INVALID_INPUTS,
        error_types::INVALID_INPUTS_FROM,
        error_types::BUDGET_EXCEEDED,
    ];
    let ends = ends.into_iter().any(says);
    let unstarted = says(error_types::NOT_STARTED) || (!ending.started && !ends);
    match ending.kind {
        // It may have been resumed since.
        TerminationType::Evicted if !run.spec.identity.pause_policy.may_evict() || run.last_pause().is_none() => {
            instead(error_types::AGENT_FAILED, "the runner reported an eviction by a pause that was never requested")
        }
        TerminationType::Cancelled if commanded != Some(DesiredState::Cancelled) => {
            instead(error_types::AGENT_FAILED, "the runner reported a cancel that was never requested")
        }
        TerminationType::Cancelled => None,
        _ if unstarted && must_have_started(run, now) => instead(
            error_types::RUNNER_LOST,
            "the runner reported that its agent never started, though its start was granted long before",
        ),
        _ => None,
    }
}

/// Whether a run's agent must have started by now: its start was granted a while ago and no pause held it.
fn must_have_started(run: &AgentRun, now: &Time) -> bool {
    let Some(since) = run.could_start() else { return false };
    let held = |a: &&Acknowledged| a.state == RunnerState::Waiting && Some(a.generation) == run.last_pause();
    let command = run.spec.command.as_ref().filter(|_| run.acknowledged().as_ref().is_some_and(held));
    let since = match command {
        Some(command) if command.state != DesiredState::Running => return false,
        Some(command) => since.max(&command.time),
        None => since,
    };
    elapsed(since, now) > START
}

/// A runner's error, without the types that it can't report.
fn reported(error: &ErrorStatus) -> ErrorStatus {
    if !error_types::is_of_roles(&error.kind) {
        return error.clone();
    }
    let message = format!("{} (type {} is not for a runner to report)", error.message, error.kind);
    ErrorStatus { kind: error_types::AGENT_FAILED.into(), message }
}

/// The longest time that a run's agent can have been active, in milliseconds. Recorded times may lack a second's part.
fn active_at_most(run: &AgentRun, now: &Time) -> i64 {
    let since = run.could_start().map(|since| elapsed(since, now) + Duration::from_secs(1));
    since.map_or(0, whole_millis)
}

/// A failure seen on the pod: `kind` if the agent may have started, else [`error_types::NOT_STARTED`].
pub fn observed(run: &AgentRun, kind: &str, message: String, exit_code: Option<i32>, now: &Time) -> Termination {
    let kind = if run.may_have_started() { kind } else { error_types::NOT_STARTED };
    Termination { exit_code, ..koco(run, kind, message, now) }.by_the_kubelet()
}

/// A failure that koco determined itself, such as a heartbeat time-out.
pub fn koco(run: &AgentRun, kind: &str, message: String, now: &Time) -> Termination {
    Termination {
        kind: TerminationType::Failed,
        source: TerminationSource::Koco,
        time: now.clone(),
        started: run.may_have_started(),
        error: Some(limited(&ErrorStatus { kind: kind.into(), message })),
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
        usage: Usage::default(),
        events: None,
        events_missing: None,
        pod_vanished: false,
        duration: duration(run, now),
    }
}

/// The end of a run whose pod is gone before its containers were seen to have ended.
pub fn vanished(run: &AgentRun, now: &Time) -> Termination {
    let gone = observed(run, error_types::DISRUPTED, "the pod was deleted".into(), None, now);
    Termination { pod_vanished: run.may_have_started(), ..gone }
}

/// How long the containers of a closed run may still be running without its pod; `None` if they don't. A run that koco
/// let fail itself was closed by what was known of its pod then, which may have been deleted by force just before.
pub fn lingers(run: &AgentRun, grace: Duration, now: &Time) -> Option<Duration> {
    let by_koco =
        |t: &Termination| t.source == TerminationSource::Koco && t.kind == TerminationType::Failed && t.started;
    let closed = run.termination().filter(|t| t.pod_vanished || by_koco(t))?;
    let left = grace.saturating_add(LINGER).checked_sub(elapsed(&closed.time, now))?;
    (!left.is_zero()).then_some(left)
}

/// A run that koco closes because its job was cancelled or is gone.
pub fn given_up(run: &AgentRun, now: &Time) -> Termination {
    let cancelled = koco(run, error_types::CANCELLED, "the job ended before its runner reported an end".into(), now);
    Termination { kind: TerminationType::Cancelled, error: None, ..cancelled }
}

impl Termination {
    fn by_the_kubelet(self) -> Self {
        Self { source: TerminationSource::Kubelet, ..self }
    }
}

fn limited(error: &ErrorStatus) -> ErrorStatus {
    ErrorStatus { kind: cut_text(&error.kind, MAX_TYPE_BYTES), message: cut_text(&error.message, MAX_MESSAGE_BYTES) }
}

/// The time from the agent's start to now, human-readable; `None` without a grant.
fn duration(run: &AgentRun, now: &Time) -> Option<String> {
    Some(duration_text(elapsed(run.could_start()?, now)))
}

/// How long until koco ends a run because its runner has not ended the agent at a limit of its active time, of which
/// this is left at the run's begin; `None` before the start and under a pause. By koco's own record, not by the runner's.
pub fn time_left(run: &AgentRun, left: Duration, grace: Duration, now: &Time) -> Option<Duration> {
    run.could_start()?;
    if run.status.as_ref()?.paused_since.is_some() {
        return None;
    }
    Some(left.saturating_add(grace).saturating_add(UNENDED).saturating_sub(active(run, now)))
}

/// How long a run's agent has been active: as its end says, and until then by koco's own record of its pauses.
pub fn active(run: &AgentRun, now: &Time) -> Duration {
    match run.termination() {
        Some(end) => millis(end.active_millis),
        None => active_by_record(run, now),
    }
}

/// The same by koco's own record alone, up to a time.
fn active_by_record(run: &AgentRun, until: &Time) -> Duration {
    let (Some(since), Some(status)) = (run.could_start(), &run.status) else { return Duration::ZERO };
    elapsed(since, status.paused_since.as_ref().unwrap_or(until)).saturating_sub(millis(status.paused_millis))
}

/// What a run's agent has reported to have used.
pub fn usage(run: &AgentRun) -> Usage {
    let progress = run.status.as_ref().and_then(|status| status.progress.as_ref());
    AgentProgress::usage_of(progress).at_least(run.termination().map_or_else(Usage::default, |end| end.usage))
}

/// What the agents of a job have used up in this run, if it has ended, and in those before it. A runner's word for how long
/// its agent was active counts as far as koco's own record bears it out; without one that record counts.
pub fn spent(run: &AgentRun) -> Spent {
    let before = run.spec.identity.spent.unwrap_or_default();
    let Some(end) = run.termination() else { return before };
    let by_record = if end.started { active_by_record(run, &end.time) } else { Duration::ZERO };
    let active_millis = match end.source {
        TerminationSource::Runner => end.active_millis.max(whole_millis(by_record.saturating_sub(REPORT))),
        TerminationSource::Kubelet | TerminationSource::Koco => whole_millis(by_record),
    };
    before.plus(Spent { active_millis, usage: usage(run) })
}

/// The time from `since` to `now`; zero if that is in the future, as clocks differ.
pub fn elapsed(since: &Time, now: &Time) -> Duration {
    Duration::try_from(now.0.duration_since(since.0)).unwrap_or_default()
}

/// A duration as kubectl writes one: `42s`, `5m`, `5m3s`, `1h3m`, `2d4h`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    let two = |a: u64, unit_a: &str, b: u64, unit_b: &str| match b {
        0 => format!("{a}{unit_a}"),
        b => format!("{a}{unit_a}{b}{unit_b}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0..=1) => format!("{seconds}s"),
        (0, 0, _) => two(minutes, "m", seconds % 60, "s"),
        (0, ..) => two(hours, "h", minutes % 60, "m"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

#[cfg(test)]
#[path = "termination_tests.rs"]
mod tests;
