//! Pause and resume act on the agent, as its own counter shows.

use std::time::Duration;

use futures::StreamExt;
use koco::api::{AgentJobStatus, RunnerState, conditions};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::{
    DesiredState, ExecutionMode, Job, MODES, Phase, Server, Test, Tick, agent,
    agent_log::{longest_gap, now, said, same_process, starts, ticks, ticks_of},
    audit,
    job::{With, condition, error_type, pod_name, pod_uid, result, started},
    node, temporal,
    wait::always,
};

/// Pauses, and waits until the status confirms it.
async fn pause(job: &Job<'_>) -> u64 {
    job.want(DesiredState::Paused).await;
    let status = job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    let known = now();
    assert_eq!(condition(&status, conditions::PAUSED).0, "True");
    let control = status.control.expect("control");
    let confirmed = control.confirmed.expect("a confirmation");
    assert_eq!((confirmed.state, confirmed.problem), (RunnerState::Frozen, None));
    known
}

async fn resume(job: &Job<'_>) -> u64 {
    let asked = now();
    job.want(DesiredState::Running).await;
    job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
    asked
}

/// No tick lies between two moments, and there are some on both sides.
fn stood_still(ticks: &[Tick], from: u64, to: u64) {
    same_process(ticks);
    let moved: Vec<&Tick> = ticks.iter().filter(|t| t.at > from && t.at < to).collect();
    assert!(moved.is_empty(), "the agent moved between {from} and {to}: {moved:?}");
    assert!(ticks.first().is_some_and(|t| t.at < from) && ticks.last().is_some_and(|t| t.at >= to));
}

/// Heartbeats go on: the pause is longer than the time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_and_thawed() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("daemon?every_ms=10").mode(mode).heartbeat("2s")).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts_on(5).await;
        let from = pause(&job).await;
        always(Duration::from_secs(5), "it is paused", async || {
            let phase = job.status().await.phase;
            if phase == Some(Phase::Paused) { Ok(()) } else { Err(phase) }
        })
        .await;
        if mode == ExecutionMode::Temporal {
            let status = job.status().await.workflow.expect("a workflow");
            assert_eq!(status.is_paused, Some(true));
        }
        let to = resume(&job).await;
        job.counts_on(20).await;
        let log = job.log().await;
        stood_still(&ticks(&log), from, to);
        stood_still(&ticks_of(&log, "child "), from, to);
        assert_eq!(said(&log, "continued").len(), 1);
        let status = job.status().await;
        assert_eq!((status.attempt, status.runner_pod.as_deref()), (Some(1), Some(pod.as_str())));
        job.want(DesiredState::Cancelled).await;
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_processes_all_the_time_stands_still_too() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("spawn?threads=4&every_ms=10")).await;
    let pod = job.running_pod().await;
    job.counts_on(5).await;
    let from = pause(&job).await;
    let before = node::processes(&pod_uid(&pod), "test-agent");
    always(Duration::from_secs(2), "no process comes or goes", async || {
        let now = node::processes(&pod_uid(&pod), "test-agent");
        if now == before { Ok(()) } else { Err((before.clone(), now)) }
    })
    .await;
    let to = resume(&job).await;
    job.counts_on(20).await;
    stood_still(&ticks(&job.log().await), from, to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_created_paused_does_not_start() {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        jobs.push(test.apply(agent("succeed").mode(mode).with(json!({ "desiredState": "Paused" }))).await);
    }
    for job in &jobs {
        let status = job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        assert_eq!(condition(&status, conditions::PAUSED).0, "True");
    }
    always(Duration::from_secs(3), "nothing starts", async || {
        for job in &jobs {
            let status = job.status().await;
            let log = job.log().await;
            if status.attempt.is_some() || status.start_time.is_some() || !log.is_empty() {
                return Err((status.attempt, log));
            }
        }
        Ok(())
    })
    .await;
    for job in &jobs {
        job.want(DesiredState::Running).await;
    }
    for job in &jobs {
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    }
}

/// It is thawed for its SIGTERM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_frozen() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=10").mode(mode)).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts_on(5).await;
        let log = job.follow(&pod);
        pause(&job).await;
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
        job.nothing_runs().await;
        assert_eq!(said(&log.all().await, "sigterm").len(), 1, "in {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stand_still() {
    let (test, _roles) = Test::with_operator().await;
    let mut jobs = Vec::new();
    let limits =
        json!({ "timeouts": { "execution": "6s", "heartbeat": "2s" }, "retryPolicy": { "maximumAttempts": 1 } });
    for mode in MODES {
        jobs.push(test.apply(agent("count?every_ms=50&until=60").mode(mode).with(limits.clone())).await);
    }
    for job in &jobs {
        job.counts().await;
        pause(job).await;
    }
    always(Duration::from_secs(9), "no limit is over", async || {
        for job in &jobs {
            let status = job.status().await;
            if status.phase != Some(Phase::Paused) {
                return Err((status.phase, status.error));
            }
        }
        Ok(())
    })
    .await;
    for job in &jobs {
        job.want(DesiredState::Running).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.attempt, Some(1));
        assert!(longest_gap(&ticks(&job.log().await)) > 8_000, "it was paused for longer than its limit");
    }
}

/// A pause holds across a retry: no attempt starts, whatever happens to the pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_under_a_frozen_agent() {
    let (test, _roles) = Test::with_operator().await;
    let retry = json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "100ms" } });
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).with(retry.clone())).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts().await;
        pause(&job).await;
        job.delete_pod(&pod, &DeleteParams::default()).await;
        job.until("the error", |s| error_type(s) == "Disrupted").await;
        no_second_attempt(&job).await;
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        job.want(DesiredState::Running).await;
        job.until("the second attempt", |s| s.attempt == Some(2) && s.phase == Some(Phase::Running)).await;
        job.counts().await;
        job.want(DesiredState::Cancelled).await;
    }
}

async fn no_second_attempt(job: &Job<'_>) {
    always(Duration::from_secs(4), "no attempt starts", async || {
        let status = job.status().await;
        if status.attempt == Some(1) { Ok(()) } else { Err(status.attempt) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_in_back_off() {
    let (test, _roles) = Test::with_operator().await;
    let retry = json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "2s", "backoffCoefficient": 1 } });
    for mode in MODES {
        let job = test.apply(agent("fail-until?attempt=2").mode(mode).with(retry.clone())).await;
        job.until("phase Retrying", |s| s.phase == Some(Phase::Retrying)).await;
        job.want(DesiredState::Paused).await;
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        no_second_attempt(&job).await;
        job.want(DesiredState::Running).await;
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(2), "in {mode:?}");
    }
}

/// A folder of the node that an agent may write to.
fn volume(test: &Test, name: &str) -> (std::path::PathBuf, Value) {
    use std::os::unix::fs::PermissionsExt;
    let folder = test.cluster.dev.join(format!("data/tests/{}-{name}", test.namespace));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    let spec = json!({ "template": { "spec": {
        "volumes": [{ "name": "data", "hostPath": { "path": folder, "type": "Directory" } }],
        "containers": [{ "name": "agent", "image": "localhost/koco-test-agent:dev", "command": ["/test-agent"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
    } } });
    (folder, spec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicted_and_resumed_in_the_same_attempt() {
    let (test, _roles) = Test::with_operator().await;
    for (i, mode) in MODES.into_iter().enumerate() {
        let (folder, spec) = volume(&test, &format!("evict{i}"));
        let spec = agent("checkpoint?dir=/data&every_ms=50&until=150").mode(mode).with(spec);
        let limits = json!({ "pausePolicy": "Evict", "retryPolicy": { "maximumAttempts": 1 } });
        let job = test.apply(spec.with(limits)).await;
        let first = pod_name(&job.running_pod().await);
        job.counts_on(10).await;
        job.want(DesiredState::Paused).await;
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        job.nothing_runs().await;
        let at = || {
            std::fs::read_to_string(folder.join("checkpoint"))
                .expect("the checkpoint")
                .trim()
                .parse::<u64>()
                .expect("a number")
        };
        let before = at();
        always(Duration::from_secs(2), "it is frozen", async || if at() == before { Ok(()) } else { Err(at()) }).await;
        job.want(DesiredState::Running).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.attempt, Some(1), "the same attempt in {mode:?}");
        let result = result(&status);
        assert_eq!(result["count"], json!(150));
        assert_eq!(result["resumedFrom"], json!(before), "it went on where it was");
        assert_ne!(status.runner_pod.as_deref(), Some(first.as_str()));
        assert_eq!(audit::created(&test.namespace).len(), 2 * (i + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_evicted() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).with(json!({ "pausePolicy": "Evict" }))).await;
        job.counts().await;
        job.want(DesiredState::Paused).await;
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        job.nothing_runs().await;
        job.want(DesiredState::Cancelled).await;
        let status = job.phase(Phase::Cancelled).await;
        if let Some(workflow) = status.workflow {
            assert_eq!(job.closed(&workflow.id).await, "CANCELED");
        }
    }
    assert_eq!(audit::created(&test.namespace).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_toggles_end_in_the_last_state() {
    // One after the other, to limit the load on the API server.
    assert!(signals_for_a_thousand_toggles(1).await < 668);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "leaves the API server no time for other tests: make cluster-test ARGS='--ignored a_flood --nocapture'"]
async fn a_flood_of_toggles_becomes_few_signals() {
    assert!(signals_for_a_thousand_toggles(8).await < 334);
}

/// A thousand toggles of one job in each mode, so many of each at a time, across a controller's restart.
async fn signals_for_a_thousand_toggles(at_a_time: usize) -> usize {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=20").mode(mode)).await;
        job.counts().await;
        jobs.push(job);
    }
    let began = std::time::Instant::now();
    for half in 0..2 {
        let toggles = jobs.iter().map(|job| async move {
            let toggle = |i| job.want(if i % 2 == 0 { DesiredState::Paused } else { DesiredState::Running });
            futures::stream::iter(0..500).map(toggle).buffer_unordered(at_a_time).collect::<Vec<()>>().await
        });
        futures::future::join_all(toggles).await;
        if half == 0 {
            roles.role("controller").kill();
            roles.role("controller").process.start();
        }
    }
    for job in &jobs {
        job.want(DesiredState::Paused).await;
    }
    let took = began.elapsed();
    for job in &jobs {
        job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
        let before = job.log().await.lines().count();
        always(Duration::from_secs(3), "it is frozen", async || {
            let (phase, lines) = (job.status().await.phase, job.log().await.lines().count());
            if phase == Some(Phase::Paused) && lines == before { Ok(()) } else { Err((phase, lines, before)) }
        })
        .await;
        job.want(DesiredState::Running).await;
        job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
        let all = job.counts_on(10).await;
        same_process(&all);
        assert_eq!(starts(&job.log().await), 1);
    }
    let signals = temporal::signals(&jobs[1].history().await);
    let toggles = signals.iter().filter(|s| *s == "pause" || *s == "resume").count();
    eprintln!("{toggles} signals for 1,002 toggles in {took:?}");
    toggles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_and_worker_restarted_during_a_pause() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=20").mode(mode).heartbeat("2s")).await;
        job.counts().await;
        let from = pause(&job).await;
        jobs.push((job, from));
    }
    roles.restart().await;
    always(Duration::from_secs(4), "they stay paused", async || {
        for (job, _) in &jobs {
            let status = job.status().await;
            if status.phase != Some(Phase::Paused) {
                return Err((status.phase, status.error));
            }
        }
        Ok(())
    })
    .await;
    // Resumed while no role runs.
    roles.kill_all();
    let to = now();
    for (job, _) in &jobs {
        job.want(DesiredState::Running).await;
    }
    roles.start().await;
    for (job, from) in &jobs {
        job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
        job.counts_on(10).await;
        stood_still(&ticks(&job.log().await), *from, to);
        assert_eq!(job.status().await.attempt, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_before_the_freeze() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let notice = json!({ "pauseNotice": { "signal": "SIGUSR1", "seconds": 20 } });
        let job = test.apply(agent("notice?every_ms=20").mode(mode).with(notice)).await;
        job.counts().await;
        let from = pause(&job).await;
        let log = job.log().await;
        assert_eq!(said(&log, "notice").len(), 1);
        let to = resume(&job).await;
        job.counts_on(10).await;
        let log = job.log().await;
        stood_still(&ticks(&log), from, to);
        assert_eq!(said(&log, "continued").len(), 1);
    }
}

/// A pause and a resume at any moment of a short life: each agent runs once, to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races() {
    const EACH: u64 = 60;
    let (test, _roles) = Test::with_operator().await;
    // Not all at the same time: this tests timing, not load.
    for batch in 0..EACH / 10 {
        let race = |n: u64, mode: ExecutionMode| {
            let (test, i) = (&test, n % 30);
            async move {
                let job = test.apply(agent(&format!("exit0-after?ms={}", 150 + i * 10)).mode(mode)).await;
                if !i.is_multiple_of(3) {
                    job.until_run("the agent to start, or to have ended", |r| started(r) || r.is_closed()).await;
                }
                tokio::time::sleep(Duration::from_millis(i * 13)).await;
                job.want(DesiredState::Paused).await;
                let over = |s: &AgentJobStatus| s.phase.is_some_and(Phase::is_terminal);
                let status = job.until("a pause, or the end", |s| over(s) || s.phase == Some(Phase::Paused)).await;
                let paused = !over(&status);
                job.want(DesiredState::Running).await;
                let status = job.phase(Phase::Succeeded).await;
                assert_eq!((status.attempt, job.run_number().await), (Some(1), 1), "{}", job.name);
                paused
            }
        };
        let races = (batch * 10..batch * 10 + 10).flat_map(|i| MODES.map(|mode| race(i, mode)));
        let paused = futures::future::join_all(races).await;
        eprintln!("batch {batch}: {} paused of {}", paused.iter().filter(|p| **p).count(), paused.len());
    }
    assert_eq!(audit::created(&test.namespace).len(), 2 * EACH as usize);
}
