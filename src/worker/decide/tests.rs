use std::time::Duration;

use super::*;
use crate::{
    api::{DisruptionPolicy, JobRef, PausePolicy, ResolvedRetryPolicy, ResolvedTimeouts},
    protocol::{error_types, workflow::Shape},
};

const NOW: i64 = 1_000_000;

fn seconds(text: &str) -> crate::api::Seconds {
    text.parse().unwrap()
}

fn state(change: impl FnOnce(&mut Input)) -> State {
    let mut input = Input {
        job: JobRef::default(),
        retry_policy: ResolvedRetryPolicy {
            maximum_attempts: 3,
            initial_interval: seconds("1s"),
            backoff_coefficient: 2.0,
            maximum_interval: seconds("100s"),
            non_retryable_error_types: vec!["Fatal".into()],
        },
        timeouts: ResolvedTimeouts { heartbeat: seconds("2s"), execution: None, pending: seconds("10m") },
        disruption_policy: DisruptionPolicy::Count,
        pause_policy: PausePolicy::Freeze,
        grace_seconds: 1,
        shape: Shape::default(),
        progress: Progress::default(),
    };
    change(&mut input);
    State::new(input)
}

fn failure(kind: &str) -> ActivityEnd {
    ActivityEnd::Failed { error: error(kind), non_retryable: false, recorded: true }
}

fn error(kind: &str) -> ErrorStatus {
    ErrorStatus { kind: kind.into(), message: "why".into() }
}

/// Advances it until its agent may start.
fn run(s: &mut State) {
    lifecycle::begin(s.progress_mut());
    s.started_runner(s.progress().run);
    s.runner_ready(&RunnerReady { run: s.progress().run });
    assert_eq!(s.after_start(), AfterStart::Grant);
    lifecycle::grant(s.progress_mut());
}

fn request(id: &str, desired: DesiredState) -> Option<Request> {
    Some(Request { id: id.into(), desired })
}

#[test]
fn retries_until_the_attempts_are_used_up() {
    let mut s = state(|_| {});
    for attempt in 1..=2 {
        run(&mut s);
        assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
        assert_eq!((s.progress().attempt, s.stage()), (attempt, Stage::Retrying));
        assert_eq!(lifecycle::back_off_left(s.progress(), NOW), Some(Duration::from_secs(attempt as u64)));
        assert_eq!(lifecycle::back_off_left(s.progress(), NOW + 60_000), None);
    }
    run(&mut s);
    let message = "attempt 3 of 3: why".to_string();
    let end = End::Failed(ErrorStatus { kind: "AgentFailed".into(), message });
    assert_eq!(s.run_ended(failure("AgentFailed"), NOW), Some(end));
    assert_eq!(s.answer().error, Some(error("AgentFailed")));
}

#[test]
fn final_failures_are_not_retried() {
    let mut s = state(|_| {});
    run(&mut s);
    assert!(matches!(s.run_ended(failure("Fatal"), NOW), Some(End::Failed(_))));
    let mut s = state(|i| i.retry_policy.maximum_attempts = 0);
    run(&mut s);
    let said_last = ActivityEnd::Failed { error: error("Own"), non_retryable: true, recorded: true };
    let Some(End::Failed(e)) = s.run_ended(said_last, NOW) else { panic!("not final") };
    assert_eq!(e.message, "attempt 1: why");
}

#[test]
fn zero_is_no_limit() {
    let mut s = state(|i| i.retry_policy.maximum_attempts = 0);
    for _ in 0..1000 {
        run(&mut s);
        assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
    }
    assert_eq!(lifecycle::back_off_left(s.progress(), NOW), Some(Duration::from_secs(100)));
}

#[test]
fn back_off_never_overflows() {
    let mut policy = state(|_| {}).input.retry_policy;
    assert_eq!(policy.back_off(0), Duration::from_secs(1));
    assert_eq!(policy.back_off(4), Duration::from_secs(8));
    assert_eq!(policy.back_off(i32::MAX), Duration::from_secs(100));
    for odd in [f64::NAN, f64::INFINITY, -3.0, 0.0] {
        policy.backoff_coefficient = odd;
        assert!(policy.back_off(7) <= Duration::from_secs(100));
    }
}

#[test]
fn success_clears_the_error() {
    let mut s = state(|_| {});
    run(&mut s);
    s.run_ended(failure("AgentFailed"), NOW);
    run(&mut s);
    let result = AgentResult { result: Some(1.into()) };
    assert_eq!(s.run_ended(ActivityEnd::Succeeded(result.clone()), NOW), Some(End::Succeeded(result)));
    assert_eq!(s.answer().error, None);
}

#[test]
fn an_evicted_attempt_goes_on_with_its_number() {
    let mut s = state(|i| i.pause_policy = PausePolicy::Evict);
    run(&mut s);
    s.request(DesiredState::Paused, None);
    assert!(!s.is_paused(), "its agent may still run");
    assert_eq!(s.run_ended(failure(error_types::EVICTED), NOW), None);
    assert_eq!((s.stage(), s.is_paused(), lifecycle::back_off_left(s.progress(), NOW)), (Stage::Evicted, true, None));
    s.request(DesiredState::Running, None);
    lifecycle::begin(s.progress_mut());
    assert_eq!((lifecycle::next_attempt(s.progress()), s.progress().evicted), (1, true));
    s.started_runner(2);
    // Its pod ends before the grant: the same attempt again.
    let failed = RunnerFailed { run: 2, error: error("NotStarted"), fatal: false };
    assert_eq!(s.answer().ended_run, None);
    s.runner_failed(failed.clone());
    assert_eq!((s.after_start(), s.answer().ended_run), (AfterStart::Failed(failed), Some(2)));
    s.start_failed(error("NotStarted"), NOW);
    assert_eq!(s.answer().ended_run, Some(2));
    run(&mut s);
    assert_eq!(s.answer().ended_run, None, "that of the next run is not known, whatever the error of the one before");
    assert_eq!((s.progress().attempt, s.progress().run, s.progress().resumed), (1, 3, true));
    // It ends after the grant, and before its agent starts: still the same.
    assert_eq!(s.run_ended(failure(error_types::NOT_STARTED), NOW), None);
    run(&mut s);
    assert_eq!((s.progress().attempt, s.progress().resumed), (1, true));
    assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
    run(&mut s);
    assert_eq!((s.progress().attempt, s.progress().resumed), (2, false));
}

#[test]
fn an_agent_that_never_started_uses_up_nothing() {
    let mut s = state(|i| i.retry_policy.maximum_attempts = 1);
    for _ in 0..5 {
        run(&mut s);
        assert_eq!(s.run_ended(failure(error_types::NOT_STARTED), NOW), None);
        assert_eq!(s.progress().attempt, 0);
    }
    assert_eq!(lifecycle::back_off_left(s.progress(), NOW), Some(Duration::from_secs(16)));
    run(&mut s);
    assert!(matches!(s.run_ended(failure("AgentFailed"), NOW), Some(End::Failed(_))));
}

#[test]
fn what_a_disruption_does_is_the_jobs_policy() {
    let ended = |policy, max| {
        let mut s = state(|i| (i.disruption_policy, i.retry_policy.maximum_attempts) = (policy, max));
        run(&mut s);
        (s.run_ended(failure(error_types::DISRUPTED), NOW), s)
    };
    assert_eq!(ended(DisruptionPolicy::Count, 2).0, None);
    assert!(matches!(ended(DisruptionPolicy::Count, 1).0, Some(End::Failed(_))));
    assert!(matches!(ended(DisruptionPolicy::FailJob, 9).0, Some(End::Failed(_))));
    let (end, mut s) = ended(DisruptionPolicy::Ignore, 1);
    assert_eq!((end, s.progress().ignored_disruptions), (None, 1));
    run(&mut s);
    assert_eq!(s.progress().attempt, 2, "attempt numbers go up");
    let Some(End::Failed(e)) = s.run_ended(failure("AgentFailed"), NOW) else { panic!("not counted") };
    assert_eq!(e.message, "attempt 1 of 1: why");
}

#[test]
fn after_a_cancel_only_success_wins() {
    for kind in ["AgentFailed", error_types::CANCELLED, error_types::EVICTED, error_types::NOT_STARTED, "Fatal"] {
        let mut s = state(|_| {});
        run(&mut s);
        s.request(DesiredState::Cancelled, None);
        assert_eq!(s.run_ended(failure(kind), NOW), Some(End::Cancelled), "{kind}");
    }
    let mut s = state(|_| {});
    run(&mut s);
    s.request(DesiredState::Cancelled, None);
    assert!(matches!(s.run_ended(ActivityEnd::Succeeded(AgentResult::default()), NOW), Some(End::Succeeded(_))));
}

#[test]
fn an_unrequested_cancel_is_a_failure_like_others() {
    let mut s = state(|_| {});
    run(&mut s);
    let end = ActivityEnd::Failed { error: error(error_types::CANCELLED), non_retryable: true, recorded: true };
    assert_eq!(s.run_ended(end, NOW), None);
    run(&mut s);
    assert_eq!(s.run_ended(failure(error_types::JOB_GONE), NOW), Some(End::Cancelled));
}

#[test]
fn requests_are_taken_once_and_cancel_is_final() {
    let mut s = state(|_| {});
    s.request(DesiredState::Paused, request("a", DesiredState::Paused));
    s.request(DesiredState::Running, None);
    s.request(DesiredState::Paused, request("a", DesiredState::Paused));
    assert_eq!((s.progress().desired, s.progress().generation), (DesiredState::Running, 2));
    s.request(DesiredState::Running, request("b", DesiredState::Running));
    assert_eq!((s.progress().generation, s.progress().last_request.clone()), (2, request("b", DesiredState::Running)));
    s.request(DesiredState::Cancelled, None);
    s.request(DesiredState::Running, request("c", DesiredState::Running));
    assert_eq!((s.progress().desired, s.progress().generation), (DesiredState::Cancelled, 3));
    s.request(DesiredState::Running, request(&"x".repeat(9999), DesiredState::Running));
    assert_eq!(s.progress().last_request, request("c", DesiredState::Running));
}

#[test]
fn paused_is_said_only_when_confirmed() {
    let mut s = state(|_| {});
    assert!(!s.is_paused());
    s.request(DesiredState::Paused, None);
    assert_eq!((s.is_paused(), s.stage()), (true, Stage::Held));
    s.request(DesiredState::Running, None);
    run(&mut s);
    s.request(DesiredState::Paused, None);
    let generation = s.progress().generation;
    assert_eq!(s.command(), Some((DesiredState::Paused, generation)));
    let confirm = |run, generation, state| RunnerConfirmed { run, generation, state };
    s.runner_confirmed(&confirm(1, generation - 1, RunnerState::Frozen));
    assert!(!s.is_paused(), "an older command");
    s.runner_confirmed(&confirm(7, generation, RunnerState::Frozen));
    assert!(!s.is_paused(), "another run");
    s.runner_confirmed(&confirm(1, generation, RunnerState::Running));
    assert!(!s.is_paused(), "not frozen");
    s.runner_confirmed(&confirm(1, generation, RunnerState::Waiting));
    assert!(s.is_paused(), "the pause came before the grant");
    s.runner_confirmed(&confirm(1, generation, RunnerState::Frozen));
    assert_eq!((s.is_paused(), s.stage()), (true, Stage::Running));
    s.runner_confirmed(&confirm(1, generation - 1, RunnerState::Running));
    assert!(s.is_paused(), "a late answer");
    s.delivered(generation, generation);
    assert_eq!(s.command(), None);
}

#[test]
fn a_run_that_is_further_gets_the_command_under_its_next_number() {
    let mut s = state(|_| {});
    run(&mut s);
    s.request(DesiredState::Paused, None);
    s.delivered(1, 8);
    assert_eq!(s.command(), Some((DesiredState::Paused, 8)));
    s.delivered(8, 8);
    assert_eq!(s.command(), None);
}

#[test]
fn signals_of_other_epochs_are_ignored() {
    let mut s = state(|_| {});
    s.runner_ready(&RunnerReady { run: 2 });
    s.runner_failed(RunnerFailed { run: 1, error: error("x"), fatal: true });
    assert_eq!((s.progress().ready, &s.progress().failed), (0, &None), "nothing is started");
    lifecycle::begin(s.progress_mut());
    // The AgentRuns were ahead, and the runner is faster than the result of start_runner.
    s.runner_ready(&RunnerReady { run: 5 });
    s.started_runner(5);
    s.runner_ready(&RunnerReady { run: 4 });
    s.runner_failed(RunnerFailed { run: 4, error: error("x"), fatal: true });
    assert_eq!(s.after_start(), AfterStart::Grant);
    s.request(DesiredState::Paused, None);
    assert_eq!(s.after_start(), AfterStart::Wait, "held before the grant");
}

#[test]
fn commands_wait_for_a_runner() {
    let mut s = state(|_| {});
    s.request(DesiredState::Paused, None);
    assert_eq!(s.command(), None);
    s.request(DesiredState::Running, None);
    lifecycle::begin(s.progress_mut());
    assert_eq!(s.command(), Some((DesiredState::Running, 2)));
}

#[test]
fn a_request_that_was_on_its_way_for_long_changes_nothing() {
    let request = |id: &str, desired| Some(Request { id: id.into(), desired });
    let mut s = state(|_| {});
    s.request(DesiredState::Running, request("6", DesiredState::Running));
    s.request(DesiredState::Paused, request("5/abc", DesiredState::Paused));
    assert_eq!(
        (s.progress().desired, s.progress().last_request.as_ref().map(|r| r.id.as_str())),
        (DesiredState::Running, Some("6"))
    );
    s.request(DesiredState::Paused, request("10", DesiredState::Paused));
    s.request(DesiredState::Running, request("somebody else's", DesiredState::Running));
    s.request(DesiredState::Cancelled, request("deleted", DesiredState::Cancelled));
    assert_eq!(s.progress().desired, DesiredState::Cancelled);
}

#[test]
fn only_an_outcome_that_is_on_record_needs_no_cleanup() {
    let ended = |kind: &str, recorded| {
        let mut s = state(|i| i.retry_policy.maximum_attempts = 1);
        run(&mut s);
        let end = ActivityEnd::Failed { error: error(kind), non_retryable: true, recorded };
        let end = s.run_ended(end, NOW).unwrap();
        s.needs_cleanup(&end)
    };
    assert!(!ended("AgentFailed", true) && !ended("Own", true) && !ended(error_types::EXECUTION_TIMEOUT, true));
    assert!(ended("AgentFailed", false), "failed by hand");
    for lost in LOST {
        assert!(ended(lost, true), "{lost}");
    }
    let mut s = state(|_| {});
    assert!(s.needs_cleanup(&End::Cancelled), "nothing was begun, or by a worker that is lost");
    run(&mut s);
    assert!(s.needs_cleanup(&End::Cancelled));
    let end = s.run_ended(ActivityEnd::Succeeded(AgentResult::default()), NOW).unwrap();
    assert!(!s.needs_cleanup(&end));
    // The one after a failure never came up.
    let mut s = state(|_| {});
    run(&mut s);
    assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
    s.begin();
    s.started_runner(2);
    s.pending_timed_out(error(error_types::PENDING_TIMEOUT));
    assert!(s.needs_cleanup(&End::Failed(error(error_types::PENDING_TIMEOUT))));
}

#[test]
fn only_the_first_start_is_tried_within_the_task() {
    let mut s = state(|_| {});
    assert!(!s.starts_locally());
    s.begin();
    assert!(s.starts_locally());
    let continued = State::new(s.input.clone());
    assert!(!continued.starts_locally(), "the execution before may have tried it");
    run(&mut s);
    assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
    s.begin();
    assert!(!s.starts_locally());
}

/// A worker created the run and died before its task was done: to the server nothing was begun.
#[test]
fn a_runner_may_be_ready_before_its_run_is_begun() {
    let mut s = state(|_| {});
    s.runner_ready(&RunnerReady { run: 1 });
    s.begin();
    s.started_runner(1);
    assert_eq!(s.after_start(), AfterStart::Grant);
    lifecycle::grant(s.progress_mut());
    assert_eq!(s.run_ended(failure("AgentFailed"), NOW), None);
    s.runner_ready(&RunnerReady { run: 2 });
    assert_eq!(s.progress().ready, 1, "only of the first");
}
