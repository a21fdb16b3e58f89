//! The state machine of attempts, on [`Progress`]. Changing it changes what recorded workflow histories replay to: see
//! the header of the worker's workflow.

use std::time::Duration;

use crate::{
    api::{DisruptionPolicy, ErrorStatus, PausePolicy, ResolvedRetryPolicy, whole_millis},
    protocol::{
        error_types,
        workflow::{Progress, Step},
    },
};

/// The policies of the job's spec that decide on the next attempt.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// When and how often a failed agent is retried.
    pub retry: &'a ResolvedRetryPolicy,
    /// What a disruption does to an agent that had started.
    pub disruption: DisruptionPolicy,
    /// How a pause stops a running agent.
    pub pause: PausePolicy,
}

/// How a granted run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// With success.
    Succeeded,
    /// With an error.
    Failed {
        /// Its type and message.
        error: ErrorStatus,
        /// Whether no policy may start the agent again.
        non_retryable: bool,
    },
}

/// What follows from the end of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The job has succeeded.
    Succeed,
    /// The job has failed with this error.
    Fail(ErrorStatus),
    /// The job was cancelled.
    Cancel,
    /// Another run follows, after [`back_off_left`] and unless a pause is wanted.
    Continue,
}

/// How much of the back-off is left, given the time in milliseconds since 1970.
pub fn back_off_left(progress: &Progress, now_millis: i64) -> Option<Duration> {
    let left = u64::try_from(progress.retry_at?.saturating_sub(now_millis)).unwrap_or(0);
    (left > 0).then(|| Duration::from_millis(left))
}

/// Begins the next run.
pub fn begin(progress: &mut Progress) {
    (progress.run, progress.step) = (progress.run.saturating_add(1), Step::Creating);
    (progress.retry_at, progress.failed, progress.confirmed) = (None, None, None);
}

/// The attempt of the agent's next start: a new one, or the one that was evicted.
pub fn next_attempt(progress: &Progress) -> i32 {
    if progress.evicted { progress.attempt.max(1) } else { progress.attempt.saturating_add(1) }
}

/// Grants the start: this uses up an attempt, unless it continues an evicted one.
pub fn grant(progress: &mut Progress) {
    let attempt = next_attempt(progress);
    (progress.attempt, progress.resumed) = (attempt, progress.evicted);
    (progress.evicted, progress.step) = (false, Step::Granted);
}

/// A run ended before its agent started: no attempt is used up, another run follows after the back-off.
pub fn start_failed(progress: &mut Progress, policy: &Policy<'_>, error: ErrorStatus, now_millis: i64) {
    progress.start_failures = progress.start_failures.saturating_add(1);
    progress.error = Some(error);
    retry(progress, policy, progress.start_failures, now_millis);
}

/// What follows from the end of a granted run. `cancelled` is whether a cancel is wanted.
pub fn run_ended(progress: &mut Progress, policy: &Policy<'_>, ended: Ended, cancelled: bool, now_millis: i64) -> Next {
    let (error, non_retryable) = match ended {
        Ended::Succeeded => {
            progress.error = None;
            return Next::Succeed;
        }
        Ended::Failed { error, non_retryable } => (error, non_retryable),
    };
    if cancelled || error.kind == error_types::JOB_GONE {
        return Next::Cancel;
    }
    match error.kind.as_str() {
        error_types::NOT_STARTED => {
            if progress.resumed {
                progress.evicted = true;
            } else {
                progress.attempt -= 1;
            }
            start_failed(progress, policy, error, now_millis);
            Next::Continue
        }
        error_types::EVICTED if policy.pause.may_evict() => {
            (progress.step, progress.evicted, progress.start_failures) = (Step::NoRun, true, 0);
            progress.evictions = progress.evictions.saturating_add(1);
            if progress.evictions > 1 {
                retry(progress, policy, progress.evictions - 1, now_millis);
            }
            Next::Continue
        }
        // Ended by a pause or a cancel that this workflow has no record of, because it was reset: an ordinary failure,
        // whose non-retryable flag doesn't apply here.
        error_types::EVICTED | error_types::CANCELLED => failed(progress, policy, error, false, now_millis),
        error_types::DISRUPTED => match policy.disruption {
            DisruptionPolicy::Count => failed(progress, policy, error, non_retryable, now_millis),
            DisruptionPolicy::FailJob => failed(progress, policy, error, true, now_millis),
            DisruptionPolicy::Ignore => {
                progress.ignored_disruptions += 1;
                count(progress, error);
                retry(progress, policy, progress.failures, now_millis);
                Next::Continue
            }
        },
        _ => failed(progress, policy, error, non_retryable, now_millis),
    }
}

fn count(progress: &mut Progress, error: ErrorStatus) {
    (progress.failures, progress.start_failures, progress.evictions) = (progress.failures.saturating_add(1), 0, 0);
    progress.error = Some(error);
}

/// An attempt has failed: the job's retry policy decides.
fn failed(
    progress: &mut Progress,
    policy: &Policy<'_>,
    error: ErrorStatus,
    non_retryable: bool,
    now_millis: i64,
) -> Next {
    count(progress, error.clone());
    let (counted, maximum) = (progress.attempt - progress.ignored_disruptions, policy.retry.maximum_attempts);
    let used_up = maximum > 0 && counted >= maximum;
    if non_retryable || used_up || policy.retry.non_retryable_error_types.contains(&error.kind) {
        let of = if maximum > 0 { format!(" of {maximum}") } else { String::new() };
        let message = format!("attempt {counted}{of}: {}", error.message);
        return Next::Fail(ErrorStatus { kind: error.kind, message });
    }
    retry(progress, policy, progress.failures, now_millis);
    Next::Continue
}

fn retry(progress: &mut Progress, policy: &Policy<'_>, failures: i32, now_millis: i64) {
    let wait = whole_millis(policy.retry.back_off(failures));
    (progress.step, progress.retry_at) = (Step::NoRun, Some(now_millis.saturating_add(wait)));
}
