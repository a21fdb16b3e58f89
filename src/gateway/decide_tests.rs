//! Tests of [`super`].

use serde_json::json;

use super::*;
use crate::{
    api::{ExecutionMode, OutcomeKind},
    gateway::fixtures::{self, permit, sender},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn heard(state: RunnerState, second: i64) -> Contact<'static> {
    Contact { epoch: 2, state, now: at(second), gateway: None }
}

fn status() -> AgentJobStatus {
    fixtures::job().status.unwrap()
}

fn hello_of(state: RunnerState, seq: i64) -> Hello {
    Hello { sender: sender(2), state, seq }
}

fn confirm_of(state: RunnerState, seq: i64, problem: Option<&str>) -> Confirm {
    Confirm { sender: sender(2), state, seq, problem: problem.map(Into::into) }
}

fn report(kind: OutcomeKind) -> Report {
    let ending = Ending {
        kind,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: Some(0),
        result: None,
        active_millis: 5,
        result_omitted: false,
    };
    Report { sender: sender(2), seq: 0, ending }
}

#[test]
fn a_first_hello_makes_the_runner_ready_and_a_repeat_writes_nothing() {
    let mut status = status();
    let of = Contact { gateway: Some("g"), ..heard(RunnerState::Waiting, 10) };
    hello(&mut status, &hello_of(RunnerState::Waiting, 0), &of);
    let runner = status.runner.clone().unwrap();
    assert_eq!((runner.epoch, runner.ready_time.0, runner.started_time, runner.answered), (2, at(10), None, None));
    assert_eq!(runner.gateway.as_deref(), Some("g"));
    let once = status.clone();
    let of = Contact { gateway: Some("g"), ..heard(RunnerState::Waiting, 20) };
    hello(&mut status, &hello_of(RunnerState::Waiting, 0), &of);
    assert_eq!(status, once);
}

#[test]
fn the_next_epoch_begins_anew() {
    let mut status = status();
    hello(&mut status, &hello_of(RunnerState::Running, 3), &heard(RunnerState::Running, 10));
    status.claim.as_mut().unwrap().epoch = 3;
    let next = Hello { sender: sender(3), state: RunnerState::Waiting, seq: 0 };
    hello(&mut status, &next, &Contact { epoch: 3, ..heard(RunnerState::Waiting, 20) });
    let runner = status.runner.unwrap();
    assert_eq!((runner.epoch, runner.ready_time.0, runner.started_time), (3, at(20), None));
    let confirmed = status.control.unwrap().confirmed.unwrap();
    assert_eq!((confirmed.epoch, confirmed.seq, confirmed.state), (3, 0, RunnerState::Waiting));
}

#[test]
fn each_offer_is_answered_once_and_a_quiet_heartbeat_writes_nothing() {
    let mut status = status();
    contact(&mut status, &heard(RunnerState::Waiting, 10));
    assert_eq!(status.runner.as_ref().unwrap().answered, None);
    for offer in [0, 1, 7] {
        status.claim.as_mut().unwrap().permit = Some(permit(offer));
        contact(&mut status, &heard(RunnerState::Running, 20));
        assert_eq!(status.runner.as_ref().unwrap().answered, Some(offer));
        let once = status.clone();
        contact(&mut status, &heard(RunnerState::Running, 30));
        assert_eq!(status, once);
    }
    assert_eq!(status.runner.unwrap().started_time, Some(Time(at(20))), "and the start is kept");
}

#[test]
fn a_contact_ends_a_silence() {
    let mut status = status();
    contact(&mut status, &heard(RunnerState::Running, 10));
    status.runner.as_mut().unwrap().silent_since = Some(Time(at(15)));
    contact(&mut status, &heard(RunnerState::Running, 20));
    assert_eq!(status.runner.unwrap().silent_since, None);
}

#[test]
fn confirmations_only_go_forward() {
    let mut status = status();
    let now = |status: &AgentJobStatus| {
        let c = status.control.clone().unwrap().confirmed.unwrap();
        (c.state, c.seq, c.time.0)
    };
    confirm(&mut status, &confirm_of(RunnerState::Running, 0, None), &heard(RunnerState::Running, 1));
    confirm(&mut status, &confirm_of(RunnerState::Frozen, 2, None), &heard(RunnerState::Frozen, 2));
    confirm(&mut status, &confirm_of(RunnerState::Running, 1, None), &heard(RunnerState::Running, 3));
    assert_eq!(now(&status), (RunnerState::Frozen, 2, at(2)), "older");
    confirm(&mut status, &confirm_of(RunnerState::Frozen, 2, None), &heard(RunnerState::Frozen, 4));
    assert_eq!(now(&status), (RunnerState::Frozen, 2, at(2)), "the same");
    hello(&mut status, &hello_of(RunnerState::Running, 2), &heard(RunnerState::Running, 5));
    assert_eq!(now(&status), (RunnerState::Frozen, 2, at(2)), "a hello that was overtaken");
    confirm(&mut status, &confirm_of(RunnerState::Stopping, 2, None), &heard(RunnerState::Stopping, 6));
    assert_eq!(now(&status), (RunnerState::Stopping, 2, at(6)), "another state under the same command");
    hello(&mut status, &hello_of(RunnerState::Running, 3), &heard(RunnerState::Running, 7));
    assert_eq!(now(&status), (RunnerState::Running, 3, at(7)), "a hello whose confirmation was lost");
}

#[test]
fn a_problem_is_kept_whole_characters_and_short() {
    let mut status = status();
    let long = "ä".repeat(MAX_MESSAGE_BYTES);
    confirm(&mut status, &confirm_of(RunnerState::Running, 1, Some(&long)), &heard(RunnerState::Running, 1));
    let problem = status.control.unwrap().confirmed.unwrap().problem.unwrap();
    assert_eq!(problem.len(), MAX_MESSAGE_BYTES);
    assert_eq!(cut("aä", 2), "a");
}

#[test]
fn an_outcome_confirms_the_command_that_it_follows() {
    let mut status = AgentJobStatus::default();
    confirm(&mut status, &confirm_of(RunnerState::Frozen, 3, None), &heard(RunnerState::Frozen, 8));
    let frozen = status.control.clone();
    outcome(&mut status, &Report { seq: 3, ..report(OutcomeKind::Failed) }, at(9)).unwrap();
    assert_eq!(status.control, frozen, "it ended under the command that was confirmed");
    status.outcome = None;
    outcome(&mut status, &Report { seq: 4, ..report(OutcomeKind::Cancelled) }, at(9)).unwrap();
    let confirmed = status.control.unwrap().confirmed.unwrap();
    assert_eq!((confirmed.seq, confirmed.state), (4, RunnerState::Stopping));
}

#[test]
fn the_first_outcome_is_believed() {
    let mut status = status();
    contact(&mut status, &heard(RunnerState::Waiting, 1));
    outcome(&mut status, &report(OutcomeKind::Succeeded), at(9)).unwrap();
    let once = status.clone();
    assert_eq!(status.runner.as_ref().unwrap().started_time, Some(Time(at(9))));
    outcome(&mut status, &report(OutcomeKind::Succeeded), at(10)).unwrap();
    assert_eq!(status, once);
    assert_eq!(outcome(&mut status, &report(OutcomeKind::Failed), at(11)), Err(Refusal::OtherOutcome));
    status.outcome.as_mut().unwrap().epoch = 1;
    outcome(&mut status, &report(OutcomeKind::Failed), at(12)).unwrap();
    assert_eq!(status.outcome.as_ref().map(|o| (o.epoch, o.kind)), Some((2, OutcomeKind::Failed)), "of this epoch");
}

#[test]
fn what_is_recorded_is_cut_whatever_the_runner_says() {
    let mut status = status();
    let mut big = report(OutcomeKind::Failed);
    big.ending.result = Some(json!({ "text": "x".repeat(MAX_RESULT_BYTES) }));
    big.ending.error = Some(ErrorStatus { kind: "T".repeat(1000), message: "m".repeat(100_000) });
    big.ending.active_millis = -5;
    outcome(&mut status, &big, at(1)).unwrap();
    let outcome = status.outcome.unwrap();
    let result = outcome.result.unwrap();
    assert_eq!((&result["truncated"], &result["size"]), (&json!(true), &json!(MAX_RESULT_BYTES + 11)));
    assert_eq!(result["digest"].as_str().unwrap().len(), 7 + 64);
    assert_eq!(outcome.active_millis, 0);
    let error = outcome.error.unwrap();
    assert_eq!((error.kind.len(), error.message.len()), (MAX_TYPE_BYTES, MAX_MESSAGE_BYTES));
}

#[test]
fn a_result_at_the_limit_is_kept() {
    let fits = json!("x".repeat(MAX_RESULT_BYTES - 2));
    assert_eq!(cut_result(&fits, MAX_RESULT_BYTES), fits);
    assert_ne!(cut_result(&json!("x".repeat(MAX_RESULT_BYTES - 1)), MAX_RESULT_BYTES), fits);
}

#[test]
fn a_runner_gets_its_job_and_what_is_left_of_its_time() {
    let mut with = fixtures::job();
    let told = job(&with).unwrap();
    assert_eq!((told.fid.as_str(), told.attempt, told.grace_seconds), ("f", 1, 7));
    assert_eq!(told.inputs["topic"], "octopuses");
    assert_eq!((told.heartbeat_interval_millis, told.execution_limit_millis), (30_000, Some(6000)));
    fixtures::claim(&mut with).active_millis = 60_000;
    let timeouts = &mut with.status.as_mut().unwrap().resolved.as_mut().unwrap().timeouts;
    timeouts.heartbeat = "100ms".parse().unwrap();
    let told = job(&with).unwrap();
    assert_eq!((told.heartbeat_interval_millis, told.execution_limit_millis), (250, Some(1)));
    with.status.as_mut().unwrap().resolved = None;
    assert_eq!(job(&with), Err(Refusal::NotClaimed));
}

#[test]
fn the_mode_is_what_was_resolved() {
    let mut status = status();
    assert!(is_direct(&status) && !is_temporal(&status));
    status.resolved.as_mut().unwrap().execution_mode = ExecutionMode::Temporal;
    assert!(!is_direct(&status) && is_temporal(&status));
    status.resolved = None;
    assert!(!is_direct(&status) && !is_temporal(&status));
}
