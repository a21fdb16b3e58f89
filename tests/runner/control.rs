//! Pause, resume, cancel, and the kubelet's SIGTERM.

use std::ffi::OsString;

use futures::future::join_all;
use koco::{
    api::{DesiredState, PauseNotice, PausePolicy, RunnerState, TerminationType},
    protocol::{error_types, runner::Job},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Run, job, namespaces, python};

use DesiredState::{Cancelled, Paused, Running};

/// The last number in the agent's log.
fn last_tick(run: &Run, who: &str) -> u64 {
    let prefix = format!("{who}tick ");
    let stdout = run.stdout();
    let mut ticks = stdout.lines().filter_map(|line| line.strip_prefix(&prefix)?.split(' ').next()?.parse().ok());
    ticks.next_back().unwrap_or(0)
}

async fn ticks_from(run: &Run, who: &str, from: u64) {
    run.until("the count to go on", |_| (last_tick(run, who) > from + 3).then_some(())).await;
}

#[tokio::test]
async fn the_kubelets_sigterm_is_a_disruption() {
    let mut run = Run::start(job("count")).await;
    run.grant();
    run.printed("tick 3").await;
    run.sigterm();
    let ending = run.failed(error_types::DISRUPTED).await;
    assert_eq!((ending.kind, ending.started, ending.exit_code), (TerminationType::Failed, true, Some(143)));
    assert!(run.stdout().contains("sigterm"), "the agent got it too");
    assert_eq!(run.exited().await.code(), Some(143));
}

/// An image may name any of these as its STOPSIGNAL, which is for the runner.
#[tokio::test]
async fn whatever_the_images_stop_signal_the_agent_gets_a_sigterm() {
    use Signal::*;
    let isolated = namespaces();
    let stop = async |signal: Signal| {
        let mut run = if isolated { Run::isolated(job("count")).await } else { Run::start(job("count")).await };
        run.grant();
        run.printed("tick 3").await;
        run.signal(signal);
        let ending = run.failed(error_types::DISRUPTED).await;
        assert_eq!((ending.started, ending.exit_code), (true, Some(143)), "{signal}");
        assert!(run.stdout().contains("sigterm"), "{signal}: {}", run.stdout());
        assert_eq!(run.exited().await.code(), Some(143), "{signal}");
    };
    join_all([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGPWR].map(stop)).await;
}

#[tokio::test]
async fn an_agent_that_signals_its_runner_is_no_kubelet() {
    if !namespaces() {
        return;
    }
    let command = ["/bin/sh", "-c", "kill -TERM 1; kill -INT 1; kill -USR1 1; echo done; sleep 60"];
    let mut run = Run::with(job("x"), command.map(Into::into).to_vec(), true, "koco-gateway").await;
    run.grant();
    run.printed("done").await;
    run.heartbeats(3).await;
    assert!(run.log().contains("only the kubelet ends a pod"), "{}", run.log());
    assert!(run.gateway.heard().outcomes.is_empty());
    run.sigterm();
    run.failed(error_types::DISRUPTED).await;
    run.exited().await;
}

#[tokio::test]
async fn exit_zero_on_sigterm_without_a_result_is_no_success() {
    let run = Run::start(job("exit0-after?ms=500")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.sigterm();
    run.failed(error_types::DISRUPTED).await;
}

#[tokio::test]
async fn before_the_start_sigterm_uses_up_no_attempt() {
    let mut run = Run::start(job("succeed")).await;
    run.until("a heartbeat", |heard| heard.heartbeats.first().map(drop)).await;
    run.sigterm();
    assert!(!run.failed(error_types::NOT_STARTED).await.started);
    assert_eq!(run.exited().await.code(), Some(1));
}

#[tokio::test]
async fn a_cancel_kills_who_does_not_listen() {
    let mut run = Run::start(Job { grace_seconds: 1, ..job("ignore-term") }).await;
    run.grant();
    run.printed("tick 3").await;
    run.command(Cancelled, 1);
    run.confirmed(RunnerState::Stopping, 1).await;
    let before = last_tick(&run, "");
    let ending = run.outcome().await;
    assert_eq!((ending.kind, ending.exit_code), (TerminationType::Cancelled, None));
    assert!(last_tick(&run, "") > before + 10, "it had its grace period");
    assert_eq!(run.exited().await.code(), Some(137));
}

#[tokio::test]
async fn a_cancel_before_the_start_starts_nothing() {
    let mut run = Run::start(job("succeed")).await;
    run.command(Cancelled, 1);
    let ending = run.outcome().await;
    assert_eq!((ending.kind, ending.started), (TerminationType::Cancelled, false));
    run.exited().await;
    assert!(!run.log().contains("agent started"));
}

#[tokio::test]
async fn a_crash_while_being_cancelled_is_a_cancel() {
    let mut run = Run::start(job("crash-on-term")).await;
    run.grant();
    run.printed("tick 3").await;
    run.command(Cancelled, 1);
    assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    assert_eq!(run.exited().await.code(), Some(134));
}

#[tokio::test]
async fn a_pause_holds_the_start() {
    let run = Run::start(job("succeed")).await;
    run.command(Paused, 1);
    run.confirmed(RunnerState::Waiting, 1).await;
    run.grant();
    run.heartbeats(5).await;
    assert!(!run.log().contains("agent started"));
    run.command(Running, 2);
    assert_eq!(run.outcome().await.kind, TerminationType::Succeeded);
    run.confirmed(RunnerState::Running, 2).await;
}

#[tokio::test]
async fn eviction_asks_the_agent_to_go_and_keeps_the_attempt() {
    let mut run = Run::start(Job { pause_policy: PausePolicy::Evict, ..job("count") }).await;
    run.grant();
    run.printed("tick 3").await;
    run.command(Paused, 1);
    run.command(Running, 2);
    let ending = run.outcome().await;
    assert_eq!((ending.kind, ending.exit_code), (TerminationType::Evicted, Some(143)));
    assert_eq!(run.exited().await.code(), Some(143));
}

#[tokio::test]
async fn a_runner_that_is_not_the_first_process_freezes_nothing() {
    let run = Run::start(job("count")).await;
    run.grant();
    run.printed("tick 3").await;
    run.command(Paused, 1);
    let answer = run.confirmed(RunnerState::Running, 1).await;
    assert!(answer.problem.unwrap().contains("not the first process"));
    ticks_from(&run, "", last_tick(&run, "")).await;
}

#[tokio::test]
async fn freeze_and_thaw_with_a_daemon() {
    if !namespaces() {
        return;
    }
    let mut run = Run::isolated(job("daemon?every_ms=5")).await;
    run.grant();
    run.printed("child tick 3").await;
    let before = run.processes();
    let mut generation = 0;
    for _ in 0..5 {
        generation += 1;
        run.command(Paused, generation);
        run.confirmed(RunnerState::Frozen, generation).await;
        let stood = (last_tick(&run, ""), last_tick(&run, "child "));
        run.heartbeats(4).await;
        let heartbeat = run.gateway.heard().heartbeats.last().unwrap().1.clone();
        assert_eq!((heartbeat.state, heartbeat.generation), (RunnerState::Frozen, generation));
        assert_eq!((last_tick(&run, ""), last_tick(&run, "child ")), stood, "no process counts");
        generation += 1;
        run.command(Running, generation);
        run.confirmed(RunnerState::Running, generation).await;
        ticks_from(&run, "", stood.0).await;
        ticks_from(&run, "child ", stood.1).await;
    }
    let pids = |processes: Vec<(i32, String)>| processes.into_iter().map(|(pid, _)| pid).collect::<Vec<_>>();
    assert_eq!(pids(run.processes()), pids(before), "the same processes");
    run.command(Cancelled, generation + 1);
    let ending = run.outcome().await;
    assert_eq!((ending.kind, ending.exit_code), (TerminationType::Cancelled, Some(143)));
    assert_eq!(run.exited().await.code(), Some(143));
}

/// Processes that start processes: all of them are stopped, each time that the runner confirms it.
#[tokio::test]
async fn frozen_is_said_only_when_it_is_true() {
    if !namespaces() {
        return;
    }
    let run = Run::isolated(job("spawn?threads=4&every_ms=5")).await;
    run.grant();
    run.printed("tick 3").await;
    for round in 0..40 {
        run.command(Paused, 2 * round + 1);
        let confirm = run.confirmed(RunnerState::Frozen, 2 * round + 1).await;
        assert_eq!(confirm.problem, None);
        let processes = run.processes();
        assert!(!processes.is_empty());
        let moving = processes.iter().find(|(_, states)| !states.chars().all(|s| "TtZX".contains(s)));
        assert_eq!(moving, None, "round {round}: {processes:?}");
        let stood = last_tick(&run, "");
        run.command(Running, 2 * round + 2);
        ticks_from(&run, "", stood).await;
    }
    assert!(!run.log().contains("can't be carried out"), "{}", run.log());
}

#[tokio::test]
async fn a_frozen_agent_is_thawed_for_its_sigterm() {
    if !namespaces() {
        return;
    }
    for cancel in [true, false] {
        let mut run = Run::isolated(job("count")).await;
        run.grant();
        run.printed("tick 3").await;
        run.command(Paused, 1);
        run.confirmed(RunnerState::Frozen, 1).await;
        if cancel {
            run.command(Cancelled, 2);
            assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
        } else {
            run.sigterm();
            run.failed(error_types::DISRUPTED).await;
        }
        assert!(run.stdout().contains("sigterm"));
        assert_eq!(run.exited().await.code(), Some(143));
    }
}

#[tokio::test]
async fn time_spent_frozen_does_not_count() {
    if !namespaces() {
        return;
    }
    let run = Run::isolated(Job { execution_limit_millis: Some(2000), ..job("count?until=30") }).await;
    run.grant();
    run.printed("tick 3").await;
    run.command(Paused, 1);
    run.confirmed(RunnerState::Frozen, 1).await;
    run.heartbeats(25).await;
    run.command(Running, 2);
    let ending = run.outcome().await;
    assert_eq!(ending.kind, TerminationType::Succeeded, "{ending:?}");
    let result = ending.result.unwrap();
    assert!(ending.active_millis < 2000);
    assert!(result["endedAt"].as_i64().unwrap() - result["startedAt"].as_i64().unwrap() > 2000, "{result}");
    assert_eq!(result["inFile"], result["inMemory"], "the file stayed open, the memory was kept");
    assert_eq!(result["count"], 30);
}

#[tokio::test]
async fn an_agent_may_reach_a_safe_point_first() {
    if !namespaces() {
        return;
    }
    let notice = Some(PauseNotice { signal: "SIGUSR1".into(), seconds: 30 });
    let run = Run::isolated(Job { pause_notice: notice, ..job("notice?every_ms=5") }).await;
    run.grant();
    run.printed("tick 3").await;
    for round in 0..10 {
        run.command(Paused, 2 * round + 1);
        run.confirmed(RunnerState::Frozen, 2 * round + 1).await;
        assert!(run.stdout().contains("notice"));
        let stood = last_tick(&run, "");
        run.command(Running, 2 * round + 2);
        ticks_from(&run, "", stood).await;
    }
    // And notices that are withdrawn immediately: an agent that stopped itself is resumed.
    for generation in 100..200 {
        run.command(if generation % 2 == 0 { Paused } else { Running }, generation);
    }
    run.confirmed(RunnerState::Running, 199).await;
    ticks_from(&run, "", last_tick(&run, "")).await;
}

#[tokio::test]
async fn a_python_agent_is_paused_no_sooner_than_it_lets_it() {
    if !namespaces() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("koco-postpone-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [mark, go] = ["mark", "go"].map(|file| folder.join(file));
    let job = Job {
        pause_notice: Some(PauseNotice { signal: "SIGUSR1".into(), seconds: 30 }),
        inputs: json!({ "mark": mark, "go": go }).into(),
        ..job("sample:postpones")
    };
    let mut run = Run::with(job, python(), true, "koco-gateway").await;
    run.grant();
    run.until("the block", |_| mark.exists().then_some(())).await;
    run.command(Paused, 1);
    run.heartbeats(3).await;
    assert!(run.gateway.heard().confirms.iter().all(|c| c.state != RunnerState::Frozen), "not in the block");
    std::fs::write(&go, "").unwrap();
    run.confirmed(RunnerState::Frozen, 1).await;
    assert!(run.stdout().contains("the block has ended") && !run.stdout().contains("goes on"), "{}", run.stdout());
    run.command(Running, 2);
    assert_eq!(run.outcome().await.kind, TerminationType::Succeeded);
    assert!(run.exited().await.success());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Processes that the agent leaves end with it, as with a container's first process.
#[tokio::test]
async fn no_process_outlives_the_agent() {
    if !namespaces() {
        return;
    }
    let script = "setsid sh -c 'while :; do echo child tick 1; sleep 0.05; done' & exit 0";
    let mut run = Run::with(job("x"), ["/bin/sh", "-c", script].map(Into::into).into(), true, "koco-gateway").await;
    run.grant();
    assert_eq!(run.outcome().await.kind, TerminationType::Succeeded);
    assert!(run.exited().await.success());
}

/// Without CAP_KILL a runner may not signal a user that its agent has become.
#[tokio::test]
async fn an_agent_that_the_runner_may_not_kill_ends_with_it() {
    if !namespaces() {
        return;
    }
    let script = "trap '' TERM; echo begins; while :; do sleep 0.1; done";
    let command = ["setpriv", "--reuid=65534", "--clear-groups", "/bin/sh", "-c", script].map(OsString::from);
    let limited = Job { execution_limit_millis: Some(100), grace_seconds: 0, ..job("x") };
    let without = &["setpriv", "--bounding-set=-kill", "--inh-caps=-kill", "--"];
    let mut run = Run::below(without, limited, command.to_vec()).await;
    run.grant();
    run.printed("begins").await;
    let ending = run.failed(error_types::EXECUTION_TIMEOUT).await;
    assert!(ending.error.unwrap().message.contains("it outlived SIGKILL"));
    assert_eq!(run.exited().await.code(), Some(1));
    for words in ["SIGTERM could not be sent to the agent: EPERM", "agent ended (Outlived)"] {
        assert!(run.log().contains(words), "{words}: {}", run.log());
    }
}

#[tokio::test]
async fn nothing_counts_as_frozen_where_processes_can_hide() {
    if !namespaces() {
        return;
    }
    const HIDING: [&str; 3] = ["/bin/sh", "-c", "mount -o remount,hidepid=2 /proc && exec \"$0\" \"$@\""];
    let run = Run::below(&HIDING, job("x"), vec!["/bin/sleep".into(), "1000".into()]).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.command(Paused, 1);
    let refused = run.confirmed(RunnerState::Running, 1).await;
    assert!(refused.problem.unwrap_or_default().contains("hidepid"), "{}", run.log());
}
