//! Direct mode: converts its record of the attempts, [`RetryStatus`], to and from the workflow's state machine.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::progress::{self, Next, Policy};
use crate::{
    api::{AgentRun, ErrorStatus, RetryStatus},
    protocol::workflow::Progress,
};

/// The attempt of the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// The attempt, from 1.
    pub attempt: i32,
    /// Whether it continues an evicted attempt.
    pub resumed: bool,
    /// How long the agent was active in earlier runs of that attempt, in milliseconds.
    pub active_millis: i64,
}

/// The attempt of the run that follows the state in `retry`.
pub fn upcoming(retry: &RetryStatus) -> Upcoming {
    let attempt = progress::next_attempt(&before(retry, 0));
    Upcoming { attempt, resumed: retry.resumed, active_millis: retry.active_millis }
}

/// What follows from the end of the newest run of a Direct job.
#[derive(Clone, Debug, PartialEq)]
pub struct AfterRun {
    /// The new record.
    pub retry: RetryStatus,
    /// What follows.
    pub next: Next,
    /// The error of the run, if it failed.
    pub error: Option<ErrorStatus>,
}

/// What follows from the end of `run`, a job's newest run, which is closed. `retry` is the job's record before it.
/// `started` is whether its agent may have started, which a tombstone doesn't show.
pub fn after_run(
    retry: &RetryStatus,
    run: &AgentRun,
    started: bool,
    policy: &Policy<'_>,
    cancelled: bool,
    now: &Time,
) -> AfterRun {
    let mut at = before(retry, run.number());
    progress::begin(&mut at);
    let now = now.0.as_millisecond();
    let ended = super::end_of(run);
    let next = if started {
        progress::grant(&mut at);
        progress::run_ended(&mut at, policy, ended, cancelled, now)
    } else {
        match ended {
            // An agent can't succeed before its start: such a report's result is not trusted.
            progress::Ended::Succeeded => {
                let message = format!("run {} was reported as succeeded before it had started", run.number());
                let kind = crate::protocol::error_types::RUNNER_LOST.into();
                progress::start_failed(&mut at, policy, ErrorStatus { kind, message }, now);
                if cancelled { Next::Cancel } else { Next::Continue }
            }
            progress::Ended::Failed { .. } if cancelled => Next::Cancel,
            progress::Ended::Failed { error, .. } => {
                progress::start_failed(&mut at, policy, error, now);
                Next::Continue
            }
        }
    };
    let active = run.termination().map_or(0, |t| t.active_millis);
    let started_anew = if at.evicted { retry.active_millis.saturating_add(active) } else { 0 };
    // A run that never started its agent keeps the attempt's active time.
    let active_millis = if at.start_failures > 0 && at.evicted { retry.active_millis } else { started_anew };
    let error = at.error.clone();
    AfterRun { retry: record(&at, active_millis), next, error }
}

fn before(retry: &RetryStatus, number: i32) -> Progress {
    Progress {
        run: number.saturating_sub(1).max(0),
        attempt: retry.attempts,
        ignored_disruptions: retry.ignored_disruptions,
        failures: retry.failures,
        start_failures: retry.start_failures,
        evicted: retry.resumed,
        evictions: retry.evictions,
        ..Progress::default()
    }
}

fn record(at: &Progress, active_millis: i64) -> RetryStatus {
    RetryStatus {
        attempts: at.attempt,
        failures: at.failures,
        start_failures: at.start_failures,
        evictions: at.evictions,
        ignored_disruptions: at.ignored_disruptions,
        retry_after: at.retry_at.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(up_to_a_second),
        resumed: at.evicted,
        active_millis,
    }
}

/// Kubernetes' times have whole seconds: rounded up, so that no back-off is shortened.
fn up_to_a_second(time: Timestamp) -> Time {
    let seconds = time.as_second() + i64::from(time.subsec_nanosecond() > 0);
    Time(Timestamp::from_second(seconds).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{DisruptionPolicy, PausePolicy, ResolvedRetryPolicy};

    fn run(number: i32, ready: bool, termination: serde_json::Value) -> AgentRun {
        let time = "2026-01-01T00:00:00Z";
        let mut run = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1, "podName": "p",
                "executionMode": "Direct", "heartbeat": "1s" }, "grant": { "time": time, "binding": 0 } },
            "status": { "termination": termination },
        });
        if ready {
            run["status"]["readyTime"] = json!(time);
        }
        serde_json::from_value(run).unwrap()
    }

    fn ended(kind: &str, error: &str) -> serde_json::Value {
        json!({ "type": kind, "source": "Runner", "time": "2026-01-01T00:00:00Z", "started": true, "activeMillis": 5,
            "error": { "type": error, "message": "m" } })
    }

    fn policy(
        disruption: DisruptionPolicy,
        pause: PausePolicy,
    ) -> (ResolvedRetryPolicy, DisruptionPolicy, PausePolicy) {
        let retry = json!({ "maximumAttempts": 3, "initialInterval": "10s", "backoffCoefficient": 2.0,
            "maximumInterval": "100s" });
        (serde_json::from_value(retry).unwrap(), disruption, pause)
    }

    fn after(
        retry: &RetryStatus,
        run: &AgentRun,
        of: &(ResolvedRetryPolicy, DisruptionPolicy, PausePolicy),
    ) -> AfterRun {
        let policy = Policy { retry: &of.0, disruption: of.1, pause: of.2 };
        after_run(retry, run, run.may_have_started(), &policy, false, &Time(Timestamp::from_second(1000).unwrap()))
    }

    #[test]
    fn three_failures_use_up_three_attempts() {
        let policy = policy(DisruptionPolicy::Count, PausePolicy::Freeze);
        let mut retry = RetryStatus::default();
        for number in 1..=2 {
            assert_eq!(upcoming(&retry).attempt, number);
            let after = after(&retry, &run(number, true, ended("Failed", "AgentFailed")), &policy);
            assert_eq!(after.next, Next::Continue);
            retry = after.retry;
        }
        assert_eq!((retry.attempts, retry.failures), (2, 2));
        assert_eq!(retry.retry_after, Some(Time(Timestamp::from_second(1020).unwrap())));
        let last = after(&retry, &run(3, true, ended("Failed", "AgentFailed")), &policy);
        assert!(matches!(last.next, Next::Fail(e) if e.message.starts_with("attempt 3 of 3")));
    }

    #[test]
    fn a_run_that_never_started_uses_up_nothing() {
        let policy = policy(DisruptionPolicy::Count, PausePolicy::Freeze);
        let after = after(&RetryStatus::default(), &run(1, false, ended("Failed", "NotStarted")), &policy);
        assert_eq!((after.next, after.retry.attempts, after.retry.start_failures), (Next::Continue, 0, 1));
        assert!(after.retry.retry_after.is_some(), "never without a back-off");
    }

    #[test]
    fn an_evicted_attempt_goes_on_and_keeps_its_time() {
        let evict = policy(DisruptionPolicy::Count, PausePolicy::Evict);
        let first = after(&RetryStatus::default(), &run(1, true, ended("Evicted", "Evicted")), &evict);
        assert_eq!(first.next, Next::Continue);
        assert_eq!(upcoming(&first.retry), Upcoming { attempt: 1, resumed: true, active_millis: 5 });
        let second = after(&first.retry, &run(2, true, ended("Evicted", "Evicted")), &evict);
        assert_eq!(upcoming(&second.retry), Upcoming { attempt: 1, resumed: true, active_millis: 10 });
        assert_eq!(
            (first.retry.retry_after.is_some(), second.retry.retry_after.is_some()),
            (false, true),
            "a back-off"
        );
        // A pod that never came up changes nothing of that.
        let third = after(&second.retry, &run(3, false, ended("Failed", "NotStarted")), &evict);
        assert_eq!(upcoming(&third.retry), Upcoming { attempt: 1, resumed: true, active_millis: 10 });
        let fourth = after(&third.retry, &run(4, true, ended("Failed", "AgentFailed")), &evict);
        assert_eq!(upcoming(&fourth.retry), Upcoming { attempt: 2, resumed: false, active_millis: 0 });
        assert_eq!(fourth.retry.evictions, 0);
    }

    #[test]
    fn an_unrequested_eviction_is_a_failure() {
        let freeze = policy(DisruptionPolicy::Count, PausePolicy::Freeze);
        let after = after(&RetryStatus::default(), &run(1, true, ended("Evicted", "Evicted")), &freeze);
        assert_eq!((after.next, after.retry.failures, after.retry.resumed), (Next::Continue, 1, false));
    }

    #[test]
    fn disruptions_follow_their_policy() {
        let disrupted = run(1, true, ended("Failed", "Disrupted"));
        let ignored =
            after(&RetryStatus::default(), &disrupted, &policy(DisruptionPolicy::Ignore, PausePolicy::Freeze));
        assert_eq!((ignored.next, ignored.retry.attempts, ignored.retry.ignored_disruptions), (Next::Continue, 1, 1));
        let failed =
            after(&RetryStatus::default(), &disrupted, &policy(DisruptionPolicy::FailJob, PausePolicy::Freeze));
        assert!(matches!(failed.next, Next::Fail(_)));
    }
}
