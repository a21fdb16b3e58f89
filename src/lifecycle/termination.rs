//! The record of a run's end, and what it means. All sources use it, so that the same limits apply to the runner's
//! report, to its termination message and to the kubelet's status.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Ended;
use crate::{
    api::{AgentRun, ErrorStatus, PausePolicy, RawJson, Termination, TerminationSource, TerminationType, depth},
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

/// An end as the runner reported it, cut to the limits. The source is [`TerminationSource::Runner`] also for a
/// termination message, which the container wrote.
pub fn claimed(run: &AgentRun, ending: &AgentEnd, now: &Time) -> Termination {
    let mut kind = ending.kind;
    let mut error = ending.error.as_ref().map(limited);
    // Only a run under `pausePolicy: Evict` that was commanded can have evicted its agent.
    let may_evict = run.spec.identity.pause_policy == PausePolicy::Evict && run.spec.command.is_some();
    if kind == TerminationType::Evicted && !may_evict {
        kind = TerminationType::Failed;
        let message = "the runner reported an eviction by a pause that was never requested".into();
        error = Some(ErrorStatus { kind: error_types::AGENT_FAILED.into(), message });
    }
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
        started: ending.started,
        error,
        non_retryable: ending.non_retryable,
        exit_code: ending.exit_code,
        result,
        active_millis: ending.active_millis.max(0),
        duration: duration(run, now),
    }
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
        duration: duration(run, now),
    }
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
    let granted = run.spec.grant.as_ref()?;
    let started = run.status.as_ref()?.ready_time.as_ref()?.max(&granted.time);
    Some(duration_text(elapsed(started, now)))
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
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

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
        assert_eq!(kind("Evict", Some("Running")), TerminationType::Evicted, "resumed while it was evicted");
        assert_eq!(kind("Evict", None), TerminationType::Failed);
        assert_eq!(kind("Freeze", Some("Paused")), TerminationType::Failed);
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
