use super::{
    Action::{Confirm, Finish, Freeze, Kill, Notify, Start, Term, Thaw},
    *,
};

const GRACE: u64 = 30;

fn policy() -> Policy {
    Policy {
        pause: PausePolicy::Freeze,
        notice: None,
        grace: Duration::from_secs(GRACE),
        limit: None,
        budget: None,
        used_up: false,
        freeze_refusal: None,
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn command(desired: DesiredState, generation: i64) -> Event {
    Event::Command { desired, generation }
}

fn running(generation: i64) -> Event {
    command(DesiredState::Running, generation)
}

fn paused(generation: i64) -> Event {
    command(DesiredState::Paused, generation)
}

fn cancelled(generation: i64) -> Event {
    command(DesiredState::Cancelled, generation)
}

fn confirm(state: RunnerState, generation: i64) -> Action {
    Confirm { state, generation, problem: None }
}

/// A scan that found this process moving.
fn moving(pid: i32) -> Event {
    Event::Scanned(Ok(vec![Process { pid, name: "agent".into() }]))
}

fn finish(started: bool, stopped: Option<Stopped>) -> Action {
    Finish { started, stopped }
}

/// A machine whose agent started at second 0.
fn started(policy: Policy) -> Machine {
    let mut m = Machine::new(policy);
    assert_eq!(m.on(s(0), Event::Grant { attempt: 1 }), [Start { attempt: 1 }]);
    assert_eq!(m.on(s(0), Event::Started), [confirm(RunnerState::Running, 0)]);
    m
}

/// The same, frozen by command 1 since second 1.
fn frozen(policy: Policy) -> Machine {
    let mut m = started(policy);
    assert_eq!(m.on(s(1), paused(1)), [Freeze { resume_vfork_children: false }]);
    assert_eq!(m.on(s(1), Event::Scanned(Ok(vec![]))), [confirm(RunnerState::Frozen, 1)]);
    m
}

#[test]
fn a_grant_starts_once() {
    let mut m = started(policy());
    assert_eq!(m.on(s(1), Event::Grant { attempt: 1 }), []);
    assert_eq!(m.on(s(2), running(1)), [confirm(RunnerState::Running, 1)]);
    assert_eq!(m.on(s(3), Event::Grant { attempt: 2 }), []);
    assert_eq!(m.on(s(9), Event::AgentEnded), [finish(true, None)]);
    assert_eq!(m.active(s(99)), s(9));
}

#[test]
fn a_budget_ends_an_agent_once_it_was_active_for_what_is_left() {
    let mut m = frozen(Policy { budget: Some(s(10)), limit: Some(s(10)), ..policy() });
    assert_eq!(m.deadline(), None, "paused time doesn't count");
    assert_eq!(m.on(s(100), running(2)), [Thaw, confirm(RunnerState::Running, 2)]);
    assert_eq!(m.deadline(), Some(s(109)));
    assert_eq!(m.on(s(108), Event::Tick), []);
    assert_eq!(m.on(s(109), Event::Tick), [Term]);
    assert_eq!(m.on(s(109 + GRACE), Event::Tick), [Kill]);
    assert_eq!(m.on(s(140), Event::AgentEnded), [finish(true, Some(Stopped::Budget))]);

    let mut m = started(Policy { budget: Some(s(20)), limit: Some(s(10)), ..policy() });
    assert_eq!(m.on(s(10), Event::Tick), [Term]);
    assert_eq!(m.on(s(11), Event::AgentEnded), [finish(true, Some(Stopped::Timeout))]);
}

#[test]
fn an_agent_over_its_budget_is_stopped_once_also_while_it_is_frozen() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(5), Event::OverBudget), [Term, Thaw]);
    assert_eq!(m.deadline(), Some(s(5 + GRACE)));
    assert_eq!(m.on(s(6), Event::OverBudget), []);
    assert_eq!(m.on(s(7), Event::AgentEnded), [finish(true, Some(Stopped::Budget))]);
    assert_eq!(m.on(s(8), Event::OverBudget), []);

    let mut m = started(policy());
    assert_eq!(m.on(s(5), Event::OverBudget), [Term]);
    assert_eq!(m.on(s(6), cancelled(1)), [confirm(RunnerState::Stopping, 1)]);
    assert_eq!(m.on(s(7), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))], "somebody wants no more of it");

    let mut m = started(policy());
    m.on(s(1), cancelled(1));
    assert_eq!(m.on(s(2), Event::OverBudget), []);
    assert_eq!(m.on(s(3), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))]);
}

#[test]
fn nothing_starts_when_nothing_is_left_of_the_budget() {
    let none_left = || Machine::new(Policy { used_up: true, ..policy() });
    let mut m = none_left();
    assert_eq!(m.on(s(0), Event::OverBudget), []);
    assert_eq!(m.on(s(1), Event::Grant { attempt: 2 }), [finish(false, Some(Stopped::Budget))]);
    assert_eq!(m.on(s(2), running(1)), []);
    let mut m = none_left();
    assert_eq!(m.on(s(0), paused(1)), [confirm(RunnerState::Waiting, 1)]);
    assert_eq!(m.on(s(1), Event::Grant { attempt: 2 }), []);
    assert_eq!(m.on(s(2), running(2)), [finish(false, Some(Stopped::Budget))]);
}

#[test]
fn a_pause_holds_the_start() {
    let mut m = Machine::new(policy());
    assert_eq!(m.on(s(0), paused(4)), [confirm(RunnerState::Waiting, 4)]);
    assert_eq!(m.on(s(1), Event::Grant { attempt: 2 }), []);
    assert_eq!(m.on(s(1), paused(5)), [confirm(RunnerState::Waiting, 5)]);
    assert_eq!(m.snapshot(), (RunnerState::Waiting, 5));
    assert_eq!(m.on(s(2), running(6)), [Start { attempt: 2 }]);
    assert_eq!(m.on(s(2), Event::Started), [confirm(RunnerState::Running, 6)]);
    assert_eq!(m.active(s(5)), s(3), "time before the start does not count");
}

#[test]
fn running_without_a_grant_is_confirmed_as_waiting() {
    let mut m = Machine::new(policy());
    assert_eq!(m.on(s(0), running(1)), [confirm(RunnerState::Waiting, 1)]);
    assert_eq!(m.on(s(0), Event::Grant { attempt: 1 }), [Start { attempt: 1 }]);
}

#[test]
fn what_ends_it_before_the_start_starts_nothing() {
    for (event, why) in
        [(cancelled(1), Stopped::Cancel), (Event::Terminate, Stopped::Sigterm), (Event::Gone, Stopped::Gone)]
    {
        let mut m = Machine::new(policy());
        assert_eq!(m.on(s(0), paused(0)), [confirm(RunnerState::Waiting, 0)]);
        assert_eq!(m.on(s(0), event), [finish(false, Some(why))]);
        assert_eq!(m.on(s(1), Event::Grant { attempt: 1 }), []);
        assert_eq!(m.on(s(1), running(9)), []);
    }
}

#[test]
fn a_failed_start_is_the_end() {
    let mut m = Machine::new(policy());
    m.on(s(0), Event::Grant { attempt: 1 });
    assert_eq!(m.on(s(0), Event::NotStarted), [finish(false, None)]);
}

#[test]
fn freeze_and_thaw() {
    let mut m = frozen(policy());
    assert_eq!(m.snapshot(), (RunnerState::Frozen, 1));
    assert_eq!(m.deadline(), None);
    assert_eq!(m.on(s(100), running(2)), [Thaw, confirm(RunnerState::Running, 2)]);
    assert_eq!(m.active(s(103)), s(4), "frozen time does not count");
    assert_eq!(m.on(s(104), Event::AgentStopped), [], "without a notice the agent's stops are its own");
}

#[test]
fn only_the_highest_seq_counts_and_repeats_are_answered_again() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(2), running(0)), []);
    assert_eq!(m.on(s(2), running(1)), [], "same number, another state: not obeyed");
    assert_eq!(m.on(s(2), paused(1)), [confirm(RunnerState::Frozen, 1)]);
    assert_eq!(m.on(s(2), paused(7)), [confirm(RunnerState::Frozen, 7)]);
    assert_eq!(m.on(s(2), running(6)), []);
    assert_eq!(m.on(s(2), running(8)), [Thaw, confirm(RunnerState::Running, 8)]);
    assert_eq!(m.on(s(2), running(8)), [confirm(RunnerState::Running, 8)]);
}

#[test]
fn a_process_that_will_not_stop_is_named_and_the_command_is_never_confirmed() {
    let mut m = started(policy());
    m.on(s(0), paused(3));
    let mut now = s(0);
    let mut said = Vec::new();
    let mut continued = Vec::new();
    while now < s(10) {
        said.extend(m.on(now, moving(12)));
        assert_eq!(m.snapshot(), (RunnerState::Running, 0));
        now = m.deadline().unwrap();
        let looks = m.on(now, Event::Tick);
        assert!(matches!(looks[..], [Freeze { .. }]), "{looks:?}");
        if looks == [Freeze { resume_vfork_children: true }] {
            continued.push(now);
        }
    }
    // Soon, again and again, for longer each time up to a limit, and not at the end.
    assert!(continued.iter().all(|at| (6..6000).contains(&at.as_millis())), "{continued:?}");
    let waits: Vec<_> = continued.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(
        waits.is_sorted() && waits[0] == LONGEST_SCAN / 2 && waits.last() == Some(&LONGEST_SCAN_OF_LONG),
        "{waits:?}"
    );
    let [Confirm { state: RunnerState::Running, generation: 3, problem: Some(problem) }] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(problem.contains("agent (12)"), "{problem}");
    assert_eq!(m.on(now, Event::Scanned(Ok(vec![]))), [], "it stands still for the scan only");
    // A repeated command is the same one, a new one is another try.
    m.on(now, paused(3));
    now = m.deadline().unwrap();
    m.on(now, Event::Tick);
    assert_eq!(m.on(now, Event::Scanned(Ok(vec![]))), []);
    m.on(now, paused(4));
    now = m.deadline().unwrap();
    m.on(now, Event::Tick);
    assert_eq!(m.on(now, Event::Scanned(Ok(vec![]))), [confirm(RunnerState::Frozen, 4)]);
}

#[test]
fn no_time_is_too_long_to_be_added() {
    let mut m = started(Policy { grace: Duration::MAX, limit: Some(Duration::MAX), ..policy() });
    assert!(m.deadline().is_some_and(|at| std::time::Instant::now().checked_add(at).is_some()));
    m.on(s(1), cancelled(1));
    assert!(m.deadline().is_some_and(|at| std::time::Instant::now().checked_add(at).is_some()));
}

#[test]
fn an_agent_that_cannot_be_frozen_is_evicted_if_its_policy_says_so() {
    let either = Policy { pause: PausePolicy::FreezeOrEvict, ..policy() };
    let mut m = started(either.clone());
    m.on(s(1), paused(1));
    assert_eq!(m.on(s(1), Event::Scanned(Ok(vec![]))), [confirm(RunnerState::Frozen, 1)], "it can");
    let mut m = started(either.clone());
    m.on(s(1), paused(1));
    assert_eq!(m.on(s(1), moving(12)), []);
    let evicted = [Term, Thaw, confirm(RunnerState::Stopping, 1)];
    assert_eq!(m.on(s(1) + FREEZE_LIMIT, moving(12)), evicted);
    assert_eq!(m.on(s(9), Event::AgentEnded), [finish(true, Some(Stopped::Evict))]);
    let mut m = started(Policy { freeze_refusal: Some("not the first process".into()), ..either });
    assert_eq!(m.on(s(1), paused(1)), [Term, confirm(RunnerState::Stopping, 1)]);
}

#[test]
fn a_newer_command_ends_a_freeze_that_is_not_complete() {
    let mut m = started(policy());
    m.on(s(0), paused(1));
    m.on(s(0), moving(5));
    assert_eq!(m.on(s(0), running(2)), [Thaw, confirm(RunnerState::Running, 2)]);
    assert_eq!(m.deadline(), None);
    assert_eq!(m.on(s(1), Event::Scanned(Ok(vec![]))), [], "a late answer freezes nothing");
    assert_eq!(m.snapshot(), (RunnerState::Running, 2));
}

#[test]
fn the_end_of_a_process_is_a_reason_to_look_again() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(2), Event::ChildEnded), [Freeze { resume_vfork_children: false }]);
    assert_eq!(m.on(s(2), Event::Scanned(Ok(vec![]))), []);
    m.on(s(3), Event::ChildEnded);
    assert_eq!(m.on(s(3), moving(9)), []);
    assert_eq!(m.snapshot().0, RunnerState::Running);
    assert_eq!(m.on(m.deadline().unwrap(), Event::Tick), [Freeze { resume_vfork_children: false }]);
    assert_eq!(m.on(s(3), Event::Scanned(Ok(vec![]))), [confirm(RunnerState::Frozen, 1)]);
}

#[test]
fn a_runner_that_cannot_freeze_says_so_and_goes_on() {
    let mut m = started(Policy { freeze_refusal: Some("not PID 1".into()), ..policy() });
    let problem = Some("not PID 1".to_owned());
    assert_eq!(m.on(s(1), paused(1)), [Confirm { state: RunnerState::Running, generation: 1, problem }]);
    assert_eq!(m.snapshot(), (RunnerState::Running, 0), "not carried out");
    assert_eq!(m.on(s(1), cancelled(2)), [Term, confirm(RunnerState::Stopping, 2)]);
}

#[test]
fn a_notice_ends_with_the_agents_stop_or_its_time() {
    let with_notice = || started(Policy { notice: Some(s(2)), ..policy() });
    let mut m = with_notice();
    assert_eq!(m.on(s(1), paused(1)), [Notify]);
    assert_eq!(m.on(s(2), Event::AgentStopped), [Freeze { resume_vfork_children: false }]);

    let mut m = with_notice();
    m.on(s(1), paused(1));
    assert_eq!(m.deadline(), Some(s(3)));
    assert_eq!(m.on(s(3), Event::Tick), [Freeze { resume_vfork_children: false }]);

    let mut m = with_notice();
    m.on(s(1), paused(1));
    assert_eq!(m.on(s(2), running(2)), [Thaw, confirm(RunnerState::Running, 2)]);
    assert_eq!(m.on(s(2), Event::AgentStopped), [Thaw], "it answers a notice that is no longer true");

    let mut m = with_notice();
    m.on(s(1), paused(1));
    assert_eq!(m.on(s(2), cancelled(2)), [Term, Thaw, confirm(RunnerState::Stopping, 2)]);
}

#[test]
fn cancel_thaws_after_its_signal_and_kills_after_the_grace_period() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(5), cancelled(2)), [Term, Thaw, confirm(RunnerState::Stopping, 2)]);
    assert_eq!(m.deadline(), Some(s(5 + GRACE)));
    assert_eq!(m.on(s(6), Event::Terminate), []);
    assert_eq!(m.on(s(5 + GRACE), Event::Tick), [Kill]);
    assert_eq!(m.on(s(40), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))]);
}

#[test]
fn an_agent_that_outlives_sigkill_is_not_waited_for() {
    let mut m = started(policy());
    m.on(s(1), cancelled(1));
    assert_eq!(m.on(s(1 + GRACE), Event::Tick), [Kill]);
    let given_up = s(1 + GRACE) + KILL_LIMIT;
    assert_eq!(m.deadline(), Some(given_up));
    assert_eq!(m.on(given_up, Event::Tick), [finish(true, Some(Stopped::Cancel))]);
}

#[test]
fn an_agent_that_goes_on_again_and_again_is_not_paused() {
    let mut m = frozen(policy());
    // Each time it stands still at the end of the limit's half.
    for n in 1..=2_u64 {
        let now = s(n * 10);
        assert_eq!(m.on(now, Event::ChildEnded), [Freeze { resume_vfork_children: false }]);
        assert_eq!(m.on(now, moving(7)), []);
        assert_eq!(m.snapshot().0, RunnerState::Running);
        if n == 1 {
            let clean = m.on(now + FREEZE_LIMIT / 2, Event::Scanned(Ok(vec![])));
            assert_eq!(clean, [confirm(RunnerState::Frozen, 1)]);
        }
    }
    let told = m.on(s(20) + FREEZE_LIMIT / 2, moving(7));
    assert!(
        matches!(&told[..], [Confirm { state: RunnerState::Running, generation: 1, problem: Some(_) }]),
        "{told:?}"
    );
    assert_eq!(m.on(s(30), Event::Scanned(Ok(vec![]))), [], "and not frozen by the next pretence");
}

#[test]
fn eviction_goes_on_whatever_is_wanted_later_but_a_cancel_renames_it() {
    let evict = || {
        let mut m = started(Policy { pause: PausePolicy::Evict, ..policy() });
        assert_eq!(m.on(s(1), paused(1)), [Term, confirm(RunnerState::Stopping, 1)]);
        m
    };
    let mut m = evict();
    assert_eq!(m.on(s(2), running(2)), [confirm(RunnerState::Stopping, 2)]);
    assert_eq!(m.on(s(1 + GRACE), Event::Tick), [Kill]);
    assert_eq!(m.on(s(60), Event::AgentEnded), [finish(true, Some(Stopped::Evict))]);

    let mut m = evict();
    assert_eq!(m.on(s(2), cancelled(2)), [confirm(RunnerState::Stopping, 2)]);
    assert_eq!(m.deadline(), Some(s(1 + GRACE)), "the grace period is not begun anew");
    assert_eq!(m.on(s(3), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))]);
}

#[test]
fn the_kubelets_sigterm_leaves_the_grace_to_the_kubelet() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(2), Event::Terminate), [Term, Thaw]);
    assert_eq!(m.deadline(), None);
    assert_eq!(m.snapshot(), (RunnerState::Stopping, 1));
    assert_eq!(m.on(s(3), cancelled(2)), [confirm(RunnerState::Stopping, 2)]);
    assert_eq!(m.on(s(4), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))]);

    let mut m = started(Policy { pause: PausePolicy::Evict, ..policy() });
    m.on(s(2), Event::Terminate);
    m.on(s(2), paused(1));
    assert_eq!(m.on(s(4), Event::AgentEnded), [finish(true, Some(Stopped::Evict))]);
}

#[test]
fn the_limit_counts_active_time_only() {
    let mut m = started(Policy { limit: Some(s(10)), ..policy() });
    assert_eq!(m.deadline(), Some(s(10)));
    m.on(s(4), paused(1));
    m.on(s(4), Event::Scanned(Ok(vec![])));
    assert_eq!(m.deadline(), None, "a paused job may stay so for weeks");
    m.on(s(1000), running(2));
    assert_eq!(m.deadline(), Some(s(1006)));
    assert_eq!(m.on(s(1005), Event::Tick), []);
    assert_eq!(m.on(s(1006), Event::Tick), [Term]);
    assert_eq!(m.deadline(), Some(s(1006 + GRACE)));
    assert_eq!(m.on(s(1007), cancelled(3)), [confirm(RunnerState::Stopping, 3)]);
    assert_eq!(m.on(s(1008), Event::AgentEnded), [finish(true, Some(Stopped::Cancel))]);
}

#[test]
fn gone_suppresses_the_report_whatever_stopped_it_before() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(2), Event::Gone), [Term, Thaw]);
    assert_eq!(m.on(s(3), cancelled(2)), [confirm(RunnerState::Stopping, 2)]);
    assert_eq!(m.on(s(4), Event::AgentEnded), [finish(true, Some(Stopped::Gone))]);

    let mut m = started(policy());
    m.on(s(1), Event::Terminate);
    assert_eq!(m.on(s(2), Event::Gone), []);
    assert_eq!(m.deadline(), Some(s(2 + GRACE)));
    assert_eq!(m.on(s(4), Event::AgentEnded), [finish(true, Some(Stopped::Gone))]);
}

#[test]
fn an_agent_may_end_while_it_is_frozen() {
    let mut m = frozen(policy());
    assert_eq!(m.on(s(9), Event::AgentEnded), [finish(true, None)]);
    assert_eq!(m.active(s(10)), s(1));
}

/// Thousands of commands in any message of delivery: the final state is that of the highest generation.
#[test]
fn any_storm_of_commands_ends_in_the_last_state() {
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..200 {
        let mut m = started(policy());
        let mut last = DesiredState::Running;
        let mut highest = 0;
        for _ in 0..100 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let generation = (random >> 8) as i64 & 0xffff;
            let desired = if random & 1 == 0 { DesiredState::Running } else { DesiredState::Paused };
            if generation > highest {
                (highest, last) = (generation, desired);
            }
            for action in m.on(s(round), command(desired, generation)) {
                if matches!(action, Freeze { .. }) && random & 2 == 0 {
                    m.on(s(round), Event::Scanned(Ok(vec![])));
                }
            }
        }
        m.on(s(round), Event::Scanned(Ok(vec![])));
        let state = if last == DesiredState::Paused { RunnerState::Frozen } else { RunnerState::Running };
        assert_eq!(m.snapshot(), (state, highest));
    }
}
