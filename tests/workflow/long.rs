//! Long histories: continue-as-new from every wait, with the same runner and no signal lost.

use koco::{
    api::*,
    protocol::{error_types, workflow::*},
    temporal::Closed,
};

use crate::fixture::Job;

/// How many signals a run may take before it has to end: it does so at 8,000 events at the latest.
const MANY: i64 = 9_000;

/// Pauses and resumes until the workflow has continued as new, ends with `last`, and returns how often.
async fn toggle_until_continued(job: &Job, name: &str, last: &'static str) -> i64 {
    let first = job.run_id().await;
    let before = job.status().await.generation;
    let (mut sent, mut signal) = (0, last);
    loop {
        signal = if signal == SIGNAL_PAUSE { SIGNAL_RESUME } else { SIGNAL_PAUSE };
        job.ask(signal).await;
        sent += 1;
        if signal == last && sent % 8 == 0 && job.run_id().await != first {
            break;
        }
        assert!(sent < MANY, "it never continued as new");
    }
    // Each one changed the state, so none was lost if and only if all were counted.
    assert_eq!(job.status().await.generation, before + sent);
    job.save(Some(&first), name).await;
    sent
}

#[tokio::test]
async fn a_running_agent_is_bound_anew_by_the_next_run() {
    let job = Job::long("continued while running", |i| i.retry_policy.maximum_attempts = 1, |_| {}).await;
    let old = job.run(1, 1).await;
    toggle_until_continued(&job, "continues while running", SIGNAL_RESUME).await;
    let (input, bound) = job.bound(2).await;
    assert_eq!((input.run, input.attempt), (1, 1));
    assert!(!job.is_current(&old).await);
    assert!(job.is_current(&bound).await && job.heartbeat(1).await);
    let status = job.status().await;
    job.seen("the last command", |r| r.controls.last().is_some_and(|c| c.generation == status.generation)).await;
    assert_eq!(job.record(|r| r.starts.len()), 1, "the agent is not started again");
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_job_that_is_held_goes_on_being_held() {
    let job = Job::long("continued while held", |_| {}, |_| {}).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.ask(SIGNAL_PAUSE).await;
    job.stage(Stage::Held).await;
    toggle_until_continued(&job, "continues while held", SIGNAL_PAUSE).await;
    assert!(job.stage(Stage::Held).await.is_paused);
    // Its runner, started by the first execution, signals the current one.
    job.signal(SIGNAL_RUNNER_READY, &RunnerReady { run: 1 }).await;
    job.ask(SIGNAL_RESUME).await;
    let (_, bound) = job.bound(1).await;
    assert_eq!(job.record(|r| r.starts.len()), 1);
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_runner_that_waits_for_its_grant_is_remembered() {
    let job = Job::long("continued at the grant", |_| {}, |_| {}).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    job.ask(SIGNAL_PAUSE).await;
    job.ready(1).await;
    let first = job.run_id().await;
    for sent in 0.. {
        // Toggling would let it start. Signals that change nothing fill a history, too.
        job.ask(SIGNAL_PAUSE).await;
        if sent % 8 == 0 && job.run_id().await != first {
            break;
        }
        assert!(sent < MANY, "it never continued as new");
    }
    job.save(Some(&first), "continues at the grant").await;
    job.ask(SIGNAL_RESUME).await;
    let (_, bound) = job.bound(1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_pod_that_is_being_made_is_made_once() {
    let job = Job::long("continued while starting", |_| {}, |r| r.stuck = true).await;
    job.seen("start_runner", |r| !r.starts.is_empty()).await;
    toggle_until_continued(&job, "continues while starting", SIGNAL_RESUME).await;
    job.seen("start_runner, again", |r| r.starts.len() >= 2).await;
    assert!(job.record(|r| r.starts.iter().all(|s| s.run == 1)), "the same run");
    assert_eq!(job.record(|r| r.local), 1, "the next execution asks the server at once");
    job.record(|r| r.stuck = false);
    let bound = job.run(1, 1).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn an_evicted_agent_stays_evicted() {
    let job = Job::long("continued while evicted", |i| i.pause_policy = PausePolicy::Evict, |_| {}).await;
    let bound = job.run(1, 1).await;
    job.ask(SIGNAL_PAUSE).await;
    job.deliver(&bound, TerminationType::Evicted, None).await;
    job.stage(Stage::Evicted).await;
    let first = job.run_id().await;
    for sent in 0.. {
        job.ask(SIGNAL_PAUSE).await;
        if sent % 8 == 0 && job.run_id().await != first {
            break;
        }
        assert!(sent < MANY, "it never continued as new");
    }
    assert!(job.stage(Stage::Evicted).await.is_paused);
    job.ask(SIGNAL_RESUME).await;
    let bound = job.run(2, 2).await;
    assert_eq!(job.record(|r| (r.binds[1].0.attempt, r.starts[1].resumed)), (1, true));
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

#[tokio::test]
async fn a_back_off_is_waited_out_by_the_next_run() {
    let long = |i: &mut Input| {
        i.retry_policy.initial_interval = crate::fixture::seconds("1h");
        i.retry_policy.maximum_interval = crate::fixture::seconds("1h");
    };
    let job = Job::long("continued in back-off", long, |_| {}).await;
    let bound = job.run(1, 1).await;
    job.fail(&bound, error_types::AGENT_FAILED).await;
    job.stage(Stage::Retrying).await;
    toggle_until_continued(&job, "continues in back-off", SIGNAL_RESUME).await;
    let status = job.stage(Stage::Retrying).await;
    assert_eq!((status.attempt, status.run), (1, 1));
    job.ask(SIGNAL_CANCEL).await;
    assert_eq!(job.closed().await, Closed::Cancelled);
}

#[tokio::test]
async fn a_thousand_toggles_end_in_the_last_state() {
    let job = Job::long("a thousand toggles", |_| {}, |_| {}).await;
    job.run(1, 1).await;
    let since = std::time::Instant::now();
    for _ in 0..500 {
        job.ask(SIGNAL_PAUSE).await;
        job.ask(SIGNAL_RESUME).await;
    }
    job.ask(SIGNAL_PAUSE).await;
    job.seen("the last command", |r| r.controls.last().is_some_and(|c| c.generation == 1001)).await;
    let confirmed = RunnerConfirmed { run: 1, generation: 1001, state: RunnerState::Frozen };
    job.signal(SIGNAL_RUNNER_CONFIRMED, &confirmed).await;
    let status = job.status().await;
    assert_eq!((status.desired, status.generation, status.is_paused), (DesiredState::Paused, 1001, true));
    let (controls, binds) = job.record(|r| (r.controls.len(), r.binds.len()));
    println!("1,001 toggles in {:?}: {controls} commands, {binds} runs", since.elapsed());
    assert_eq!(job.record(|r| r.starts.len()), 1);
    assert!(
        job.record(|r| r.controls.windows(2).all(|w| w[0].generation < w[1].generation)),
        "never an older command again"
    );
    // A retry of the last run's binding, or the first's.
    let (_, bound) = job.bound(binds).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}

/// One job, each pause and each resume carried out and confirmed before the next. How many pauses: KOCO_PAUSES.
#[tokio::test]
#[ignore = "takes 25 minutes: make pause-endurance"]
async fn a_job_that_is_paused_and_resumed_all_the_time() {
    let pauses: i64 = std::env::var("KOCO_PAUSES").map_or(20_000, |n| n.parse().unwrap());
    let job = Job::long("paused and resumed all the time", |_| {}, |_| {}).await;
    job.run(1, 1).await;
    let since = std::time::Instant::now();
    let (mut run, mut runs, mut longest) = (job.run_id().await, 1, 0);
    for round in 0..pauses {
        for (signal, state, generation) in
            [(SIGNAL_PAUSE, RunnerState::Frozen, 2 * round + 1), (SIGNAL_RESUME, RunnerState::Running, 2 * round + 2)]
        {
            job.ask(signal).await;
            job.seen("the command", |r| r.controls.last().is_some_and(|c| c.generation == generation)).await;
            job.signal(SIGNAL_RUNNER_CONFIRMED, &RunnerConfirmed { run: 1, generation, state }).await;
        }
        let now = job.run_id().await;
        if now != run {
            longest = longest.max(job.events(&run).await);
            (run, runs) = (now, runs + 1);
        }
        if round % 500 == 499 {
            let status = job.status().await;
            assert_eq!((status.generation, status.is_paused), (2 * round + 2, false), "no signal is lost");
            println!("{} pauses in {:?}: {runs} runs, the longest of {longest} events", round + 1, since.elapsed());
        }
    }
    longest = longest.max(job.events(&run).await);
    assert!(longest < 51_200 / 2, "far under the limit of a history");
    assert_eq!(job.record(|r| r.starts.len()), 1, "the agent was started once");
    let controls = job.record(|r| r.controls.iter().map(|c| c.generation).collect::<Vec<_>>());
    assert!(controls.is_sorted(), "never an older command again");
    println!("{pauses} pauses and resumes in {:?}: {runs} runs, the longest of {longest} events", since.elapsed());
    let (_, bound) = job.bound(job.record(|r| r.binds.len())).await;
    job.succeed(&bound).await;
    assert_eq!(job.closed().await, Closed::Completed);
}
