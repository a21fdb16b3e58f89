//! Pause and resume act on the agent, as its own counter shows. One table for both modes:
//!
//! | [`Moment`] | how it is paused | meanwhile | after the resume |
//! |---|---|---|---|
//! | `Created` | from the beginning | no agent starts | the first attempt |
//! | `Running` | frozen, for longer than its heartbeat time-out | no process of it moves | the same processes go on |
//! | `Spawning` | frozen while it starts processes | none comes or goes | the same process goes on |
//! | `Noticed` | frozen, after its signal | it doesn't move | the same process goes on |
//! | `PodDeleted` | frozen, and its pod is deleted | no attempt starts | the second attempt |
//! | `BackOff` | between two attempts | no attempt starts | the second attempt |
//! | `Evicted` | its pod ends | its checkpoint stays | the same attempt in a new pod |
//!
//! The modes must differ in one thing only: in Temporal mode the workflow's query, too, says that it is paused.

use std::{path::PathBuf, time::Duration};

use futures::{StreamExt, future::join_all};
use koco::api::{AgentJobStatus, RunnerState, conditions};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::{
    DesiredState, ExecutionMode, Job, MODES, Phase, Server, Test, Tick, agent,
    agent_log::{longest_gap, now, said, same_process, starts, ticks, ticks_of},
    audit,
    job::{With, condition, error_type, pod_uid, result, started},
    node, temporal,
    wait::{DEADLINE, always, within},
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

/// No tick lies between two moments, and there are some on both sides.
fn stood_still(ticks: &[Tick], from: u64, to: u64) {
    same_process(ticks);
    let moved: Vec<&Tick> = ticks.iter().filter(|t| t.at > from && t.at < to).collect();
    assert!(moved.is_empty(), "the agent moved between {from} and {to}: {moved:?}");
    assert!(ticks.first().is_some_and(|t| t.at < from) && ticks.last().is_some_and(|t| t.at >= to));
}

/// When, and how, a job is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Created,
    Running,
    Spawning,
    Noticed,
    PodDeleted,
    BackOff,
    Evicted,
}

const MOMENTS: [Moment; 7] = [
    Moment::Created,
    Moment::Running,
    Moment::Spawning,
    Moment::Noticed,
    Moment::PodDeleted,
    Moment::BackOff,
    Moment::Evicted,
];
/// The pods that all of them take.
const PODS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_each_moment() {
    let (test, _roles) = Test::with_operator().await;
    for (i, mode) in MODES.into_iter().enumerate() {
        join_all(MOMENTS.map(|moment| paused_at(&test, moment, mode))).await;
        assert_eq!(audit::created(&test.namespace).len(), PODS * (i + 1), "pods in {mode:?}");
    }
}

async fn paused_at(test: &Test, moment: Moment, mode: ExecutionMode) {
    let at = format!("{moment:?} in {mode:?}");
    let (folder, spec) = moment.spec(test);
    let job = test.apply(spec.mode(mode)).await;
    moment.reached(&job).await;
    let pod = job.status().await.runner_pod;
    let from = if moment.freezes() { pause(&job).await } else { pause_without_agent(&job).await };
    if mode == ExecutionMode::Temporal {
        let known = |s: &AgentJobStatus| s.workflow.as_ref().is_some_and(|w| w.is_paused == Some(true));
        job.until("the workflow to say so", known).await;
    }
    if moment == Moment::PodDeleted {
        job.delete_pod(pod.as_deref().expect("a pod"), &DeleteParams::default()).await;
        job.until("the error", |s| error_type(s) == "Disrupted").await;
    }
    let checkpoint = || std::fs::read_to_string(folder.join("checkpoint")).unwrap_or_default();
    let before = checkpoint();
    moment.stands_still(&job, &at).await;
    assert_eq!(checkpoint(), before, "{at}");
    job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    let to = now();
    if moment == Moment::Evicted {
        std::fs::write(folder.join("end"), "").expect("the volume's folder");
    }
    job.want(DesiredState::Running).await;
    moment.goes_on(&job, &at, (from, to), before.trim()).await;
    let same = job.status().await.runner_pod == pod;
    assert_eq!(same, moment.freezes() && moment != Moment::PodDeleted, "{at}: its pod");
    job.want(DesiredState::Cancelled).await;
}

/// Pauses a job whose agent doesn't run, or ends.
async fn pause_without_agent(job: &Job<'_>) -> u64 {
    job.want(DesiredState::Paused).await;
    let status = job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
    assert_eq!(condition(&status, conditions::PAUSED).0, "True");
    job.nothing_runs().await;
    now()
}

impl Moment {
    /// Whether a running agent is frozen.
    fn freezes(self) -> bool {
        !matches!(self, Self::Created | Self::BackOff | Self::Evicted)
    }

    /// The job, and the folder of its volume.
    fn spec(self, test: &Test) -> (PathBuf, Value) {
        let retry = |interval: &str| json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": interval, "backoffCoefficient": 1 } });
        let (folder, volume) = volume(test, &test.next_name());
        let spec = match self {
            Self::Created => agent("succeed").with(json!({ "desiredState": "Paused" })),
            Self::Running => agent("daemon?every_ms=10").heartbeat("5s"),
            Self::Spawning => agent("spawn?threads=4&every_ms=10"),
            Self::Noticed => {
                agent("notice?every_ms=20").with(json!({ "pauseNotice": { "signal": "SIGUSR1", "seconds": 20 } }))
            }
            Self::PodDeleted => agent("count").with(retry("100ms")),
            Self::BackOff => agent("fail-until?attempt=2").with(retry("15s")),
            Self::Evicted => {
                let limits = json!({ "pausePolicy": "Evict", "retryPolicy": { "maximumAttempts": 1 } });
                agent("checkpoint?dir=/data&every_ms=50").with(volume).with(limits)
            }
        };
        (folder, spec)
    }

    /// Waits until it is time for the pause.
    async fn reached(self, job: &Job<'_>) {
        match self {
            Self::Created => {}
            Self::BackOff => _ = job.until("phase Retrying", |s| s.phase == Some(Phase::Retrying)).await,
            _ => {
                job.running_pod().await;
                job.counts_on(5).await;
            }
        }
    }

    /// For longer than any limit that must not count.
    async fn stands_still(self, job: &Job<'_>, at: &str) {
        let attempt = job.status().await.attempt;
        assert_eq!(attempt.is_some(), self != Self::Created, "{at}");
        let pod = job.pods().await.last().map(pod_uid).filter(|_| self == Self::Spawning);
        let processes = || pod.as_ref().map(|uid| node::processes(uid, "test-agent"));
        let before = processes();
        let window = if matches!(self, Self::BackOff | Self::Running) { 17 } else { 5 };
        always(Duration::from_secs(window), &format!("nothing starts or moves: {at}"), async || {
            let (status, now) = (job.status().await, processes());
            if status.attempt == attempt && now == before { Ok(()) } else { Err((status.attempt, now)) }
        })
        .await;
    }

    /// `checkpoint` is where an evicted agent was.
    async fn goes_on(self, job: &Job<'_>, at: &str, (from, to): (u64, u64), checkpoint: &str) {
        match self {
            Self::Created => assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1), "{at}"),
            Self::BackOff => assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(2), "{at}"),
            Self::PodDeleted => {
                job.until("the second attempt", |s| s.attempt == Some(2) && s.phase == Some(Phase::Running)).await;
                job.counts().await;
            }
            Self::Evicted => {
                let status = job.phase(Phase::Succeeded).await;
                assert_eq!(status.attempt, Some(1), "the same attempt: {at}");
                let result = result(&status);
                assert_eq!(result["resumedFrom"].to_string(), checkpoint, "it went on where it was: {at}");
                assert!(result["count"].as_u64() > result["resumedFrom"].as_u64(), "{at}: {result}");
            }
            Self::Running | Self::Spawning | Self::Noticed => {
                job.until("phase Running", |s| s.phase == Some(Phase::Running)).await;
                job.counts_on(20).await;
                let log = job.log().await;
                stood_still(&ticks(&log), from, to);
                assert_eq!(job.status().await.attempt, Some(1), "{at}");
                if self == Self::Running {
                    stood_still(&ticks_of(&log, "child "), from, to);
                }
                if self != Self::Spawning {
                    assert_eq!(said(&log, "continued").len(), 1, "{at}");
                }
                assert_eq!(said(&log, "notice").len(), usize::from(self == Self::Noticed), "{at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stand_still() {
    let (test, _roles) = Test::with_operator().await;
    let limits =
        json!({ "timeouts": { "execution": "40s", "heartbeat": "5s" }, "retryPolicy": { "maximumAttempts": 1 } });
    // They count until they are ended: a pod that is slow to be paused must find its agent still at work.
    let jobs = MODES.map(|mode| test.apply(agent("count?every_ms=50").mode(mode).with(limits.clone())));
    let jobs = join_all(jobs).await;
    join_all(jobs.iter().map(async |job| {
        job.counts().await;
        pause(job).await;
    }))
    .await;
    always(Duration::from_secs(43), "no limit is over", async || {
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
        let before = job.counted().await;
        job.want(DesiredState::Running).await;
        let ticks = job.counts_to(before + 1).await;
        assert!(longest_gap(&ticks) > 42_000, "it was paused for longer than its limit");
        // What is left of the limit applies again.
        let status = job.phase(Phase::Failed).await;
        assert_eq!(status.attempt, Some(1));
        assert_eq!(error_type(&status), "ExecutionTimeout");
    }
}

/// A folder of the node that an agent may write to.
fn volume(test: &Test, name: &str) -> (PathBuf, Value) {
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
        join_all(toggles).await;
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
        let generation = job.get().await.metadata.generation;
        let paused = |s: &AgentJobStatus| s.phase == Some(Phase::Paused) && s.observed_generation == generation;
        job.until("the last pause", paused).await;
        // What was printed before may come to the log later.
        let mut before = 0;
        within(DEADLINE, "its log to be complete", async || {
            let last = std::mem::replace(&mut before, job.log().await.lines().count());
            if last == before { Ok(()) } else { Err((last, before)) }
        })
        .await;
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
        let job = test.apply(agent("count?every_ms=20").mode(mode).heartbeat("5s")).await;
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
        let paused = join_all(races).await;
        eprintln!("batch {batch}: {} paused of {}", paused.iter().filter(|p| **p).count(), paused.len());
    }
    assert_eq!(audit::created(&test.namespace).len(), 2 * EACH as usize);
}
