//! Tests of [`super`].

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::{
    api::{DesiredState, RunCommand, TerminationSource, TerminationType, Usage},
    gateway::{
        fixtures::{self, command, fresh_run, grant, key, pod, run},
        requests::Admitted,
    },
    protocol::runner::{AgentEnd, Progress},
};

/// Its runner as it registers.
fn runner() -> Admitted {
    Admitted { run: fresh_run().into(), key: key(1), pod: Some(pod()) }
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn heard(state: RunnerState, generation: i64, second: i64) -> Heard {
    Heard { generation, state, problem: None, time: at(second) }
}

fn report(kind: TerminationType) -> EndReport {
    let ending = AgentEnd {
        kind,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: Some(0),
        result: None,
        active_millis: 5,
        usage: Usage::default(),
        result_omitted: false,
    };
    EndReport { generation: 0, end: ending, progress: None, events: None, events_missing: None }
}

/// A granted run with this many commands.
fn commanded(generation: i64) -> AgentRun {
    let mut run = run();
    run.spec.grant = Some(grant(0));
    run.spec.command = Some(command(generation));
    run
}

fn status(run: &AgentRun) -> AgentRunStatus {
    run.status.clone().unwrap_or_default()
}

fn seen(status: &AgentRunStatus) -> (RunnerState, i64, Time) {
    let acknowledged = status.acknowledged.clone().unwrap();
    (acknowledged.state, acknowledged.generation, acknowledged.time)
}

#[test]
fn missing_events_are_recorded_with_the_end() {
    let recorded = |events_missing| {
        let mut status = run().status.unwrap();
        end(&run(), &mut status, &EndReport { events_missing, ..report(TerminationType::Failed) }, &at(9));
        status.termination.unwrap().events_missing
    };
    assert_eq!([None, Some(0), Some(7)].map(recorded), [None, None, Some(7)]);
    assert_eq!(recorded(Some(u64::MAX)), Some(i64::MAX));
}

#[test]
fn a_first_registration_records_the_runner_and_a_repeat_writes_nothing() {
    let run = fresh_run();
    let mut status = status(&run);
    register(&run, &mut status, &runner(), &heard(RunnerState::Waiting, 0, 10), Some("g"));
    assert_eq!((status.pod_uid.as_deref(), &status.ready_time), (Some("p"), &Some(at(10))));
    assert_eq!(status.public_key, Some(key(1).to_string()));
    assert_eq!(status.gateway.as_deref(), Some("g"));
    let acknowledged = status.acknowledged.clone().unwrap();
    assert_eq!((acknowledged.binding, acknowledged.generation, acknowledged.state), (-1, 0, RunnerState::Waiting));
    let once = status.clone();
    register(&run, &mut status, &runner(), &heard(RunnerState::Waiting, 0, 20), Some("g"));
    assert_eq!(status, once);
    register(&run, &mut status, &runner(), &heard(RunnerState::Waiting, 0, 30), Some("h"));
    let another = Admitted { key: key(2), ..runner() };
    register(&run, &mut status, &another, &heard(RunnerState::Waiting, 0, 30), Some("h"));
    assert_eq!(status.public_key, once.public_key, "a key is never replaced");
    assert_eq!(status.gateway.as_deref(), Some("h"), "but it says that it talks to another gateway now");
}

#[test]
fn registering_acknowledges_the_grant_and_no_command_that_was_never_given() {
    let run = commanded(2);
    let mut status = AgentRunStatus::default();
    register(&run, &mut status, &runner(), &heard(RunnerState::Running, 9, 10), None);
    let acknowledged = status.acknowledged.unwrap();
    assert_eq!((acknowledged.binding, acknowledged.generation), (0, 2));
}

#[test]
fn a_new_binding_is_acknowledged_once_and_a_quiet_heartbeat_writes_nothing() {
    let mut run = run();
    let mut status = status(&run);
    let quiet = status.clone();
    contact(&run, &mut status);
    assert_eq!(status, quiet);
    run.spec.grant = Some(grant(0));
    contact(&run, &mut status);
    assert_eq!(status, quiet, "the first one asks for no answer");
    for binding in [1, 7] {
        run.spec.grant = Some(grant(binding));
        contact(&run, &mut status);
        assert_eq!(status.acknowledged.as_ref().unwrap().binding, binding);
        let once = status.clone();
        contact(&run, &mut status);
        assert_eq!(status, once);
    }
}

#[test]
fn a_contact_ends_a_silence() {
    let mut status = status(&run());
    status.unresponsive_since = Some(at(15));
    contact(&run(), &mut status);
    assert_eq!(status.unresponsive_since, None);
}

#[test]
fn a_plain_start_writes_nothing() {
    let mut granted = run();
    granted.spec.grant = Some(grant(0));
    let mut status = status(&granted);
    let before = status.clone();
    confirm(&granted, &mut status, &heard(RunnerState::Running, 0, 10));
    assert_eq!(status, before);
    register(&granted, &mut status, &runner(), &heard(RunnerState::Running, 0, 10), None);
    assert_eq!(status, before, "also when it comes back to a gateway");
    let problem = Heard { problem: Some("CannotPause".into()), ..heard(RunnerState::Running, 0, 11) };
    confirm(&granted, &mut status, &problem);
    assert_ne!(status, before, "a problem is news");
    let commanded = commanded(1);
    let mut status = before.clone();
    confirm(&commanded, &mut status, &heard(RunnerState::Running, 1, 12));
    assert_eq!(seen(&status), (RunnerState::Running, 1, at(12)), "a command that was carried out, too");
}

#[test]
fn confirmations_only_go_forward() {
    let run = commanded(3);
    let mut status = status(&run);
    confirm(&run, &mut status, &heard(RunnerState::Frozen, 2, 2));
    confirm(&run, &mut status, &heard(RunnerState::Running, 1, 3));
    assert_eq!(seen(&status), (RunnerState::Frozen, 2, at(2)), "older");
    confirm(&run, &mut status, &heard(RunnerState::Frozen, 2, 4));
    assert_eq!(seen(&status), (RunnerState::Frozen, 2, at(2)), "the same");
    register(&run, &mut status, &runner(), &heard(RunnerState::Running, 2, 5), None);
    assert_eq!(seen(&status), (RunnerState::Frozen, 2, at(2)), "a registration that was overtaken");
    confirm(&run, &mut status, &heard(RunnerState::Stopping, 2, 6));
    assert_eq!(seen(&status), (RunnerState::Stopping, 2, at(6)), "another state under the same command");
    register(&run, &mut status, &runner(), &heard(RunnerState::Running, 3, 7), None);
    assert_eq!(seen(&status), (RunnerState::Running, 3, at(7)), "a registration whose confirmation was lost");
}

#[test]
fn a_command_that_was_never_given_is_not_confirmed() {
    let run = commanded(3);
    assert_eq!(was_commanded(&run, 3), Ok(()));
    assert_eq!(was_commanded(&run, 4), Err(Refusal::UnknownCommand));
    assert_eq!(was_commanded(&fixtures::run(), 1), Err(Refusal::UnknownCommand));
    let mut status = status(&run);
    confirm(&run, &mut status, &heard(RunnerState::Frozen, i64::MAX, 2));
    assert_eq!(seen(&status).1, 3, "and never written");
    confirm(&run, &mut status, &heard(RunnerState::Frozen, -5, 2));
    assert_eq!(seen(&status).1, 3);
}

#[test]
fn a_problem_is_kept_whole_characters_and_short() {
    let problem = cut(&"ä".repeat(MAX_MESSAGE_BYTES));
    assert_eq!(problem.len(), MAX_MESSAGE_BYTES);
    let odd = cut(&format!("a{}", "ä".repeat(MAX_MESSAGE_BYTES)));
    assert_eq!(odd.len(), MAX_MESSAGE_BYTES - 1);
}

#[test]
fn an_end_acknowledges_the_command_that_it_follows() {
    let run = commanded(4);
    let mut frozen = status(&run);
    confirm(&run, &mut frozen, &heard(RunnerState::Frozen, 3, 8));
    let mut ended = frozen.clone();
    end(&run, &mut ended, &EndReport { generation: 3, ..report(TerminationType::Failed) }, &at(9));
    assert_eq!(ended.acknowledged, frozen.acknowledged, "it ended under the command that was confirmed");
    let mut cancelled = frozen.clone();
    end(&run, &mut cancelled, &EndReport { generation: 4, ..report(TerminationType::Cancelled) }, &at(9));
    assert_eq!(seen(&cancelled), (RunnerState::Stopping, 4, at(9)));
    let mut forged = frozen;
    end(&run, &mut forged, &EndReport { generation: 99, ..report(TerminationType::Cancelled) }, &at(9));
    assert_eq!(seen(&forged).1, 4);
}

#[test]
fn the_first_end_is_believed() {
    let mut run = commanded(1);
    let mut status = status(&run);
    end(&run, &mut status, &report(TerminationType::Succeeded), &at(9));
    let termination = status.termination.clone().unwrap();
    assert_eq!((termination.source, &termination.time), (TerminationSource::Runner, &at(9)));
    run.status = Some(status);
    assert_eq!(is_recorded(&run, &report(TerminationType::Succeeded), &at(10)), Ok(()));
    assert_eq!(is_recorded(&run, &report(TerminationType::Failed), &at(10)), Err(Refusal::OtherOutcome));
}

#[test]
fn an_end_that_was_recorded_otherwise_is_recorded() {
    let mut run = commanded(1);
    let mut status = status(&run);
    let evicted = report(TerminationType::Evicted);
    end(&run, &mut status, &evicted, &at(9));
    assert_eq!(status.termination.as_ref().unwrap().kind, TerminationType::Failed, "no eviction under Freeze");
    run.status = Some(status);
    assert_eq!(is_recorded(&run, &evicted, &at(10)), Ok(()));
    let mut tombstone = fresh_run();
    tombstone.spec.identity.tombstone = true;
    assert_eq!(is_recorded(&tombstone, &evicted, &at(10)), Err(Refusal::RunClosed));
}

#[test]
fn what_is_recorded_is_cut_whatever_the_runner_says() {
    let run = commanded(1);
    let mut status = status(&run);
    let mut big = report(TerminationType::Failed);
    big.end.result = Some(json!({ "text": "x".repeat(100_000) }));
    big.end.active_millis = -5;
    big.progress = Some(Progress { percent: Some(101), ..Progress::default() });
    status.progress = serde_json::from_value(json!({ "percent": 7, "time": at(0) })).unwrap();
    end(&run, &mut status, &big, &at(1));
    let termination = status.termination.unwrap();
    assert!(termination.result.unwrap().get().contains("\"truncated\":true"));
    assert_eq!(termination.active_millis, 0);
    assert_eq!(status.progress.unwrap().percent, Some(100), "the last report, however soon after another");
}

#[test]
fn time_under_a_pause_is_kept_account_of_by_what_was_commanded() {
    let ordered = |state, generation| {
        let mut run = commanded(1);
        run.spec.command = Some(RunCommand::after(run.spec.command.as_ref(), state, generation, at(0)));
        run
    };
    let (paused, resumed) = (ordered(DesiredState::Paused, 1), ordered(DesiredState::Running, 2));
    let account = |status: &AgentRunStatus| (status.paused_since.clone(), status.paused_millis);
    let mut status = status(&paused);
    confirm(&paused, &mut status, &heard(RunnerState::Running, 1, 5));
    assert_eq!(account(&status), (None, 0), "not frozen yet");
    confirm(&paused, &mut status, &heard(RunnerState::Frozen, 1, 10));
    confirm(&paused, &mut status, &heard(RunnerState::Frozen, 1, 12));
    assert_eq!(account(&status), (Some(at(10)), 0));
    // It has not confirmed yet that it is resumed.
    register(&resumed, &mut status, &runner(), &heard(RunnerState::Frozen, 1, 14), None);
    assert_eq!(account(&status), (Some(at(10)), 0));
    confirm(&resumed, &mut status, &heard(RunnerState::Running, 2, 17));
    assert_eq!(account(&status), (None, 7_000));
    // Whatever a runner says: no pause is commanded.
    confirm(&resumed, &mut status, &heard(RunnerState::Frozen, 2, 20));
    assert_eq!(account(&status), (None, 7_000));
    let again = ordered(DesiredState::Paused, 3);
    confirm(&again, &mut status, &heard(RunnerState::Frozen, 3, 30));
    let mut ended = report(TerminationType::Failed);
    ended.generation = 4;
    let cancelled = ordered(DesiredState::Cancelled, 4);
    end(&cancelled, &mut status, &ended, &at(33));
    assert_eq!(account(&status), (None, 10_000));
}
