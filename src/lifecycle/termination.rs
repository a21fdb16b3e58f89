//! The record of a run's end, and what it means. All sources use it, so that the same limits apply to the runner's
//! report, to its termination message and to the kubelet's status.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Ended;
use crate::{
    api::{
        Acknowledged, AgentRun, DesiredState, ErrorStatus, RawJson, RunnerState, Termination, TerminationSource,
        TerminationType, depth,
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
    let non_retryable = ending.non_retryable && refuted.is_none();
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
    let unstarted = says(error_types::NOT_STARTED) || (!ending.started && !says(error_types::START_FAILED));
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

/// How long until koco ends a run because its runner has not ended the agent after `limit`, the job's
/// `timeouts.execution`; `None` before the start and under a pause. By koco's own record, not by the runner's.
pub fn time_left(run: &AgentRun, limit: Duration, grace: Duration, now: &Time) -> Option<Duration> {
    run.could_start()?;
    if run.status.as_ref()?.paused_since.is_some() {
        return None;
    }
    let active = active(run, now);
    let limit = limit.saturating_sub(millis(run.spec.identity.active_millis));
    Some(limit.saturating_add(grace).saturating_add(UNENDED).saturating_sub(active))
}

/// How long a run's agent has been active: as its end says, and until then by koco's own record of its pauses.
pub fn active(run: &AgentRun, now: &Time) -> Duration {
    if let Some(end) = run.termination() {
        return millis(end.active_millis);
    }
    let (Some(since), Some(status)) = (run.could_start(), &run.status) else { return Duration::ZERO };
    elapsed(since, status.paused_since.as_ref().unwrap_or(now)).saturating_sub(millis(status.paused_millis))
}

/// The reverse of [`whole_millis`]; less than none is none.
pub fn millis(n: i64) -> Duration {
    Duration::from_millis(u64::try_from(n).unwrap_or(0))
}

/// The time from `since` to `now`; zero if that is in the future, as clocks differ.
pub fn elapsed(since: &Time, now: &Time) -> Duration {
    Duration::try_from(now.0.duration_since(since.0)).unwrap_or_default()
}

/// A duration in milliseconds, as objects and workflows have it.
pub fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
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
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::api::RunCommand;

    fn run(policy: &str, command: Option<&str>) -> AgentRun {
        let time = "2026-01-01T00:00:00Z";
        let mut run = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
                "executionMode": "Direct", "heartbeat": "1s", "pausePolicy": policy },
                "grant": { "time": time, "binding": 0 } },
            "status": { "readyTime": "2026-01-01T00:00:10Z" },
        });
        if let Some(state) = command {
            run["spec"]["command"] = json!({ "state": state, "generation": 1, "time": time });
        }
        serde_json::from_value(run).unwrap()
    }

    fn ending(kind: TerminationType) -> AgentEnd {
        let error = Some(ErrorStatus { kind: "t".repeat(1000), message: "ü".repeat(5000) });
        AgentEnd {
            kind,
            started: true,
            error,
            non_retryable: false,
            exit_code: None,
            result: None,
            active_millis: -5,
            result_omitted: false,
        }
    }

    fn now() -> Time {
        Time("2026-01-01T01:00:15Z".parse::<Timestamp>().unwrap())
    }

    #[test]
    fn whatever_a_runner_says_is_cut_to_limits() {
        let run = run("Freeze", None);
        let said = claimed(&run, &ending(TerminationType::Failed), &now());
        let error = said.error.unwrap();
        assert_eq!((error.kind.len(), error.message.len(), said.active_millis), (128, 2048, 0));
        assert_eq!(said.duration.as_deref(), Some("1h"));
        let mut deep = ending(TerminationType::Succeeded);
        let nested = |levels: usize| serde_json::from_str(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        deep.result = Some(nested(MAX_RESULT_DEPTH).unwrap());
        assert!(claimed(&run, &deep, &now()).result.unwrap().get().starts_with("[["));
        deep.result = Some(nested(MAX_RESULT_DEPTH + 1).unwrap());
        assert!(claimed(&run, &deep, &now()).result.unwrap().get().contains("\"truncated\":true"));
    }

    #[test]
    fn an_eviction_needs_a_pause() {
        let kind = |policy, command| claimed(&run(policy, command), &ending(TerminationType::Evicted), &now()).kind;
        assert_eq!(kind("Evict", Some("Paused")), TerminationType::Evicted);
        assert_eq!(kind("Evict", Some("Running")), TerminationType::Failed, "it was created with that");
        let mut resumed = run("Evict", Some("Running"));
        resumed.spec.command.as_mut().unwrap().last_pause = Some(0);
        let said = claimed(&resumed, &ending(TerminationType::Evicted), &now());
        assert_eq!(said.kind, TerminationType::Evicted, "resumed while it was evicted");
        assert_eq!(kind("Evict", None), TerminationType::Failed);
        assert_eq!(kind("Freeze", Some("Paused")), TerminationType::Failed);
    }

    #[test]
    fn a_cancel_needs_a_command() {
        let kind = |command| claimed(&run("Freeze", command), &ending(TerminationType::Cancelled), &now());
        assert_eq!(kind(Some("Cancelled")).kind, TerminationType::Cancelled);
        for other in [None, Some("Running"), Some("Paused")] {
            let said = kind(other);
            assert_eq!((said.kind, said.error.unwrap().kind.as_str()), (TerminationType::Failed, "AgentFailed"));
        }
    }

    fn failing(kind: &str, started: bool) -> AgentEnd {
        let error = Some(ErrorStatus { kind: kind.into(), message: "m".into() });
        AgentEnd { error, started, active_millis: 7_000_000, ..ending(TerminationType::Failed) }
    }

    #[test]
    fn only_a_run_that_may_not_have_started_has_not() {
        let at = |time: &str| Time(time.parse::<Timestamp>().unwrap());
        let (soon, late) = (at("2026-01-01T00:00:20Z"), at("2026-01-01T00:02:00Z"));
        let kind = |run: &AgentRun, end: AgentEnd, now: &Time| {
            let said = claimed(run, &end, now);
            (said.error.unwrap().kind, said.started)
        };
        let (lost, not) = (("RunnerLost".to_string(), true), ("NotStarted".to_string(), false));
        let free = run("Freeze", None);
        assert_eq!(kind(&free, failing("NotStarted", false), &soon), not, "it could not be started");
        assert_eq!(kind(&free, failing("NotStarted", false), &late), lost);
        assert_eq!(kind(&free, failing("Disrupted", false), &late), lost);
        assert_eq!(kind(&free, failing("StartFailed", false), &late), ("StartFailed".to_string(), false));
        assert_eq!(kind(&free, AgentEnd { started: false, ..ending(TerminationType::Succeeded) }, &late), lost);
        // Held by a pause before its start, and resumed just now.
        let mut held = run("Freeze", Some("Paused"));
        held.status.as_mut().unwrap().acknowledged = serde_json::from_value(
            json!({ "binding": 0, "generation": 1, "state": "Waiting", "time": "2026-01-01T00:00:11Z" }),
        )
        .unwrap();
        assert_eq!(kind(&held, failing("NotStarted", false), &late), not);
        let resumed =
            RunCommand::after(held.spec.command.as_ref(), DesiredState::Running, 2, at("2026-01-01T00:01:50Z"));
        held.spec.command = Some(resumed);
        assert_eq!(kind(&held, failing("NotStarted", false), &late), not);
        assert_eq!(kind(&held, failing("NotStarted", false), &now()), lost);
        let mut waiting = run("Freeze", None);
        waiting.spec.grant = None;
        assert_eq!(kind(&waiting, failing("NotStarted", false), &now()), not);
    }

    #[test]
    fn a_runner_reports_no_type_that_koco_determines() {
        for kind in ["JobGone", "Cancelled", "Evicted", "PendingTimeout", "HeartbeatTimeout"] {
            assert_eq!(claimed(&run("Freeze", None), &failing(kind, true), &now()).error.unwrap().kind, "AgentFailed");
        }
        for kind in ["OOMKilled", "MyOwn"] {
            assert_eq!(claimed(&run("Freeze", None), &failing(kind, true), &now()).error.unwrap().kind, kind);
        }
    }

    #[test]
    fn an_agent_was_active_for_no_longer_than_its_run() {
        let run = run("Freeze", None);
        assert_eq!(claimed(&run, &failing("X", true), &now()).active_millis, 3_606_000);
        let mut unready = run;
        unready.status = None;
        assert_eq!(claimed(&unready, &failing("X", true), &now()).active_millis, 0);
    }

    #[test]
    fn an_agent_that_its_runner_does_not_end_is_ended_from_outside() {
        let (second, at) = (Duration::from_secs, |time: &str| Time(time.parse::<Timestamp>().unwrap()));
        let ready = at("2026-01-01T00:00:10Z");
        let left = |run: &AgentRun, now: &Time| time_left(run, second(600), second(30), now);
        let mut run = run("Freeze", Some("Running"));
        let whole = second(600 + 30) + UNENDED;
        assert_eq!(left(&run, &ready), Some(whole));
        assert_eq!(left(&run, &now()), Some(Duration::ZERO));
        // By a clock that is behind.
        assert_eq!(left(&run, &at("2025-12-31T00:00:00Z")), Some(whole));
        run.spec.identity.active_millis = 500_000;
        assert_eq!(left(&run, &ready), Some(whole - second(500)));
        run.spec.identity.active_millis = 0;
        run.status.as_mut().unwrap().paused_millis = 3_600_000;
        assert_eq!(left(&run, &now()), Some(whole - second(5)));
        run.status.as_mut().unwrap().paused_since = Some(ready.clone());
        assert_eq!(left(&run, &now()), None, "paused");
        run.spec.grant = None;
        assert_eq!(left(&run, &now()), None, "not started");
    }

    #[test]
    fn a_pod_that_vanished_is_given_its_grace_period() {
        let at = |time: &str| Time(time.parse::<Timestamp>().unwrap());
        let mut gone = run("Freeze", None);
        let left = |run: &AgentRun, time: &str| lingers(run, Duration::from_secs(20), &at(time)).map(|l| l.as_secs());
        assert_eq!(left(&gone, "2026-01-01T00:01:00Z"), None);
        gone.status.as_mut().unwrap().termination = Some(vanished(&gone, &at("2026-01-01T00:01:00Z")));
        assert_eq!(left(&gone, "2026-01-01T00:01:00Z"), Some(25));
        assert_eq!(left(&gone, "2026-01-01T00:01:24Z"), Some(1));
        assert_eq!(left(&gone, "2026-01-01T00:01:25Z"), None);
        let mut unready = run("Freeze", None);
        unready.status = None;
        assert!(!vanished(&unready, &now()).pod_vanished, "no agent can have started");
        let silent =
            |run: &AgentRun| koco(run, error_types::HEARTBEAT_TIMEOUT, "s".into(), &at("2026-01-01T00:01:00Z"));
        gone.status.as_mut().unwrap().termination = Some(silent(&gone));
        assert_eq!(left(&gone, "2026-01-01T00:01:24Z"), Some(1), "it may have been deleted by force just before");
        unready.status = Some(Default::default());
        unready.status.as_mut().unwrap().termination = Some(silent(&unready));
        assert_eq!(left(&unready, "2026-01-01T00:01:01Z"), None, "it has not started");
    }

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        let text = |s| duration_text(Duration::from_secs(s));
        assert_eq!([text(0), text(119), text(120), text(303), text(3780)], ["0s", "119s", "2m", "5m3s", "1h3m"]);
        assert_eq!([text(86_400), text(187_200)], ["1d", "2d4h"]);
    }

    #[test]
    fn a_tombstone_counts_as_a_disruption() {
        let mut gone = run("Freeze", None);
        (gone.spec.identity.tombstone, gone.spec.grant) = (true, None);
        assert!(matches!(end_of(&gone), Ended::Failed { error, .. } if error.kind == "Disrupted"));
    }
}
